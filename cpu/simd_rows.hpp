/// \file
/// \brief Reading and writing rows of any dtype and stride: everything becomes contiguous float32
///        on the way in, and is rounded once on the way out.
#pragma once

#include "simd_lanes.hpp"

#include <attn/dtype.hpp>

#include <cstring>

namespace attn::ATTN_ISA {
namespace {

/// \brief 16 bits in memory to a float: for the elements that do not fill a register.
/// `flatten` inlines the conversion, so that this copy shares no function with the others.
template <class Half>
[[gnu::always_inline, gnu::flatten]] inline float widen(std::uint16_t bits) {
    Half half;
    half.bits = bits;
    return static_cast<float>(half);
}
template <class Half>
[[gnu::always_inline, gnu::flatten]] inline std::uint16_t narrow(float value) {
    return Half(value).bits;
}

/// \brief `width` float16 to floats. Subnormal halves are kept, although denormal floats are not.
[[gnu::always_inline]] inline Lanes widen_float16(const std::uint16_t* from) {
#if defined(__AVX512F__)
    return Lanes(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    return Lanes(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    Bits half;
    for (int n = 0; n < width; ++n) half[n] = from[n];
    const Bits magnitude = half & 0x7fff;
    // The exponent's bias grows from 15 to 127; for infinity and NaN, from 31 to 255.
    const Bits normal = (magnitude << 13) + (112 << 23) + ((magnitude >= 0x7c00) & (112 << 23));
    typedef float Floats __attribute__((vector_size(sizeof(float) * width)));
    const Bits subnormal = (Bits)(__builtin_convertvector(magnitude, Floats) * 0x1p-24f);
    const Bits is_subnormal = magnitude < 0x400;
    return lanes_of(((half & 0x8000) << 16) | (subnormal & is_subnormal) |
                    (normal & ~is_subnormal));
#endif
}

/// \brief `width` bfloat16 to floats: they are their upper halves.
[[gnu::always_inline]] inline Lanes widen_bfloat16(const std::uint16_t* from) {
    typedef std::uint16_t Halves __attribute__((vector_size(2 * width)));
    Halves half;
    std::memcpy(&half, from, sizeof half);
    return lanes_of(__builtin_convertvector(half, Bits) << 16);
}

/// \brief Copies `count` elements, `stride` apart, to contiguous floats.
void widen_row(DType dtype, const void* data, Index offset, Index stride, Index count, float* to) {
    if (dtype == DType::float32) {
        const float* from = static_cast<const float*>(data) + offset;
        if (stride == 1) {
            std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
            return;
        }
        for (Index n = 0; n < count; ++n) to[n] = from[n * stride];
        return;
    }
    const std::uint16_t* from = static_cast<const std::uint16_t*>(data) + offset;
    Index n = 0;
    if (dtype == DType::float16) {
        for (; stride == 1 && n + width <= count; n += width)
            widen_float16(from + n).store_unaligned(to + n);
        for (; n < count; ++n) to[n] = widen<float16>(from[n * stride]);
    } else {
        for (; stride == 1 && n + width <= count; n += width)
            widen_bfloat16(from + n).store_unaligned(to + n);
        for (; n < count; ++n) to[n] = widen<bfloat16>(from[n * stride]);
    }
}

/// \brief Rounds `count` contiguous floats to `dtype`, elements `stride` apart.
void narrow_row(DType dtype, const float* from, Index count, void* data, Index offset,
                Index stride) {
    if (dtype == DType::float32) {
        float* to = static_cast<float*>(data) + offset;
        if (stride == 1) {
            std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
            return;
        }
        for (Index n = 0; n < count; ++n) to[n * stride] = from[n];
        return;
    }
    std::uint16_t* to = static_cast<std::uint16_t*>(data) + offset;
    if (dtype == DType::float16)
        for (Index n = 0; n < count; ++n) to[n * stride] = narrow<float16>(from[n]);
    else
        for (Index n = 0; n < count; ++n) to[n * stride] = narrow<bfloat16>(from[n]);
}

}  // namespace
}  // namespace attn::ATTN_ISA
