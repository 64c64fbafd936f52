/// \file
/// \brief What the kernels do off the fast path: hiding keys beyond a row's limit, a scale that is
///        not positive, storing rows, and values that are not finite.
///
/// A hidden key has weight 0, and 0 times a NaN or an infinity of its value row would be NaN. The
/// products do not look: a block whose results are not all finite, under a mask or a causal rule,
/// goes over its keys a second time with such values read as 0, which gives every row the bits that
/// it would have had without them. A row that may see one of them is then computed key by key.
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
/// \param row  of element 0 in tile 0
/// \param key  of element 0 in tile 0
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

/// \brief Masks scores with the mask read where it lies, any dtype and strides; the causal rule
///        and the end of the keys included. `Natural`: scales
///        (see `of_row`) and adds.
template <class Shape, bool Natural, class Scale>
__device__ inline void mask_scores(float (&score)[Shape::MTiles][Shape::Keys / 8][4],
                                   const Problem& problem, Index b, Index h, Index row, Index key,
                                   const Scale& scale) {
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Index at = row + m * 16 + half * 8;
            const MaskRow masks(problem, b, h, at < problem.L ? at : problem.L - 1);
#pragma unroll
            for (int n = 0; n < Shape::Keys / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float mask = masks.at<float>(key + 8 * n + i);
                    float& s = score[m][n][2 * half + i];
                    s = mask == -CUDART_INF_F
                            ? mask
                            : (Natural ? fmaf(s, of_row(scale, m, half), mask) : s);
                }
        }
}

/// \brief The same in a second pass, whose time does not count but that of the compiler: each element
///        of a mask has a branch for every dtype, so one of them is written out. A boolean mask is
///        added, too, as 0 or -inf.
/// \param scale  as `mask_scores` for additive masks; 1 where the mask is boolean or missing
template <class Shape, class Scale>
__device__ inline void mask_scores_again(float (&score)[Shape::MTiles][Shape::Keys / 8][4],
                                         const Problem& problem, Index b, Index h, Index row,
                                         Index key, const Scale& scale) {
    constexpr int columns = Shape::Keys / 4;  // of this lane
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Index at = row + m * 16 + half * 8;
            const MaskRow masks(problem, b, h, at < problem.L ? at : problem.L - 1);
            float mask[columns];
#pragma unroll 1
            for (int n = 0; n < columns; ++n) mask[n] = masks.at<float>(key + n / 2 * 8 + n % 2);
#pragma unroll
            for (int n = 0; n < columns; ++n) {
                float& s = score[m][n / 2][2 * half + n % 2];
                s = mask[n] == -CUDART_INF_F ? mask[n] : fmaf(s, of_row(scale, m, half), mask[n]);
            }
        }
}

/// \brief Writes a warp's rows from its part of the query tile: 16 bytes a lane where `out` allows.
template <class Shape>
__device__ inline void store_rows(const MmaProblem& p, const unsigned char* shared, int warp,
                                  Index b, Index h, Index first_row) {
    using T = typename Shape::Element;
    constexpr int pieces = Shape::HeadDim / 8, at_once = 32 / pieces;  // rows that the warp writes
    const int lane = threadIdx.x % 32, piece = lane % pieces;
    const int row = warp * Shape::warp_rows + lane / pieces;  // the lane's first one
    const int columns = static_cast<int>(p.problem.Ev) - piece * 8;
    const Index rows_left = p.problem.L - first_row;
    const int left = (rows_left < Shape::rows ? static_cast<int>(rows_left) : Shape::rows) - row;
    if (columns <= 0 || left <= 0) return;
    const auto out = as<T, 4>(p.problem.out);
    T* to = &out(b, h, first_row + row, piece * 8);
    const Index down = at_once * out.stride[2];
    const auto from = [&](int n) { return shared + swizzled<Shape::row_bytes>(row + n, piece); };
    if (p.wide_out) {
#pragma unroll
        for (int n = 0; n < Shape::warp_rows; n += at_once, to += down)
            if (n < left) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from(n));
        return;
    }
#pragma unroll 1
    for (int n = 0; n < Shape::warp_rows && n < left; n += at_once, to += down)
        for (int e = 0; e < columns && e < 8; ++e)
            to[e * out.stride[3]] = reinterpret_cast<const T*>(from(n))[e];
}

