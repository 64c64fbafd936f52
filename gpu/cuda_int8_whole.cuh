/// \file
/// \brief Queries and keys become integers, one thread a row: for rows of exactly HeadDim = 64 or
///        128 channels that `cp.async` can copy. Other rows take the way of cuda_int8_rows.cuh.
///
/// A tile of rows is copied to shared memory, all of it under way at once; then each thread takes
/// its row into registers, where the seven stages of the Hadamard transform are 7 HeadDim / 2 pairs
/// of additions and no lane waits for another. The bits are those of quantize.hpp: a rotation has
/// the same pairs in the same order, and its last factor is a power of two, which commutes with
/// rounding, so it joins the step.
#pragma once

#include "cuda_int8_rows.cuh"
#include "cuda_mma_tile.cuh"

namespace attn::gpu {

template <int HeadDim>
__host__ __device__ inline bool is_whole(Index E, bool wide) {
    return HeadDim <= 128 && E == HeadDim && wide;
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
#pragma unroll 8
        for (int index = thread; index < Rows * pieces; index += Threads) {
            const int row = index / pieces, piece = index % pieces;
            copy_async_16(to + swizzled<row_bytes>(row, piece), from + row * stride + piece * each,
                          row < rows_left);
        }
    }
    static __device__ void read(float (&x)[HeadDim], const unsigned char* tile, int row) {
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) {
            const uint4 raw =
                *reinterpret_cast<const uint4*>(tile + swizzled<row_bytes>(row, piece));
            const T* element = reinterpret_cast<const T*>(&raw);
#pragma unroll
            for (int i = 0; i < each; ++i) x[piece * each + i] = to_float(element[i]);
        }
    }
    static __device__ float element(const unsigned char* tile, int row, int channel) {
        return to_float(*reinterpret_cast<const T*>(
            tile + swizzled<row_bytes>(row, channel / each) + channel % each * sizeof(T)));
    }
};

//! [thread rotation]
/// \brief Stages of the Hadamard transform from `Half` on: pairs (e, e + Half), neighbours first.
template <int Half, int HeadDim>
__device__ inline void hadamard_stages(float (&x)[HeadDim]) {
    if constexpr (Half < HeadDim) {
#pragma unroll
        for (int e = 0; e < HeadDim; ++e) {
            if ((e & Half) != 0) continue;
            const float a = x[e], b = x[e + Half];
            x[e] = a + b;
            x[e + Half] = a - b;
        }
        hadamard_stages<2 * Half>(x);
    }
}
//! [thread rotation]

/// \brief A thread's row, rotated, as integers.
/// \param factor  of the rotation
/// \param sign  -1: the integers are negated
/// \param to(piece)  where 16 integers go
/// \return the step
template <int HeadDim, class To>
__device__ inline float round_row(float (&x)[HeadDim], float factor, float sign, To&& to) {
#pragma unroll
    for (int e = 0; e < HeadDim; ++e)
        if (rotation_flips(e)) x[e] = -x[e];
    hadamard_stages<1>(x);
    float largest = 0;
#pragma unroll
    for (int e = 0; e < HeadDim; ++e) largest = fmaxf(largest, fabsf(x[e]));
    const Quantizer quantizer(magnitude(largest * factor));
    const float inverse = quantizer.inverse * factor * sign;
#pragma unroll
    for (int piece = 0; piece < HeadDim / 16; ++piece) {
        uint4 bytes;
        auto* word = reinterpret_cast<std::uint32_t*>(&bytes);
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            // The sum's low byte is the nearest integer, see float_bits_of_zero. Two roundings, as
            // on the host: the compiler must not fuse them.
            std::uint32_t sum[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sum[i] = __float_as_uint(
                    __fadd_rn(__fmul_rn(x[piece * 16 + w * 4 + i], inverse), float_of_zero));
            word[w] = __byte_perm(__byte_perm(sum[0], sum[1], 0x0040),
                                  __byte_perm(sum[2], sum[3], 0x0040), 0x5410);
        }
        *to(piece) = bytes;
    }
    return quantizer.scale;
}

/// \brief `quantize_queries` for whole rows.
/// \param staging  (StageBytes), free for `tile` when a row is rounded
/// \param staged  the rows are there already: StageBytes hold them all
template <class T, int HeadDim, int Rows, int Threads, int StageBytes, class Tile>
__device__ inline void quantize_whole_queries(const Problem& p, Index b, Index h, Index first_row,
                                              float unit, float sign, const float* mean,
                                              Tile&& tile, const QueryScales& to,
                                              unsigned char* staging, bool staged) {
    using Staged = StagedRows<T, HeadDim>;
    constexpr int at_once =
        StageBytes / Staged::row_bytes < Rows ? StageBytes / Staged::row_bytes : Rows;
    static_assert(at_once > 0 && Rows % at_once == 0 && Rows <= Threads);
    const int row = static_cast<int>(threadIdx.x);
    const T* const query = static_cast<const T*>(p.query.data) + b * p.query.stride[0] +
                           h * p.query.stride[1] + first_row * p.query.stride[2];
    float x[HeadDim];
#pragma unroll
    for (int part = 0; part < Rows / at_once; ++part) {
        if (!staged) {
            Staged::template copy<at_once, Threads>(
                shared_address(staging), query + part * at_once * p.query.stride[2],
                p.query.stride[2], p.L - first_row - part * at_once, row);
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
        }
        if (row / at_once == part) Staged::read(x, staging, row % at_once);
        __syncthreads();  // the rows have been read
    }
    if (row >= Rows) return;

    float dot = 0;
    if (mean != nullptr)
#pragma unroll
        for (int e = 0; e < HeadDim; ++e) dot += x[e] * mean[e];
    float largest = 0, check = 0;  // check: NaN if any is NaN or infinite
#pragma unroll
    for (int e = 0; e < HeadDim; ++e) {
        largest = fmaxf(largest, fabsf(x[e]));
        check = fmaf(0.0f, x[e], check);
    }
    const bool integers = largest + check <= quantizable_largest;
    if (!integers)
#pragma unroll
        for (int e = 0; e < HeadDim; ++e) x[e] = 0;
    const float step = round_row<HeadDim>(x, rotation_factor(HeadDim, Operand::query), sign,
                                          [&](int piece) { return tile(row, piece); });
    to.factor[row] = fmaxf(step * unit, 0x1p-126f);
    to.without[row] = !integers;
    to.shift[row] = integers ? dot : 0.0f;
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
