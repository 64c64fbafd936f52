/// \file
/// \brief The two integer products of one panel of queries, on the matrix tiles of AMX.
///
/// One instruction multiplies 16 rows of 64 8-bit numbers by 16 rows of 16 words and adds to 16 x 16
/// sums of 32 bits, in 16 cycles: eight times the products of vpdpbusd. Words are those of
/// int8_dot.hpp, so queries and weights lie as they do for registers:
///
///     product   first operand (16 rows of 16 words)   second operand (16 words x 16 columns)
///     scores^T  16 keys                               queries, (words of E, lanes)
///     output^T  16 channels of V, transposed once     weights, (words of keys, lanes)
///               when they became integers
#pragma once

#include "int8_softmax.hpp"
#include "simd_amx_tiles.hpp"

namespace attn::ATTN_ISA {
namespace {

static_assert(panel_lanes == simd_tile_rows && int8_block == 4 * 16, "one panel, one row of values");

/// \brief What the products need while a task runs: the tile registers.
using ProductUnit = Tiles;

//! [multiply tiles]
/// \brief c = a b for 16 rows and Vectors * 16 columns.
/// \tparam weights  b holds 0 .. 255, else -127 .. 127; a always the latter
/// \param a  words, 16 rows `a_row` apart, 16 * steps words each
/// \param b  words, (16 * steps, lanes)
/// \param c  sums, (16, lanes)
template <bool weights, int Vectors>
[[gnu::always_inline]] inline void multiply_16_rows(const Word* a, Index a_row, const Word* b,
                                                    Index steps, Word* c) {
    constexpr Index row = Vectors * tile_bytes_row;
    _tile_zero(0);
    if (Vectors > 1) _tile_zero(1);
    if (Vectors > 2) _tile_zero(2);
    if (Vectors > 3) _tile_zero(3);
    const auto multiply_add = [] {
        if (weights) {
            _tile_dpbsud(0, 4, 5);
            if (Vectors > 1) _tile_dpbsud(1, 4, 6);
        } else {
            _tile_dpbssd(0, 4, 5);
            if (Vectors > 1) _tile_dpbssd(1, 4, 6);
        }
    };
    const auto multiply_add_more = [] {
        if (weights) {
            _tile_dpbsud(2, 4, 7);
            if (Vectors > 3) _tile_dpbsud(3, 4, 5);
        } else {
            _tile_dpbssd(2, 4, 7);
            if (Vectors > 3) _tile_dpbssd(3, 4, 5);
        }
    };
    for (Index k = 0; k < steps; ++k, a += side, b += side * Vectors * side) {
        _tile_loadd(4, a, a_row * 4);
        _tile_loadd(5, b, row);
        if (Vectors > 1) _tile_loadd(6, b + side, row);
        multiply_add();
        if (Vectors > 2) {
            _tile_loadd(7, b + 2 * side, row);
            if (Vectors > 3) _tile_loadd(5, b + 3 * side, row);
            multiply_add_more();
        }
    }
    _tile_stored(0, c, row);
    if (Vectors > 1) _tile_stored(1, c + side, row);
    if (Vectors > 2) _tile_stored(2, c + 2 * side, row);
    if (Vectors > 3) _tile_stored(3, c + 3 * side, row);
}
//! [multiply tiles]

/// \brief Calls multiply(first row) and then take(first row, end) for every 16 of `rows` rows. The
///        products of the next 16 begin before those of the last are taken, which the core then
///        does side by side.
template <class Multiply, class Take>
[[gnu::always_inline]] inline void for_16_rows(Index rows, Multiply multiply, Take take) {
    asm volatile("" : : : "memory");  // g++ 12 does not know that tiles are loaded from memory
    if (rows > 0) multiply(Index{0});
    for (Index first = 0; first < rows; first += side) {
        const Index next = first + side;
        if (next < rows) multiply(next);
        take(first, next < rows ? next : rows);
    }
}

/// \brief scores^T = K Q^T in integers, then in floats.
/// \param query  (key_words, lanes) words
template <int Vectors>
void score_integers(const Word* query, const QuantizedKeys& tile, PanelScores<Vectors>& scores) {
    constexpr Index lanes = Vectors * width;
    for_16_rows(
        tile.keys,
        [&](Index first) {  // the sums lie where their scores will
            multiply_16_rows<false, Vectors>(
                tile.key + first * tile.key_words, tile.key_words, query, tile.key_words / side,
                reinterpret_cast<Word*>(scores.score + first * lanes));
        },
        [&](Index first, Index end) {
            for (Index key = first; key < end; ++key)
#pragma GCC unroll 4
                for (int n = 0; n < Vectors; ++n)
                    take_score(tile, key, n, load_words(scores.score + key * lanes + n * width),
                               scores);
        });
}

/// \brief out^T = out^T * shrink + V^T weights^T * (step of the channel * factor of the block).
/// \param weight  (words, lanes)
/// \param memory  working memory, (64, lanes)
template <int Vectors>
void sum_integers(const QuantizedValues& values, Index Ev, const Word* weight, float* memory,
                  const BlockFactors<Vectors>& factors, float* out) {
    constexpr Index lanes = Vectors * width;
    const auto sums_of = [&](Index channel) {  // by turns, so that 32 channels are on their way
        return reinterpret_cast<Word*>(memory + channel % (2 * side) * lanes);
    };
    for_16_rows(
        Ev,
        [&](Index first) {
            multiply_16_rows<true, Vectors>(values.value + first * side, side, weight, 1,
                                            sums_of(first));
        },
        [&](Index first, Index end) {
            for (Index e = first; e < end; ++e)
#pragma GCC unroll 4
                for (int n = 0; n < Vectors; ++n)
                    join_sum(load_words(sums_of(e) + n * width), values.scale[e], factors, n,
                             out + e * lanes);
        });
}

}  // namespace
}  // namespace attn::ATTN_ISA
