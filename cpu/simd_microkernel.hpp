/// \file
/// \brief The register tile of the tier `simd`: both matrix products are this one loop.
///
/// With one query in each lane, scores^T = K Q^T and out^T = V^T weights^T have the same form:
///
///     c[r][lane] += sum_k  a(r, k) * b[k][lane]
///
///     product   r (rows)     k (depth)    a            b
///     scores    keys         E            key tile     transposed queries  (E, lanes)
///     output    Ev           keys         value tile   weights             (keys, lanes)
///
/// An element of a is loaded once and multiplied with `Vectors` registers of queries; a register of
/// b is used for `Rows` rows. No element of a key or value is ever rearranged or shuffled.
#pragma once

#include "simd_lanes.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Most vectors of queries in one panel, and rows of the register tile for `vectors` of
/// them.
///
/// Registers bound the tile: rows * vectors accumulators + vectors of b + 1 broadcast of a. Two
/// FMAs start per cycle and take 4 cycles, so at least 8 accumulators must be in flight; and loads
/// (rows + vectors per step) must not outnumber FMAs (rows * vectors).
#if defined(__AVX512F__)  // 32 registers
constexpr int panel_vectors = 4;
constexpr int tile_rows(int vectors) {
    return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 16;
}
#elif defined(__AVX2__)  // 16 registers
constexpr int panel_vectors = 2;
constexpr int tile_rows(int vectors) { return vectors == 2 ? 6 : 12; }
#else                    // 16 registers, no FMA: the product needs one more
constexpr int panel_vectors = 4;
constexpr int tile_rows(int vectors) {
    return vectors == 4 ? 2 : vectors == 3 ? 3 : vectors == 2 ? 4 : 8;
}
#endif

/// \brief Queries of one panel: 64 with AVX-512, 16 with AVX2 and SSE2.
constexpr int panel_lanes = panel_vectors * width;

/// \brief Which index of `a` moves by one element in memory: its rows or its depth.
enum class Unit { row, depth };

//! [microkernel]
/// \param a      a(r, k) at a[r * stride + k] (Unit::depth) or a[r + k * stride] (Unit::row)
/// \param b      (depth, Vectors * width), aligned
/// \param fetch  fetch(k), every 4 steps: prefetches a few lines. More at once would keep the
///               loads of this loop waiting.
/// \tparam From  the first vector of queries that takes part
template <Unit unit, int From = 0, int Count, int Vectors, class Fetch>
[[gnu::always_inline]] inline void multiply_add(const float* a, Index stride, const float* b,
                                                Index depth, Lanes (&c)[Count][Vectors],
                                                Fetch fetch) {
#pragma GCC unroll 4
    for (Index k = 0; k < depth; ++k) {
        if (k % 4 == 0) fetch(k);
        Lanes queries[Vectors];
#pragma GCC unroll 8
        for (int n = From; n < Vectors; ++n) queries[n] = load(b + n * width);
#pragma GCC unroll 16
        for (int r = 0; r < Count; ++r) {
            const Lanes element(unit == Unit::depth ? a[r * stride] : a[r]);
#pragma GCC unroll 8
            for (int n = From; n < Vectors; ++n) c[r][n] = fma(element, queries[n], c[r][n]);
        }
        a += unit == Unit::depth ? 1 : stride;
        b += Vectors * width;
    }
}
//! [microkernel]

/// \brief A number of rows, known when compiling.
template <int N>
using Rows = std::integral_constant<int, N>;

/// \brief Calls f(Rows<count>): a number that is known when running becomes one known when
///        compiling. Below Least it counts as Least, above Most as Most.
template <int Least, int Most, class F>
[[gnu::always_inline]] inline void with_count(Index count, F&& f) {
    if constexpr (Least < Most)
        if (count > Least) return with_count<Least + 1, Most>(count, f);
    f(Rows<Least>{});
}

/// \brief Calls f(Rows<n>, first) for register tiles that cover `count` rows: as many full ones as
///        fit, then smaller ones, so that nothing beyond the last row is touched.
template <int Full, class F>
[[gnu::always_inline]] inline void for_register_tiles(Index count, F&& f) {
    Index first = 0;
    for (; first + Full <= count; first += Full) f(Rows<Full>{}, first);
    if constexpr (Full > 8)
        if (first + 8 <= count) f(Rows<8>{}, first), first += 8;
    if constexpr (Full > 4)
        if (first + 4 <= count) f(Rows<4>{}, first), first += 4;
    if constexpr (Full > 2)
        if (first + 2 <= count) f(Rows<2>{}, first), first += 2;
    if (first < count) f(Rows<1>{}, first);
}

/// \brief Calls f(row, vector, register) for every accumulator; the loops vanish when compiled.
template <class Register, int Count, int Vectors, class F>
[[gnu::always_inline]] inline void for_each_register(Register (&c)[Count][Vectors], F&& f) {
#pragma GCC unroll 16
    for (int r = 0; r < Count; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < Vectors; ++n) f(r, n, c[r][n]);
}

}  // namespace
}  // namespace attn::ATTN_ISA
