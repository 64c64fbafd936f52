/// \file
/// \brief The steps of one warp that `cuda_int8` has of its own, each on one tile of keys: the
///        integer product, and its way back to scores. The rest is in cuda_mma_tile.cuh.
///
/// A fragment of 8-bit elements has the bytes of one of 16-bit elements (fragments.hpp), so
/// `ldmatrix` reads it in the same way: one instruction for 16 rows of 32 channels, not 16.
#pragma once

#include "cuda_int8_whole.cuh"
#include "cuda_mma_careful.cuh"
#include "cuda_mma_mask.cuh"
#include "cuda_mma_tile.cuh"

namespace attn::gpu {

/// \brief Sizes of a kernel: those of `MmaShape` for values and the output, and rows of one byte a
///        channel for queries and keys.
template <class T, int HeadDim, int Warps, int MTiles, int Keys>
struct Int8Shape : MmaShape<T, HeadDim, Warps, MTiles, Keys, false> {
    using Base = MmaShape<T, HeadDim, Warps, MTiles, Keys, false>;
    static constexpr int int8_row_bytes = HeadDim;
    static constexpr int int8_query_bytes = Base::rows * HeadDim;
    static constexpr int int8_tile_bytes = Keys * HeadDim;
    // Shared memory: query tile, two key tiles, two value tiles, two tiles' steps, rows' factors,
    // mask tile.
    static constexpr int key_at = int8_query_bytes;
    static constexpr int value_at = key_at + 2 * int8_tile_bytes;
    static constexpr int scale_at = value_at + 2 * Base::tile_bytes;
    static constexpr int factor_at = scale_at + 2 * Keys * 4;
    static constexpr int place_at = factor_at + Base::rows * 4;        // a KeyPlace
    static constexpr int mask_at = (place_at + 80 + 127) / 128 * 128;  // pieces by XOR
    static_assert(scale_at >= Base::query_bytes, "the out tile takes the place of what was read");
};

/// \brief product = Q K^T + float_bits_of_zero
/// \param query  this lane's address in the first row tile
/// \param key  in the key tile
template <class Shape>
__device__ inline void multiply_integers(int (&product)[Shape::MTiles][Shape::Keys / 8][4],
                                         std::uint32_t query, std::uint32_t key) {
    constexpr int MT = Shape::MTiles, NS = Shape::Keys / 8, row_bytes = Shape::int8_row_bytes;
    const int zero[4] = {float_bits_of_zero, float_bits_of_zero, float_bits_of_zero,
                         float_bits_of_zero};
#pragma unroll
    //! [integer product]
    for (int k = 0; k < Shape::HeadDim / 32; ++k) {
        std::uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; ++m) load_matrices(a[m], (query ^ (k * 32)) + m * 16 * row_bytes);
#pragma unroll
        for (int n = 0; n < NS / 2; ++n) {
            std::uint32_t b[4];  // keys 16 n .. 16 n + 15
            load_matrices(b, (key ^ (k * 32)) + n * 16 * row_bytes);
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    int(&sum)[4] = product[m][2 * n + side];
                    if (k == 0)
                        multiply_add(sum, a[m], b[2 * side], b[2 * side + 1], zero);
                    else
                        multiply_add(sum, a[m], b[2 * side], b[2 * side + 1], sum);
                }
        }
    }
    //! [integer product]
}

//! [dequantize]
/// \brief score = product * step of the key, by one operation: the bits of the product are those of
///        float_of_zero + product, and (z + product) * step - z * step is what is wanted. The last
///        product is rounded, by less than the step: the same for all queries, and far below the
///        rounding of k. The step of the query is left to `unit`.
/// \param scale  shared memory: steps of the tile's keys, from this lane's first column on
template <class Shape>
__device__ inline void take_steps(const int (&product)[Shape::MTiles][Shape::Keys / 8][4],
                                  float (&score)[Shape::MTiles][Shape::Keys / 8][4],
                                  const float* scale) {
#pragma unroll
    for (int n = 0; n < Shape::Keys / 8; ++n) {
        const float2 step = *reinterpret_cast<const float2*>(scale + 8 * n);
        const float zero[2] = {__fmul_rn(step.x, -float_of_zero),
                               __fmul_rn(step.y, -float_of_zero)};
#pragma unroll
        for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                score[m][n][i] = __fmaf_rn(__int_as_float(product[m][n][i]),
                                           i % 2 == 0 ? step.x : step.y, zero[i % 2]);
    }
}
//! [dequantize]

