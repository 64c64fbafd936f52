/// \file
/// \brief The 8-bit dot product of each instruction set, and the register tile that is built on it.
///
/// A lane is 32 bits: four 8-bit numbers where vpdpbusd adds four products to a 32-bit sum in one
/// instruction (AVX-VNNI, AVX512-VNNI), or two 16-bit numbers elsewhere, where vpmaddwd adds two.
/// (vpmaddubsw multiplies 8-bit numbers everywhere, but saturates: 2 * 255 * 127 > 32767.) Both
/// forms are exact, so the sums are the same integers on every machine. The matrix tiles of AMX
/// (int8_amx.hpp) take lanes of four numbers.
#pragma once

#include "simd_microkernel.hpp"
#include "simd_scratch.hpp"

#include <cstdint>

namespace attn::ATTN_ISA {
namespace {

#if defined(__AMX_INT8__)
constexpr bool matrix_tiles = true;
#else
constexpr bool matrix_tiles = false;
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int dot_depth = 4;  ///< numbers in a lane
/// vpdpbusd multiplies unsigned by signed numbers: quantized queries are stored plus 128. Matrix
/// tiles know signed by signed numbers as well.
constexpr int query_offset = matrix_tiles ? 0 : 128;
using DotElement = std::int8_t;
#else
constexpr int dot_depth = 2;
constexpr int query_offset = 0;
using DotElement = std::int16_t;
#endif

/// \brief Lanes that hold `count` numbers; whole rows of 16 for matrix tiles.
[[gnu::always_inline]] inline Index words(Index count) {
    const Index least = (count + dot_depth - 1) / dot_depth;
    return matrix_tiles ? lines(least) : least;
}

/// \brief `dot` in plain integers: for processors with none of its instructions, and what the tests
///        hold them against.
[[gnu::always_inline]] inline Bits portable_dot(Bits a, Bits b, Bits sum) {
    constexpr int bits = 32 / dot_depth;
#pragma GCC unroll 4
    for (int d = 0; d < dot_depth; ++d) {
        const int above = 32 - bits * (d + 1);  // bits of the lane beyond number d
        const Bits sign_kept = a << above >> (32 - bits);
        const Bits number = dot_depth == 4 ? sign_kept & 0xff : sign_kept;
        sum += number * (b << above >> (32 - bits));
    }
    return sum;
}

//! [dot]
/// \brief sum + a . b in every lane. Numbers of b are -127 .. 127; those of a 0 .. 255, or -127 ..
///        255 where the queries have no offset.
[[gnu::always_inline]] inline Bits dot(Bits a, Bits b, Bits sum) {
#if defined(__AVX512VNNI__)
    return (Bits)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
    return (Bits)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#elif defined(__AVX512BW__)
    return sum + (Bits)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (Bits)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return sum + (Bits)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return portable_dot(a, b, sum);
#endif
}
//! [dot]

/// \brief The numbers of `dot_depth` registers, side by side in their lanes.
[[gnu::always_inline]] inline Bits pack(const Bits (&q)[dot_depth]) {
    if constexpr (dot_depth == 4)
        return (q[0] & 0xff) | (q[1] & 0xff) << 8 | (q[2] & 0xff) << 16 | q[3] << 24;
    else
        return (q[0] & 0xffff) | q[1] << 16;
}

/// \brief The same for numbers that are not negative.
[[gnu::always_inline]] inline Bits pack_weights(const Bits (&q)[dot_depth]) {
    if constexpr (dot_depth == 4)
        return (q[0] | q[1] << 8) | (q[2] | q[3] << 8) << 16;
    else
        return q[0] | q[1] << 16;
}

/// \brief The nearest integers, ties to even.
[[gnu::always_inline]] inline Bits round_to_ints(Lanes x) {
#if defined(__AVX512F__)
    return (Bits)_mm512_cvtps_epi32(x);
#elif defined(__AVX2__)
    return (Bits)_mm256_cvtps_epi32(x);
#elif defined(__SSE2__)
    return (Bits)_mm_cvtps_epi32(x);
#else
    alignas(64) float lane[width];
    store(lane, x);
    Bits rounded;
    for (int n = 0; n < width; ++n) rounded[n] = static_cast<int>(__builtin_nearbyintf(lane[n]));
    return rounded;
#endif
}

[[gnu::always_inline]] inline Lanes to_floats(Bits x) {
    typedef float Floats __attribute__((vector_size(sizeof(float) * width)));
    return Lanes((Lanes::register_type) __builtin_convertvector(x, Floats));
}

using Word = std::int32_t __attribute__((may_alias));
using BitsInMemory = Bits __attribute__((may_alias));
using UnalignedBits = Bits __attribute__((may_alias, aligned(4)));

[[gnu::always_inline]] inline Bits load_words(const void* from) {
    return *static_cast<const BitsInMemory*>(from);
}
[[gnu::always_inline]] inline void store_words(void* to, Bits x) {
    *static_cast<BitsInMemory*>(to) = x;
}

/// \brief c[r][lane] += sum_k a(r, k) . b[k][lane]: `multiply_add` of the tier `simd`, with a word
///        of `dot_depth` numbers for each of its floats.
/// \param a  words: a(r, k) at a[r * stride + k] (Unit::depth) or a[r + k * stride] (Unit::row)
/// \param b  words, (depth, Vectors * width), aligned
template <Unit unit, int Count, int Vectors>
[[gnu::always_inline]] inline void multiply_words(const Word* a, Index stride, const Word* b,
                                                  Index depth, Bits (&c)[Count][Vectors]) {
    for (Index k = 0; k < depth; ++k) {
        Bits lanes[Vectors];
#pragma GCC unroll 8
        for (int n = 0; n < Vectors; ++n) lanes[n] = load_words(b + n * width);
#pragma GCC unroll 16
        for (int r = 0; r < Count; ++r) {
            const Bits word = Bits{} + (unit == Unit::depth ? a[r * stride] : a[r]);
#pragma GCC unroll 8
            for (int n = 0; n < Vectors; ++n) c[r][n] = dot(lanes[n], word, c[r][n]);
        }
        a += unit == Unit::depth ? 1 : stride;
        b += Vectors * width;
    }
}

}  // namespace
}  // namespace attn::ATTN_ISA
