/// \file
/// \brief Queries and keys become integers, one or two threads a row: for rows of exactly HeadDim = 64
///        or 128 channels that `cp.async` can copy. Other rows take the way of cuda_int8_rows.cuh.
///
/// A tile of rows is copied to shared memory, all of it under way at once; then each thread takes its
/// part of a row (half of it, or with Parts = 1 all) into registers, where the stages of the Hadamard
/// transform are pairs of additions; only the last one of two halves asks the row's other thread.
/// (A whole row of 128 in one thread needs so many registers that 12 warps fit a multiprocessor.)
/// The bits are those of quantize.hpp: a rotation has the same pairs in the same order, and its last
/// factor is a power of two, which commutes with rounding, so it joins the step.
#pragma once

#include "cuda_int8_rows.cuh"
#include "cuda_mma_tile.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace attn::gpu {

template <int HeadDim>
__host__ __device__ inline bool is_whole(Index E, bool wide) {
    return HeadDim <= 128 && E == HeadDim && wide;
}

/// \brief Which row of those of its block, and which half of it, are a thread's. The two threads of
///        a row are 16 lanes apart, so that neighbours read neighbouring rows: no bank conflicts.
struct RowHalf {
    int row, half;
    __device__ explicit RowHalf(int thread)
        : row(thread / 32 * 16 + thread % 16), half(thread % 32 / 16) {}
    /// \brief The same value of the row's other thread.
    static __device__ float other(float x) { return __shfl_xor_sync(~0u, x, 16); }
};

/// \brief The largest magnitude of many numbers, NaN if one of them is: 16-bit numbers by pairs.
template <class T>
struct Largest {
    using Pair = std::conditional_t<std::is_same_v<T, float16>, __half2, __nv_bfloat162>;
    Pair most{};
    __device__ void add(const uint4& raw) {
        const Pair* pair = reinterpret_cast<const Pair*>(&raw);
#pragma unroll
        for (int i = 0; i < 4; ++i) most = __hmax2_nan(most, __habs2(pair[i]));
    }
    __device__ float value() const {
        const float low = static_cast<float>(most.x), high = static_cast<float>(most.y);
        return low != low || high <= low ? low : high;
    }
};
template <>
struct Largest<float> {
    float most = 0, check = 0;  // check: NaN if any is NaN or infinite
    __device__ void add(const uint4& raw) {
        const float* x = reinterpret_cast<const float*>(&raw);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            most = fmaxf(most, fabsf(x[i]));
            check = fmaf(0.0f, x[i], check);
        }
    }
    __device__ float value() const { return most + check; }
};