/// \brief Divides by the sums and writes a warp's rows, through its part of a (rows, HeadDim) tile.
/// \param logsumexp  of the lane's row (m, half), which is row `row` of the block
/// \return whether this lane's results are all finite
template <class Shape, class Rows, class Logsumexp>
__device__ inline bool write_rows(const MmaProblem& p, const Rows& rows, unsigned char* shared,
                                  Index b, Index h, Index first_row, Logsumexp&& logsumexp) {
    using T = typename Shape::Element;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float check = 0;  // NaN if any element is NaN or infinite
    __syncwarp();     // the query rows have been read
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp * Shape::warp_rows + m * 16 + half * 8 + lane / 4;
            const float sum = rows.sum[m][half];
            const float inverse = sum == 0 ? 0.0f : 1 / sum;
#pragma unroll
            for (int n = 0; n < Shape::HeadDim / 8; ++n) {
                const float x = rows.out[m][n][2 * half] * inverse;
                const float y = rows.out[m][n][2 * half + 1] * inverse;
                check += 0 * x + 0 * y;
                *reinterpret_cast<std::uint32_t*>(shared + swizzled<Shape::row_bytes>(row, n) +
                                                  lane % 4 * 4) = pack<T>(x, y);
            }
            if (!p.problem.logsumexp.absent() && lane % 4 == 0 && first_row + row < p.problem.L)
                as<float, 3>(p.problem.logsumexp)(b, h, first_row + row) = logsumexp(m, half, row);
        }
    __syncwarp();  // the rows are there for the lanes that store them
    store_rows<Shape>(p, shared, warp, b, h, first_row);
    return check == 0;
}

/// \brief Elements of 16 bits that are NaN or infinite become 0.
template <class T>
__device__ inline void make_finite(unsigned char* tile, int bytes, int thread, int threads) {
    constexpr std::uint16_t exponent = dtype_of<T> == DType::float16 ? 0x7c00 : 0x7f80;
    auto* element = reinterpret_cast<std::uint16_t*>(tile);
    for (int i = thread; i < bytes / 2; i += threads)
        if ((element[i] & exponent) == exponent) element[i] = 0;
}

/// \brief Calls again(block) for each marked one of `blocks` blocks, in a grid of any size: most
///        calls mark none, and a grid of empty blocks takes longer than to read their marks. Each warp
///        looks for itself; all find the same.
/// \param together  a barrier of all threads: the next block has the shared memory to itself
template <class F, class Barrier>
__device__ inline void for_marked(const std::uint8_t* marks, Index blocks, F&& again,
                                  Barrier&& together) {
    const Index share = (blocks + gridDim.x - 1) / gridDim.x, first = blockIdx.x * share;
    const Index end = first + share < blocks ? first + share : blocks;
    for (Index at = first; at < end; at += 32) {
        const Index mine = at + threadIdx.x % 32;
        std::uint32_t marked = __ballot_sync(~0u, mine < end && marks[mine] != 0);
        for (; marked != 0; marked &= marked - 1) {
            again(at + (__ffs(static_cast<int>(marked)) - 1));
            together();
        }
    }
}
template <class F>
__device__ inline void for_marked(const std::uint8_t* marks, Index blocks, F&& again) {
    for_marked(marks, blocks, again, [] { __syncthreads(); });
}

/// \brief Does row i see, among keys first .. end - 1, a value row with a NaN or an infinity?
///        Asked by a whole warp.
template <class T>
__device__ inline bool meets_infinite(const Problem& p, Index b, Index h, Index i, Index first,
                                      Index end) {
    const auto value = as<const T, 4>(p.value);
    bool meets = false;
    for (Index j = first; j < end; ++j) {
        if (mask_at<float>(p, b, h, i, j) == -CUDART_INF_F) continue;
        for (Index e = threadIdx.x % 32; e < p.Ev; e += 32)
            meets |= !(fabsf(to_float(value(b, p.key_head(h), j, e))) <= 3.4028234e38f);
    }
    return __any_sync(~0u, meets);
}

/// \brief One query row by a whole warp, key by key, in float32; writes `columns` (at most
///        256) of its columns from `first` on, and its logsumexp.
/// \param always  false: only if the
///        row sees a value that is not finite
template <class T>
__device__ inline void careful_row(const Problem& p, Index b, Index h, Index i, Index first = 0,
                                   Index columns = 256, bool always = false) {
    constexpr int most = 8;  // columns of out per lane
    if (!always && !meets_infinite<T>(p, b, h, i, 0, p.visible(i))) return;
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
            dot += to_float(query(b, h, i, e)) * to_float(key(b, hk, j, e));
        for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
        const float score = static_cast<float>(p.scale) * dot + mask;
        const float shrink = row.grow(score);
        const float weight = row.weight(score);
        row.sum += weight;
#pragma unroll
        for (int n = 0; n < most; ++n) {
            const Index e = first + lane + 32 * n;
            if (e < end && weight != 0)
                out[n] = out[n] * shrink + weight * to_float(value(b, hk, j, e));
        }
    }
    const auto to = as<T, 4>(p.out);
#pragma unroll
    for (int n = 0; n < most; ++n)
        if (first + lane + 32 * n < end)
            to(b, h, i, first + lane + 32 * n) = T(out[n] * row.normalizer());
    if (always && lane == 0 && !p.logsumexp.absent())
        as<float, 3>(p.logsumexp)(b, h, i) = row.logsumexp();
}
/// \brief The same, not inlined: for kernels that then need fewer registers, or none of whose time
///        counts but that of the compiler.
template <class T>
__device__ __noinline__ void careful_row_apart(const Problem& p, Index b, Index h, Index i,
                                               bool always) {
    careful_row<T>(p, b, h, i, 0, 256, always);
}

}  // namespace attn::gpu
