/// \file
/// \brief Parts of the keys become one: partial results merge by their maximum and sum, first over the
///        warps of a block (cuda_mma_split.cu, cuda_mma_decode.cu), then over the parts of a row.
#pragma once

#include "cuda_mma_careful.cuh"
#include "cuda_mma_decode.hpp"

namespace attn::gpu {

constexpr int merge_threads = 128;
constexpr int most_splits = 64;  // two for each lane of the merging warp
constexpr float log2_e = 1.44269504f, ln_2 = 0.69314718f;

/// \brief N floats, N a power of 2 up to 4, that lie side by side: one access.
template <int N>
struct alignas(4 * N) Floats {
    float x[N];
};

/// \brief Where the maximum and the sum of a partial result are: behind its columns.
__device__ inline int state_at(Index Ev) { return (static_cast<int>(Ev) + 3) / 4 * 4; }
/// \brief Where a row's partial results are: (B, Hq, L, splits) of `part_floats`.
__device__ inline Index partial_at(const MmaProblem& p, Index b, Index h, Index i, int split) {
    return (((b * p.problem.Hq + h) * p.problem.L + i) * p.splits + split) *
           part_floats(p.problem.Ev);
}

/// \brief Parts of one row, one in each lane, as a whole. Merged by maximum and sum and not by
///        logsumexp: beside a maximum of 1e9 the logarithm of a sum is lost to rounding.
/// \tparam lanes  that merge with each other: a power of 2
/// \param part  0 sum and -inf maximum where there is none
/// \param share  what the lane's part contributes to the whole
template <int lanes = 32>
__device__ inline RowState<float> merge_lanes(const RowState<float>& part, float unit,
                                              float& share) {
    RowState<float> whole = part;
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2)
        whole.max = larger(whole.max, __shfl_xor_sync(~0u, whole.max, step));
    const float sum = part.sum == 0 ? 0.0f : part.sum * exp2_fast((part.max - whole.max) * unit);
    whole.sum = sum;
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2)
        whole.sum += __shfl_xor_sync(~0u, whole.sum, step);
    share = whole.sum == 0 ? 0.0f : sum / whole.sum;
    return whole;
}

/// \brief A packed row: query head within its group, and row within the head.
struct PackedRow {
    Index h, i;
    bool exists;
    __device__ PackedRow(const Problem& p, Index hk, Index packed) {
        const Index group = p.Hq / p.H;
        h = hk * group + packed / p.L;
        i = packed % p.L;
        exists = packed < group * p.L;
    }
};

/// \brief Floats of a row of `results`: the four rows that lanes write at once are in different banks.
constexpr int results_row(int head_dim) { return head_dim + 8; }
/// \brief What the warps of a block found in one part of the keys becomes one result a row: each
///        normalised, some rows at a time through shared memory, row r by warp r % warps.
/// \param results  (warps, warps, results_row(HD)): of warp, row
/// \param state    (warps, 16): of warp, row
/// \param columns  of a row that are kept: `state_at`
/// \param barrier  of these warps
/// \param keep(row, whole)  where the row's columns go; `whole` is its maximum and sum
template <int warps, int HD, class Rows, class Barrier, class Keep>
__device__ __forceinline__ void merge_warps(const Rows& rows, float* results,
                                            RowState<float> (*state)[16], int rows_here, float unit,
                                            int columns, Barrier&& barrier, Keep&& keep) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % warps;
#pragma unroll
    for (int half = 0; half < 2; ++half)
        if (lane % 4 == 0)
            state[warp][lane / 4 + 8 * half] = {rows.max[0][half], rows.sum[0][half]};
#pragma unroll
    for (int first = 0; first < 16; first += warps) {
        if (first >= rows_here) break;
        const int half = first / 8, local = lane / 4 - first % 8;
        if (local >= 0 && local < warps) {
            const float sum = rows.sum[0][half], inverse = sum == 0 ? 0.0f : 1 / sum;
#pragma unroll
            for (int n = 0; n < HD / 8; ++n)
                *reinterpret_cast<float2*>(
                    &results[(warp * warps + local) * results_row(HD) + 8 * n + lane % 4 * 2]) =
                    make_float2(rows.out[0][n][2 * half] * inverse,
                                rows.out[0][n][2 * half + 1] * inverse);
        }
        barrier();  // the results of these rows are there
        const int row = first + warp;
        if (row < rows_here) {
            float share;
            const RowState<float> whole = merge_lanes<warps>(state[lane % warps][row], unit, share);
            float part[warps];
#pragma unroll
            for (int w = 0; w < warps; ++w) part[w] = __shfl_sync(~0u, share, w);
            float* const to = keep(row, whole);
            constexpr int N = HD < 128 ? HD / 32 : 4;  // columns of a lane at a time
#pragma unroll
            for (int e = lane * N; e < HD; e += 32 * N) {
                Floats<N> sum{};
#pragma unroll
                for (int w = 0; w < warps; ++w) {
                    const auto& own = *reinterpret_cast<const Floats<N>*>(
                        &results[(w * warps + warp) * results_row(HD) + e]);
#pragma unroll
                    for (int i = 0; i < N; ++i) sum.x[i] = fmaf(part[w], own.x[i], sum.x[i]);
                }
                if (e < columns) *reinterpret_cast<Floats<N>*>(to + e) = sum;
            }
        }
        barrier();  // they have been read
    }
}