/// \brief The elements of 16 bytes as floats.
template <class T>
__device__ inline void to_floats(const uint4& raw, float* x) {
    if constexpr (std::is_same_v<T, bfloat16>) {  // the upper halves of floats: one operation each
        const std::uint32_t pair[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = __uint_as_float(pair[i] << 16);
            x[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
        }
    } else {
        const T* element = reinterpret_cast<const T*>(&raw);
#pragma unroll
        for (int i = 0; i < 16 / static_cast<int>(sizeof(T)); ++i) x[i] = to_float(element[i]);
    }
}

/// \brief `swizzled` for a piece further along a row: from one whose number is a multiple of a power of
///        two that is above `pieces`.
ATTN_HD constexpr std::uint32_t further(std::uint32_t swizzled_place, int pieces) {
    return swizzled_place ^ static_cast<std::uint32_t>(pieces << 4);
}

/// \brief Rows of HeadDim elements of T in shared memory, swizzled.
template <class T, int HeadDim>
struct StagedRows {
    static constexpr int row_bytes = HeadDim * static_cast<int>(sizeof(T));
    static constexpr int pieces = row_bytes / 16, each = 16 / static_cast<int>(sizeof(T));

    /// \brief Starts the copy of `Rows` rows; those from `rows_left` on become zeros.
    template <int Rows, int Threads>
    static __device__ void copy(std::uint32_t to, const T* from, Index stride, Index rows_left,
                                int thread) {
        copy_from<Rows, Threads>(to, from + first_of<Threads>(stride, thread), stride, rows_left,
                                 thread);
    }
    /// \brief The first element that a thread copies, from that of the first row on.
    template <int Threads>
    static __device__ Index first_of(Index stride, int thread) {
        const auto number = static_cast<unsigned>(thread);  // unsigned: divided by shifts
        return number / pieces * stride + number % pieces * each;
    }
    /// \brief `copy`. \param from  the thread's first element
    template <int Rows, int Threads>
    static __device__ void copy_from(std::uint32_t to, const T* from, Index stride, Index rows_left,
                                     int thread) {
        static_assert(Threads % pieces == 0 && Rows % (Threads / pieces) == 0);
        constexpr int rows_at_once = Threads / pieces;  // a power of two
        const int row = static_cast<int>(static_cast<unsigned>(thread) / pieces);
        // `swizzled` for row n + row: no bit is in both, so that n turns the place of row.
        const std::uint32_t first = swizzled<row_bytes>(row, thread & (pieces - 1));
        const auto place = [&](int n) {
            return to + (first ^ static_cast<std::uint32_t>((n & 7) << 4)) + n * row_bytes;
        };
        if (rows_left >= Rows) {
#pragma unroll 8
            for (int n = 0; n < Rows; n += rows_at_once, from += rows_at_once * stride)
                copy_async_16(place(n), from);
            return;
        }
#pragma unroll 1
        for (int n = 0; n < Rows; n += rows_at_once, from += rows_at_once * stride)
            copy_async_16(place(n), from, n + row < rows_left);
    }
    /// \brief A part of a row. \return its largest magnitude; NaN if one of its numbers is
    template <int Parts = 2>
    static __device__ float read(float (&x)[HeadDim / Parts], const unsigned char* tile, int row,
                                 int part) {
        constexpr int own = pieces / Parts;
        const std::uint32_t first = swizzled<row_bytes>(row, part * own);
        Largest<T> largest;
#pragma unroll
        for (int piece = 0; piece < own; ++piece) {
            const uint4 raw = *reinterpret_cast<const uint4*>(tile + further(first, piece));
            largest.add(raw);
            to_floats<T>(raw, x + piece * each);
        }
        return largest.value();
    }
    /// \brief Its largest magnitude alone, in little code: for what is rare.
    template <int Parts>
    static __device__ float largest(const unsigned char* tile, int row, int part) {
        constexpr int own = pieces / Parts;
        Largest<T> largest;
#pragma unroll 1
        for (int piece = 0; piece < own; ++piece)
            largest.add(*reinterpret_cast<const uint4*>(
                tile + swizzled<row_bytes>(row, part * own + piece)));
        return largest.value();
    }
    static __device__ float element(const unsigned char* tile, int row, int channel) {
        return to_float(*reinterpret_cast<const T*>(
            tile + swizzled<row_bytes>(row, channel / each) + channel % each * sizeof(T)));
    }
};

//! [thread rotation]
/// \brief Stages of the Hadamard transform from `Half` on: pairs (e, e + Half), neighbours first.
template <int Half, int Channels>
__device__ inline void hadamard_stages(float (&x)[Channels]) {
    if constexpr (Half < Channels) {
#pragma unroll
        for (int e = 0; e < Channels; ++e) {
            if ((e & Half) != 0) continue;
            const float a = x[e], b = x[e + Half];
            x[e] = a + b;
            x[e + Half] = a - b;
        }
        hadamard_stages<2 * Half>(x);
    }
}
//! [thread rotation]

/// \brief May all numbers of a row become integers? \param largest  of the thread's part
template <int Parts = 2>
__device__ inline bool has_integers(float largest) {
    const float other = Parts == 2 ? RowHalf::other(largest) : largest;
    return largest <= quantizable_largest && other <= quantizable_largest;
}

/// \brief A number of a channel, its sign flipped if the rotation says so.
__device__ inline float flipped(float x, int channel) { return rotation_flips(channel) ? -x : x; }

/// \brief -1 where the rotation flips a channel of the thread's part. For one part, and often for both
///        halves, known to the compiler.
/// \param side  -1 in the second half, else 1
template <int HeadDim, int Parts = 2>
__device__ inline float flip(int channel, float side) {
    const bool first = rotation_flips(channel);
    if (Parts == 1 || first == rotation_flips(channel + HeadDim / 2)) return first ? -1.0f : 1.0f;
    return first ? -side : side;
}

/// \brief Zeros for the rows that say so: rare, hence behind a branch that a warp takes together.
template <int Channels>
__device__ inline void clear_rows(float (&x)[Channels], bool clear) {
    if (!__any_sync(~0u, clear)) return;
#pragma unroll
    for (int e = 0; e < Channels; ++e) x[e] = clear ? 0.0f : x[e];
}

/// \brief a / b, correctly rounded: as the compiler divides, without its look at the ends of float32's
///        range.
__device__ inline float quotient(float a, float b) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
    inverse = __fmaf_rn(inverse, __fmaf_rn(-b, inverse, 1.0f), inverse);
    const float near = __fmul_rn(a, inverse);
    return __fmaf_rn(__fmaf_rn(-b, near, a), inverse, near);
}
/// \brief `Quantizer`, by these divisions.
__device__ inline Quantizer quantizer_of(float largest) {
    Quantizer quantizer;
    if (largest >= quantizable_least) {
        quantizer.scale = quotient(largest, quantized_levels);
        quantizer.inverse = quotient(quantized_levels, largest);
    }
    return quantizer;
}