/// \brief Where the block's keys lie and which tiles of them are visited. Kept in shared memory and
///        read from there for every tile: the loop has no registers to spare.
struct KeyPlace {
    const std::int8_t* key;
    const float* scale;
    const std::uint16_t* value;
    Index first_row;       // of the block
    int tiles;             // [0, tiles) for the block
    int warp_tiles[4];     // [0, warp_tiles) for the warp
    int first_partial[4];  // tiles before it are seen whole by each of the warp's rows
};
static_assert(sizeof(KeyPlace) <= 80);

/// \brief Starts the copy of `Rows` rows of `RowBytes` integers, which lie in global memory as they
///        will in shared memory. The work of `thread`.
template <int Rows, int RowBytes, int Threads>
__device__ inline void copy_integers(std::uint32_t tile, const std::int8_t* from, unsigned thread) {
#pragma unroll
    for (unsigned i = 0; i < Rows * RowBytes / 16 / Threads; ++i)
        copy_async_16(tile + (i * Threads + thread) * 16, from + (i * Threads + thread) * 16);
}
/// \brief The same for `Count` floats.
template <int Count>
__device__ inline void copy_floats(std::uint32_t to, const float* from, unsigned thread) {
    if (thread < Count / 4) copy_async_16(to + thread * 16, from + thread * 4);
}

/// \brief Where this lane reads the fragments of its warp's query rows, and of a key tile.
template <int RowBytes>
__device__ inline std::uint32_t query_lane(std::uint32_t tile, int first_row, int lane) {
    return tile + swizzled<RowBytes>(first_row + a_lane_row(lane), a_lane_piece(lane));
}
template <int RowBytes>
__device__ inline std::uint32_t key_lane(std::uint32_t tile, int lane) {
    return tile + swizzled<RowBytes>(b_lane_row(lane), b_lane_piece(lane));
}

/// \brief The factors of the lane's rows; read anew for each tile, to keep no registers.
template <int MTiles>
__device__ inline void read_factors(float (&factor)[MTiles][2], const float* shared) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) factor[m][half] = shared[m * 16 + half * 8];
}

/// \brief |scale| and its sign, as the queries take them.
struct ScaleOf {
    float size, sign;
    __device__ explicit ScaleOf(const Problem& p)
        : size(fabsf(static_cast<float>(p.scale))), sign(p.scale < 0 ? -1.0f : 1.0f) {}
};

/// \brief Divides by the sums and writes a warp's rows; logsumexp with what smoothing took.
/// \param shared  a (rows, HeadDim) tile of 16-bit elements
/// \param shift  (rows) q . mean
/// \return whether this lane's results are all finite
template <class Shape, class Rows, class Unit>
__device__ inline bool write_int8_rows(const MmaProblem& p, const Rows& rows, const Unit& unit,
                                       unsigned char* shared, const float* shift, Index b, Index h,
                                       Index first_row) {
    const Problem& problem = p.problem;
    const auto logsumexp = [&](int m, int half, int row) {
        const float smoothed = rows.logsumexp(m, half, of_row(unit, m, half));
        return smoothed == -CUDART_INF_F
                   ? smoothed
                   : smoothed_logsumexp(smoothed, static_cast<float>(problem.scale), shift[row]);
    };
    if (problem.dtype != DType::float32)
        return write_rows<Shape>(p, rows, shared, b, h, first_row, logsumexp);
    // float32: straight from the registers.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto out = as<float, 4>(problem.out);
    const Index step = out.stride[3];
    const int columns = static_cast<int>(problem.Ev) - lane % 4 * 2;  // from the lane's first on
    float check = 0;                                                  // NaN if any is not finite
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp * Shape::warp_rows + m * 16 + half * 8 + lane / 4;
            const float sum = rows.sum[m][half], inverse = sum == 0 ? 0.0f : 1 / sum;
            const bool exists = first_row + row < problem.L;
            float* to = exists ? &out(b, h, first_row + row, 0) + lane % 4 * 2 * step : nullptr;
            const auto store = [&](auto&& pair) {
#pragma unroll
                for (int n = 0; n < Shape::HeadDim / 8; ++n) {
                    const float x = rows.out[m][n][2 * half] * inverse;
                    const float y = rows.out[m][n][2 * half + 1] * inverse;
                    check += 0 * x + 0 * y;
                    if (exists && 8 * n < columns) pair(n, x, y);
                }
            };
            if (p.wide_out)
                store([&](int n, float x, float y) {
                    reinterpret_cast<float2*>(to)[4 * n] = {x, y};
                });
            else
                store([&](int n, float x, float y) {
                    to[8 * n * step] = x;
                    if (8 * n + 1 < columns) to[(8 * n + 1) * step] = y;
                });
            if (!problem.logsumexp.absent() && lane % 4 == 0 && exists)
                as<float, 3>(problem.logsumexp)(b, h, first_row + row) = logsumexp(m, half, row);
        }
    return check == 0;
}

}  // namespace attn::gpu
