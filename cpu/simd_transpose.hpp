/// \file
/// \brief Transposing between rows in memory and registers of queries: the price of one query in
///        each lane, paid once per task for the queries and once for the outputs.
#pragma once

#include "simd_lanes.hpp"

#include <utility>

namespace attn::ATTN_ISA {
namespace {

/// \brief A register as the compiler's own vector type, which shuffles alike on every instruction
/// set.
using Floats = float __attribute__((vector_size(sizeof(float) * width)));

/// \brief Four floats from each of the rows 0, 4, 8 and 12, as far as a register holds them.
/// Loads that insert: they do not need the one port that shuffles.
/// \param row  row(r): where row r begins
template <class RowAt>
[[gnu::always_inline]] inline Floats fours_of(RowAt row) {
#if defined(__AVX512DQ__)
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(row(0)));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(row(4)), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(row(8)), 2);
    return (Floats)_mm512_insertf32x4(x, _mm_loadu_ps(row(12)), 3);
#elif defined(__AVX2__)
    return (Floats)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(0))),
                                        _mm_loadu_ps(row(4)), 1);
#else
    return *reinterpret_cast<const Four*>(row(0));
#endif
}

/// \brief In every four lanes: elements first, first + 1 of a and of b, `Step` of each in turn.
template <int Step, int first, int... Lane>
[[gnu::always_inline]] inline Floats zip(Floats a, Floats b, std::integer_sequence<int, Lane...>) {
    // Lane n of four: Step 1 takes a b a b, Step 2 takes a a b b.
    return __builtin_shufflevector(
        a, b,
        (Lane / 4 * 4 + first +
         (Step == 1 ? Lane % 4 / 2 + Lane % 2 * width : Lane % 2 + Lane % 4 / 2 * width))...);
}

/// \brief Transposes `width` rows of four: put(c, x), where lane r of x is row(r)[c]. The rows may
///        lie anywhere. Nothing is computed, so an element may be any 32 bits.
template <class RowAt, class Put>
[[gnu::always_inline]] inline void transpose_fours(RowAt row, Put put) {
    constexpr std::make_integer_sequence<int, width> lanes;
    const auto rows_from = [&](Index first) {
        return fours_of([&](Index r) { return row(first + r); });
    };
    const Floats a = rows_from(0), b = rows_from(1), c = rows_from(2), d = rows_from(3);
    const Floats ab_low = zip<1, 0>(a, b, lanes), ab_high = zip<1, 2>(a, b, lanes);
    const Floats cd_low = zip<1, 0>(c, d, lanes), cd_high = zip<1, 2>(c, d, lanes);
    const auto lanes_in = [](Floats x) { return Lanes((Lanes::register_type)x); };
    put(0, lanes_in(zip<2, 0>(ab_low, cd_low, lanes)));
    put(1, lanes_in(zip<2, 2>(ab_low, cd_low, lanes)));
    put(2, lanes_in(zip<2, 0>(ab_high, cd_high, lanes)));
    put(3, lanes_in(zip<2, 2>(ab_high, cd_high, lanes)));
}

/// \brief to[c][r] = row(r)[c].
template <class RowAt>
[[gnu::always_inline]] inline void transpose_fours(RowAt row, float* to, Index to_row) {
    transpose_fours(row, [&](Index c, Lanes x) { x.store_unaligned(to + c * to_row); });
}

}  // namespace
}  // namespace attn::ATTN_ISA