/// \brief The larger one; NaN if one of them is.
__device__ inline float larger_or_nan(float a, float b) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
}

/// \brief Transforms a row whose signs are flipped, but for the factor: the thread's part of it.
/// \param side  1 in the first half, -1 in the second
/// \return the largest magnitude of the whole row; NaN if a number of it is
template <int HeadDim, int Parts = 2>
__device__ inline float transform_row(float (&x)[HeadDim / Parts], float side) {
    hadamard_stages<1>(x);
    float largest[4] = {};  // four chains: each maximum waits for the last one of its own
#pragma unroll
    for (int e = 0; e < HeadDim / Parts; ++e) {
        // The last stage: one half takes the sums, the other the differences. One rounding each.
        if constexpr (Parts == 2) x[e] = fmaf(side, x[e], RowHalf::other(x[e]));
        largest[e % 4] = larger_or_nan(largest[e % 4], fabsf(x[e]));
    }
    const float all =
        larger_or_nan(larger_or_nan(largest[0], largest[1]), larger_or_nan(largest[2], largest[3]));
    return Parts == 2 ? larger_or_nan(all, RowHalf::other(all)) : all;
}

/// \brief Four numbers times `inverse`, as bytes, the first one lowest: rounded to float32 and then to
///        integers, as on the host. The integers fit.
__device__ inline std::uint32_t four_rounded(const float* x, float inverse) {
#if __CUDA_ARCH__ >= 900
    // Two conversions and their packing are one instruction here, F2IP.
    int integer[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) integer[i] = __float2int_rn(__fmul_rn(x[i], inverse));
    std::uint32_t high, word;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(high) : "r"(integer[3]), "r"(integer[2]));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;"
        : "=r"(word)
        : "r"(integer[1]), "r"(integer[0]), "r"(high));
    return word;
#else
    // The sum's low byte is the nearest integer, see float_bits_of_zero. The compiler must not fuse
    // the two roundings.
    std::uint32_t sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        sum[i] = __float_as_uint(__fadd_rn(__fmul_rn(x[i], inverse), float_of_zero));
    return __byte_perm(__byte_perm(sum[0], sum[1], 0x0040), __byte_perm(sum[2], sum[3], 0x0040),
                       0x5410);
#endif
}

/// \brief What was rounded: the step, and the sum of the squares of the whole row of integers.
struct RoundedRow {
    float step, squares;
};
/// \brief A transformed row as integers: the thread's part of it.
/// \param largest  magnitude of the row, a number
/// \param sign  -1: the integers are negated
/// \param to(piece)  where 16 integers of the part go
/// \tparam norms  false: nobody asks for the squares
template <int HeadDim, Operand operand, int Parts = 2, bool norms = true, class To>
__device__ inline RoundedRow round_transformed(const float (&x)[HeadDim / Parts], float largest,
                                               float sign, To&& to) {
    constexpr float factor = rotation_factor(HeadDim, operand);
    const Quantizer quantizer = quantizer_of(largest * factor);
    const float inverse = quantizer.inverse * factor * sign;
    int squares = 0;
#pragma unroll
    for (int piece = 0; piece < HeadDim / Parts / 16; ++piece) {
        uint4 bytes;
        auto* word = reinterpret_cast<std::uint32_t*>(&bytes);
#pragma unroll
        for (int w = 0; w < 4; ++w) word[w] = four_rounded(x + piece * 16 + w * 4, inverse);
        *to(piece) = bytes;
        if constexpr (norms) squares = add_squares(bytes, squares);
    }
    if constexpr (norms && Parts == 2)
        squares += __shfl_xor_sync(~0u, squares, 16);  // the row's other thread, see RowHalf
    return {quantizer.scale, static_cast<float>(squares)};
}
/// \brief A row whose signs are flipped, rotated, as integers: the thread's half of it. Parameters as
///        above.
template <int HeadDim, Operand operand, bool norms = true, class To>
__device__ inline RoundedRow round_row(float (&x)[HeadDim / 2], float side, float sign, To&& to) {
    const float largest = transform_row<HeadDim>(x, side);
    return round_transformed<HeadDim, operand, 2, norms>(x, largest, sign, to);
}

