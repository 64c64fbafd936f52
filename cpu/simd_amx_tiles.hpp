/// \file
/// \brief The matrix tiles of AMX: one product of bfloat16 matrices, summed in float32.
///
/// One instruction multiplies a tile of 16 x 32 bfloat16 by one of 32 x 16 and adds the products to
/// a tile of 16 x 16 floats, in 16 cycles: 16 times the multiply-adds of AVX-512. The second
/// operand comes in pairs: row k of its tile holds, for each column, the elements 2k and 2k + 1.
///
/// A float16 has 11 significant bits and is exactly the sum of two bfloat16, of 8 and 3 bits. An
/// operand may therefore have two planes: its numbers rounded to bfloat16, and what that leaves.
/// The product is then the sum of three or four products: still four times the multiply-adds of
/// AVX-512.
#pragma once

#include "simd_kernel.hpp"

#include <immintrin.h>

namespace attn::ATTN_ISA {
namespace {

using Half = std::uint16_t;  // the bits of a bfloat16, or of a float16 where it says so

constexpr int side = 16;            // rows of a tile register; dwords in each
constexpr int depth = 2 * side;     // bfloat16 in a row: the depth of one multiplication
constexpr int tile_bytes_row = 64;  // bytes of a row

/// \brief Up to a multiple of the depth; what is added holds zeros.
constexpr Index deep(Index n) { return (n + depth - 1) / depth * depth; }
/// \brief Up to a multiple of the rows of a tile.
constexpr Index tall(Index n) { return (n + side - 1) / side * side; }

/// \brief Gives the tile registers their shape while it lives: all 8 are 16 rows of 64 bytes.
class Tiles {
  public:
    Tiles() {
        struct alignas(64) Config {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } config;
        for (int t = 0; t < 8; ++t) config.row_bytes[t] = tile_bytes_row, config.rows[t] = side;
        // g++ 12 believes that the next line reads 8 bytes, and may leave the others unwritten.
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    ~Tiles() { _tile_release(); }
};

/// \brief One or two planes of bfloat16 whose sum is the matrix.
struct Planes {
    const Half* data;
    Index apart;  ///< halves from one plane to the next
    Index row;    ///< bytes from one row to the next
    Planes at(Index halves) const { return {data + halves, apart, row}; }
};

/// \brief Which products of two operands' planes are summed.
enum class Products {
    one,    ///< one plane each
    three,  ///< all but that of the two rests, at most 2^-8 of the size of each operand
    four,   ///< all
};

/// \brief c += a b for 16 x Rows rows and 16 x Columns columns, Rows and Columns 1 or 2. The
///        order of the products lets 8 or 10 loads of tiles serve 12 or 16 multiplications.
/// \param a  (planes, 16 * Rows, depth * steps)
/// \param b  (planes, steps * 16 pairs, columns, 2)
/// \param c  (16 * Rows, 16 * Columns), rows `c_row` bytes apart
/// \param accumulate  false: c is set, not added to
template <Products products, int Rows, int Columns>
[[gnu::always_inline]] inline void multiply_tiles(Planes a, Planes b, Index steps, float* c,
                                                  Index c_row, bool accumulate) {
    float* const c_below = c + side * c_row / 4;
    if (accumulate) {
        _tile_loadd(0, c, c_row);
        if (Columns > 1) _tile_loadd(1, c + side, c_row);
        if (Rows > 1) _tile_loadd(2, c_below, c_row);
        if (Rows > 1 && Columns > 1) _tile_loadd(3, c_below + side, c_row);
    } else {
        _tile_zero(0);
        if (Columns > 1) _tile_zero(1);
        if (Rows > 1) _tile_zero(2);
        if (Rows > 1 && Columns > 1) _tile_zero(3);
    }
    const auto load_b = [&](const Half* at) {
        _tile_loadd(6, at, b.row);
        if (Columns > 1) _tile_loadd(7, at + depth, b.row);
    };
    const auto multiply_add = [] {
        _tile_dpbf16ps(0, 4, 6);
        if (Columns > 1) _tile_dpbf16ps(1, 4, 7);
        if (Rows > 1) _tile_dpbf16ps(2, 5, 6);
        if (Rows > 1 && Columns > 1) _tile_dpbf16ps(3, 5, 7);
    };
    const auto load_a = [&](const Half* at) {
        _tile_loadd(4, at, a.row);
        if (Rows > 1) _tile_loadd(5, at + side * a.row / 2, a.row);
    };
    for (Index k = 0; k < steps; ++k) {
        const Half* const a_step = a.data + k * depth;
        const Half* const b_step = b.data + k * side * b.row / 2;
        load_b(b_step);
        if (products != Products::one) load_a(a_step + a.apart), multiply_add();
        load_a(a_step), multiply_add();
        if (products != Products::one) load_b(b_step + b.apart), multiply_add();
        if (products == Products::four) load_a(a_step + a.apart), multiply_add();
    }
    _tile_stored(0, c, c_row);
    if (Columns > 1) _tile_stored(1, c + side, c_row);
    if (Rows > 1) _tile_stored(2, c_below, c_row);
    if (Rows > 1 && Columns > 1) _tile_stored(3, c_below + side, c_row);
}

/// \brief The whole product: `rows` and `lanes` are multiples of 16; c is (rows, lanes).
template <Products products>
void multiply(Planes a, Index rows, Planes b, Index lanes, Index steps, float* c, bool accumulate) {
    const Index c_row = lanes * 4;  // bytes
    for (Index r = 0; r < rows; r += 2 * side)
        for (Index n = 0; n < lanes; n += 2 * side) {
            const Planes a_at = a.at(r * a.row / 2), b_at = b.at(2 * n);
            float* const c_at = c + r * lanes + n;
            const bool two_rows = r + side < rows, two_columns = n + side < lanes;
            if (two_rows && two_columns)
                multiply_tiles<products, 2, 2>(a_at, b_at, steps, c_at, c_row, accumulate);
            else if (two_rows)
                multiply_tiles<products, 2, 1>(a_at, b_at, steps, c_at, c_row, accumulate);
            else if (two_columns)
                multiply_tiles<products, 1, 2>(a_at, b_at, steps, c_at, c_row, accumulate);
            else
                multiply_tiles<products, 1, 1>(a_at, b_at, steps, c_at, c_row, accumulate);
        }
}

}  // namespace
}  // namespace attn::ATTN_ISA