/// \brief How much each part of a row contributes. The work of a warp.
/// \param from   (splits, part_floats) partial results
/// \param share  (most_splits)
/// \return maximum and sum of the row
__device__ inline RowState<float> merge_parts(const float* from, int splits, Index Ev, float unit,
                                              float* share) {
    // Lane i merges parts i and i + 32, then the lanes merge.
    const int lane = threadIdx.x % 32;
    const auto part = [&](int s) {
        const int size = static_cast<int>(part_floats(Ev));
        if (s >= splits) return RowState<float>{};
        const auto own = *reinterpret_cast<const Floats<2>*>(from + s * size + state_at(Ev));
        return RowState<float>{own.x[0], own.x[1]};
    };
    const RowState<float> a = part(lane), b = part(lane + 32);
    const float top = larger(a.max, b.max);
    const float sum_a = a.sum == 0 ? 0.0f : a.sum * exp2_fast((a.max - top) * unit);
    const float sum_b = b.sum == 0 ? 0.0f : b.sum * exp2_fast((b.max - top) * unit);
    const float both = sum_a + sum_b;
    float mine;
    const RowState<float> whole = merge_lanes({top, both}, unit, mine);
    share[lane] = both == 0 ? 0.0f : mine * (sum_a / both);
    share[lane + 32] = both == 0 ? 0.0f : mine * (sum_b / both);
    return whole;
}
/// \brief Columns e .. e + N - 1 of the row.
template <int N>
__device__ inline Floats<N> merged_columns(const float* from, int splits, Index Ev,
                                           const float* share, int e) {
    const int size = static_cast<int>(part_floats(Ev));
    Floats<N> sum{};
    from += e;
#pragma unroll 16
    for (int s = 0; s < splits; ++s, from += size) {
        const auto own = *reinterpret_cast<const Floats<N>*>(from);
#pragma unroll
        for (int i = 0; i < N; ++i) sum.x[i] = fmaf(share[s], own.x[i], sum.x[i]);
    }
    return sum;
}
__device__ inline void write_logsumexp(const Problem& p, Index b, Index h, Index i,
                                       const RowState<float>& whole, float unit) {
    if (!p.logsumexp.absent())
        as<float, 3>(p.logsumexp)(b, h, i) =
            whole.sum == 0 ? -CUDART_INF_F : whole.max * (unit * ln_2) + logf(whole.sum);
}

/// \brief One block per query row: out = sum of share * partial out, share = exp(lse - total lse).
template <class T>
__global__ void __launch_bounds__(merge_threads)
    merge_kernel(const __grid_constant__ MmaProblem p, const float* partial, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    const Problem& problem = p.problem;
    Index index = first_block + blockIdx.x;
    const Index i = index % problem.L, h = (index /= problem.L) % problem.Hq,
                b = index / problem.Hq;
    if (p.leaves(b, h)) return;
    const float* from = partial + partial_at(p, b, h, i, 0);  // (splits, part_floats)

    __shared__ float share[most_splits];
    const float unit = problem.mask_kind == MaskKind::none ? p.unit : log2_e;
    if (threadIdx.x < 32) {
        const RowState<float> whole = merge_parts(from, p.splits, problem.Ev, unit, share);
        if (threadIdx.x == 0) write_logsumexp(problem, b, h, i, whole, unit);
    }
    __syncthreads();
    bool bad = false;
    for (int e = static_cast<int>(threadIdx.x); e < problem.Ev; e += merge_threads) {
        const float sum = merged_columns<1>(from, p.splits, problem.Ev, share, e).x[0];
        as<T, 4>(problem.out)(b, h, i, e) = T(sum);
        bad |= !(fabsf(sum) <= 3.4028234e38f);
    }
    // A value that is not finite, seen by this row: see cuda_mma_careful.cuh.
    if (__syncthreads_or(bad) && threadIdx.x < 32 && can_hide(problem))
        careful_row<T>(problem, b, h, i);
}

}  // namespace attn::gpu
