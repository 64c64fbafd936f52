/// \file
/// \brief What the tensor-core kernels do off the fast path: hiding keys beyond a row's limit,
///        a scale that is not positive, storing rows, and rows whose products met a NaN or an
///        infinity of a hidden key.
#pragma once

#include "cuda_mma.hpp"
#include "mask.cuh"
#include "mma.cuh"

#include <attn/row_state.hpp>

namespace attn::gpu {

/// \brief Elements of 16 bits times -1, or times 0 (which keeps NaN and makes infinity NaN).
template <class T>
__device__ inline void multiply_tile(std::uint16_t* tile, int count, float factor, int threads) {
    for (int i = threadIdx.x; i < count; i += threads) {
        T element;
        element.bits = tile[i];
        tile[i] = T(static_cast<float>(element) * factor).bits;
    }
}

/// \brief Scores of keys that the row may not see by position become -inf.
/// \param row  of element 0 in tile 0 \param key  of element 0 in tile 0
template <class Shape>
__device__ inline void hide_beyond(float (&score)[Shape::MTiles][Shape::Keys / 8][4],
                                   const Problem& problem, Index row, Index key) {
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Index left = problem.visible(row + m * 16 + half * 8) - key;
            const int limit = left < Shape::Keys ? static_cast<int>(left) : Shape::Keys;
#pragma unroll
            for (int n = 0; n < Shape::Keys / 8; ++n) {
                if (8 * n >= limit) score[m][n][2 * half] = -CUDART_INF_F;
                if (8 * n + 1 >= limit) score[m][n][2 * half + 1] = -CUDART_INF_F;
            }
        }
}

/// \brief Scales and masks scores with the mask read where it lies, any dtype and strides; the causal
///        rule and the end of the keys included.
template <class Shape>
__device__ inline void mask_scores(float (&score)[Shape::MTiles][Shape::Keys / 8][4],
                                   const Problem& problem, Index b, Index h, Index row, Index key,
                                   float scale) {
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int n = 0; n < Shape::Keys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const Index at = row + m * 16 + i / 2 * 8;
                float mask = -CUDART_INF_F;
                if (at < problem.L) mask = mask_at<float>(problem, b, h, at, key + 8 * n + i % 2);
                float& s = score[m][n][i];
                s = mask == -CUDART_INF_F ? mask : fmaf(s, scale, mask);
            }
}

/// \brief Writes a warp's rows from its part of the query tile: 16 bytes a lane where `out` allows.
template <class Shape>
__device__ inline void store_rows(const MmaProblem& p, const unsigned char* shared, int warp,
                                  Index b, Index h, Index first_row) {
    using T = typename Shape::Element;
    constexpr int pieces = Shape::HeadDim / 8;
    const int lane = threadIdx.x % 32;
    const auto out = as<T, 4>(p.problem.out);
    for (int index = lane; index < Shape::warp_rows * pieces; index += 32) {
        const int row = warp * Shape::warp_rows + index / pieces, piece = index % pieces;
        const int columns = static_cast<int>(p.problem.Ev) - piece * 8;
        if (first_row + row >= p.problem.L || columns <= 0) continue;
        const unsigned char* from = shared + swizzled<Shape::row_bytes>(row, piece);
        T* to = &out(b, h, first_row + row, piece * 8);
        if (p.wide_out) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
            continue;
        }
        for (int e = 0; e < columns && e < 8; ++e)
            to[e * out.stride[3]] = reinterpret_cast<const T*>(from)[e];
    }
}

/// \brief One query row by a whole warp, key by key, in float32: a hidden key is never read. Writes
///        `columns` (at most 256) of its columns from `first` on.
template <class T>
__device__ inline void careful_row(const Problem& p, Index b, Index h, Index i, Index first = 0,
                                   Index columns = 256) {
    constexpr int most = 8;  // columns of out per lane: Ev <= 256
    const auto query = as<const T, 4>(p.query);
    const auto key = as<const T, 4>(p.key);
    const auto value = as<const T, 4>(p.value);
    const Index hk = p.key_head(h);
    const int lane = threadIdx.x % 32;
    const Index end = first + columns < p.Ev ? first + columns : p.Ev;
    float out[most] = {};
    RowState<float> row;
    for (Index j = 0; j < p.visible(i); ++j) {
        const float mask = mask_at<float>(p, b, h, i, j);
        if (mask == -CUDART_INF_F) continue;
        float dot = 0;
        for (Index e = lane; e < p.E; e += 32)
            dot += static_cast<float>(query(b, h, i, e)) * static_cast<float>(key(b, hk, j, e));
        for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
        const float score = static_cast<float>(p.scale) * dot + mask;
        const float shrink = row.grow(score);
        const float weight = row.weight(score);
        row.sum += weight;
#pragma unroll
        for (int n = 0; n < most; ++n) {
            const Index e = first + lane + 32 * n;
            if (e < end && weight != 0)
                out[n] = out[n] * shrink + weight * static_cast<float>(value(b, hk, j, e));
        }
    }
    const auto to = as<T, 4>(p.out);
#pragma unroll
    for (int n = 0; n < most; ++n)
        if (first + lane + 32 * n < end)
            to(b, h, i, first + lane + 32 * n) = T(out[n] * row.normalizer());
    if (!p.logsumexp.absent() && lane == 0) as<float, 3>(p.logsumexp)(b, h, i) = row.logsumexp();
}

/// \brief Computes again the rows that `bad_rows` of any lane names (bit 2 m + half: row g + 8 half
///        of row tile m).
template <class T>
__device__ inline void redo_rows(const Problem& p, Index b, Index h, Index warp_row,
                                 std::uint32_t bad_rows, int row_tiles) {
    if (!__any_sync(~0u, bad_rows != 0)) return;
    __syncwarp();  // the rows' first results are written before their second ones
    for (int local = 0; local < 16 * row_tiles; ++local) {
        const int bit = local / 16 * 2 + local / 8 % 2;
        const std::uint32_t quad = __ballot_sync(~0u, bad_rows >> bit & 1) >> (local % 8 * 4) & 0xf;
        if (quad != 0 && warp_row + local < p.L) careful_row<T>(p, b, h, warp_row + local);
    }
}

}  // namespace attn::gpu