/// \brief Flips the signs of a part of a query.
template <int HeadDim, int Parts = 2>
__device__ inline void flip_query(float (&x)[HeadDim / Parts], float side) {
#pragma unroll
    for (int e = 0; e < HeadDim / Parts; ++e) x[e] *= flip<HeadDim, Parts>(e, side);
}
/// \brief The product of a query and the mean of K, by halves.
/// \param mean  (HeadDim) of K, its signs flipped as those of x
template <int HeadDim, int Parts = 2>
__device__ inline float times_mean(const float (&x)[HeadDim / Parts], const float* mean, int part) {
    constexpr int half = HeadDim / 2;
    float dot[2] = {};
#pragma unroll
    for (int e = 0; e < HeadDim / Parts; ++e)
        dot[e / half] += x[e] * mean[part * (HeadDim / Parts) + e];
    return dot[0] + (Parts == 2 ? RowHalf::other(dot[0]) : dot[1]);
}
/// \brief Writes what the main kernel knows of a query beside its integers.
/// \param dot  with the mean of K
__device__ inline void write_query_scales(const QueryScales& scales, int row, const RoundedRow& of,
                                          bool integers, float unit, float dot) {
    const float factor = fmaxf(of.step * unit, 0x1p-126f);
    scales.factor[row] = factor;
    if (scales.square != nullptr) scales.square[row] = factor * factor * of.squares;
    scales.without[row] = !integers;
    scales.shift[row] = dot;
}

/// \brief Half a query becomes integers.
/// \param mean  (HeadDim) of K, its signs flipped; null: no shift wanted
/// \param unit, sign  as in `quantize_queries`
/// \param scales  of row 0
/// \tparam norms  as in `round_row`
template <int HeadDim, bool norms = true, class To>
__device__ inline void round_query(float (&x)[HeadDim / 2], const RowHalf& at, float side,
                                   bool integers, const float* mean, float unit, float sign,
                                   To&& to, const QueryScales& scales) {
    clear_rows(x, !integers);
    flip_query<HeadDim>(x, side);
    const float dot = mean == nullptr ? 0.0f : times_mean<HeadDim>(x, mean, at.half);
    const RoundedRow row = round_row<HeadDim, Operand::query, norms>(x, side, sign, to);
    if (at.half == 0) write_query_scales(scales, at.row, row, integers, unit, dot);
}

/// \brief A part of a key, without the mean, its signs flipped.
/// \param mean  (HeadDim), 16 bytes aligned, its signs flipped
template <int HeadDim, int Parts = 2>
__device__ inline void smooth_key(float (&x)[HeadDim / Parts], const float* mean, int part,
                                  float side) {
    const auto* from = reinterpret_cast<const float4*>(mean + part * (HeadDim / Parts));
#pragma unroll
    for (int n = 0; n < HeadDim / Parts / 4; ++n) {
        const float4 m = from[n];
        const float four[] = {m.x, m.y, m.z, m.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // one rounding: the product with 1 or -1 is exact
            const int e = 4 * n + i;
            x[e] = fmaf(x[e], flip<HeadDim, Parts>(e, side), -four[i]);
        }
    }
}

/// \brief Sums the seen keys of one block of 64, one thread a channel. The rows lie in `tile`.
/// \param sums  (HeadDim)
/// \return false if a seen key has a number that is not quantizable: then the
///         sum is void.
template <class T, int HeadDim>
__device__ inline bool sum_whole_keys(const unsigned char* tile, int channel, std::uint64_t seen,
                                      float* sums) {
    ChannelMean mean;
    std::uint32_t most = 0;
#pragma unroll 16
    for (int j = 0; j < 64; ++j) {
        const float x = StagedRows<T, HeadDim>::element(tile, j, channel);
        if ((seen >> j & 1) == 0) continue;
        most = max(most, magnitude(x));
        mean.add(x);
    }
    sums[channel] = mean.block;
    return quantizable(most);
}

}  // namespace attn::gpu
