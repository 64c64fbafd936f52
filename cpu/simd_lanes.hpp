/// \file
/// \brief The vector type of the tier `simd`: one query in each lane, and the few operations the
///        kernels need, over xsimd.
///
/// This header is compiled once per instruction set, into the namespace of that set (`ATTN_ISA`).
/// All is in an unnamed namespace: a copy compiled for AVX-512 must never be the one the linker
/// keeps for an older machine.
#pragma once

#include <attn/tensor.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <xsimd/xsimd.hpp>

namespace attn::ATTN_ISA {
namespace {

/// \brief One float for each of `width` queries. 4 lanes with SSE2 and NEON, 8 with AVX2, 16 with
///        AVX-512: the widest that this copy's compiler flags allow.
using Lanes = xsimd::batch<float>;
constexpr int width = static_cast<int>(Lanes::size);

/// \brief The same register seen as integers, through the compiler's own vector type: shifts and
///        bit masks are written alike for every instruction set.
using Bits = std::int32_t __attribute__((vector_size(sizeof(float) * width)));

[[gnu::always_inline]] inline Bits bits_of(Lanes x) {
    return (Bits) static_cast<Lanes::register_type>(x);
}
[[gnu::always_inline]] inline Lanes lanes_of(Bits b) { return Lanes((Lanes::register_type)b); }

/// \brief Aligned to the register's size: all working memory of the kernels is.
[[gnu::always_inline]] inline Lanes load(const float* from) { return Lanes::load_aligned(from); }
[[gnu::always_inline]] inline void store(float* to, Lanes x) { x.store_aligned(to); }

/// \brief a * b + c. xsimd 8.1 has no fused form for AVX-512 and leaves the fusion to the compiler.
[[gnu::always_inline]] inline Lanes fma(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return Lanes(_mm512_fmadd_ps(a, b, c));
#else
    return xsimd::fma(a, b, c);
#endif
}

/// \brief The larger of two, lane by lane. What it gives for NaN differs between releases of xsimd;
///        the kernels do not rely on it: a NaN score reaches its row's sum through its weight.
[[gnu::always_inline]] inline Lanes larger(Lanes a, Lanes b) { return xsimd::max(a, b); }

/// \brief Lane n of x where bit n of `mask` is set, lane n of `otherwise` elsewhere.
[[gnu::always_inline]] inline Lanes select(std::uint64_t mask, Lanes x, Lanes otherwise) {
#if defined(__AVX512F__)
    return Lanes(_mm512_mask_blend_ps(static_cast<__mmask16>(mask), otherwise, x));
#else
    Bits lane_bit;
    for (int n = 0; n < width; ++n) lane_bit[n] = 1 << n;
    const Bits chosen = ((static_cast<std::int32_t>(mask) + Bits{}) & lane_bit) != 0;  // 0 or -1
    return lanes_of((bits_of(x) & chosen) | (bits_of(otherwise) & ~chosen));
#endif
}

/// \brief Transposes a 4 x 4 block whose rows may lie anywhere: to[r][c] = from[c][r].
[[gnu::always_inline]] inline void transpose_4x4(const float* const (&from)[4], Index offset,
                                                 float* to, Index to_row) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    const Four a = *reinterpret_cast<const Four*>(from[0] + offset);
    const Four b = *reinterpret_cast<const Four*>(from[1] + offset);
    const Four c = *reinterpret_cast<const Four*>(from[2] + offset);
    const Four d = *reinterpret_cast<const Four*>(from[3] + offset);
    const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *reinterpret_cast<Four*>(to) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    *reinterpret_cast<Four*>(to + to_row) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    *reinterpret_cast<Four*>(to + 2 * to_row) =
        __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    *reinterpret_cast<Four*>(to + 3 * to_row) =
        __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

/// \brief The same for four rows `from_row` apart.
[[gnu::always_inline]] inline void transpose_4x4(const float* from, Index from_row, float* to,
                                                 Index to_row) {
    const float* const rows[4] = {from, from + from_row, from + 2 * from_row, from + 3 * from_row};
    transpose_4x4(rows, 0, to, to_row);
}

}  // namespace
}  // namespace attn::ATTN_ISA
