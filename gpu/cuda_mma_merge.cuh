/// \file
/// \brief Parts of the keys become one: partial results merge by their maximum and sum, first over the
///        warps of a block of the split kernel (cuda_mma_split.cu), then over its blocks.
#pragma once

#include "cuda_mma_careful.cuh"

namespace attn::gpu {

constexpr int merge_threads = 128;
constexpr int most_splits = 64;  // two for each lane of the merging warp
constexpr float log2_e = 1.44269504f, ln_2 = 0.69314718f;

/// \brief Where a row's partial results are: (B, Hq, L, splits) of Ev + 2 floats, maximum and sum
/// last.
__device__ inline Index partial_at(const MmaProblem& p, Index b, Index h, Index i, int split) {
    return (((b * p.problem.Hq + h) * p.problem.L + i) * p.splits + split) * (p.problem.Ev + 2);
}

/// \brief Parts of one row, one in each lane, as a whole. Merged by maximum and sum and not by
///        logsumexp: beside a maximum of 1e9 the logarithm of a sum is lost to rounding.
/// \param part  0 sum and -inf maximum where there is none
/// \param share  what the lane's part contributes to the whole
__device__ inline RowState<float> merge_lanes(const RowState<float>& part, float unit,
                                              float& share) {
    RowState<float> whole = part;
    for (int step = 16; step > 0; step /= 2)
        whole.max = larger(whole.max, __shfl_xor_sync(~0u, whole.max, step));
    const float sum = part.sum == 0 ? 0.0f : part.sum * exp2_fast((part.max - whole.max) * unit);
    whole.sum = sum;
    for (int step = 16; step > 0; step /= 2) whole.sum += __shfl_xor_sync(~0u, whole.sum, step);
    share = whole.sum == 0 ? 0.0f : sum / whole.sum;
    return whole;
}

/// \brief One block per query row: out = sum of share * partial out, share = exp(lse - total lse).
template <class T>
__global__ void __launch_bounds__(merge_threads)
    merge_kernel(const __grid_constant__ MmaProblem p, const float* partial, Index first_block) {
    wait_for_last_kernel();
    const Problem& problem = p.problem;
    Index index = first_block + blockIdx.x;
    const Index i = index % problem.L, h = (index /= problem.L) % problem.Hq,
                b = index / problem.Hq;
    if (p.leaves(b, h)) return;
    const float* from = partial + partial_at(p, b, h, i, 0);  // (splits, Ev + 2)
    const Index stride = problem.Ev + 2;

    __shared__ float share[most_splits];
    __shared__ RowState<float> whole;
    const float unit = problem.mask_kind == MaskKind::none ? p.unit : log2_e;
    if (threadIdx.x < 32) {  // lane i merges parts i and i + 32, then the lanes merge
        const auto part = [&](int s) {
            return s < p.splits ? RowState<float>{from[s * stride + problem.Ev],
                                                  from[s * stride + problem.Ev + 1]}
                                : RowState<float>{};
        };
        const RowState<float> a = part(threadIdx.x), b2 = part(threadIdx.x + 32);
        const float top = larger(a.max, b2.max);
        const float sum_a = a.sum == 0 ? 0.0f : a.sum * exp2_fast((a.max - top) * unit);
        const float sum_b = b2.sum == 0 ? 0.0f : b2.sum * exp2_fast((b2.max - top) * unit);
        float mine;
        const RowState<float> merged = merge_lanes({top, sum_a + sum_b}, unit, mine);
        const float both = sum_a + sum_b;
        share[threadIdx.x] = both == 0 ? 0.0f : mine * (sum_a / both);
        share[threadIdx.x + 32] = both == 0 ? 0.0f : mine * (sum_b / both);
        if (threadIdx.x == 0) whole = merged;
    }
    __syncthreads();
    bool bad = false;
    for (Index e = threadIdx.x; e < problem.Ev; e += merge_threads) {
        float sum = 0;
#pragma unroll 8
        for (int s = 0; s < p.splits; ++s) sum += share[s] * from[s * stride + e];
        as<T, 4>(problem.out)(b, h, i, e) = T(sum);
        bad |= !(fabsf(sum) <= 3.4028234e38f);
    }
    if (threadIdx.x == 0 && !problem.logsumexp.absent())
        as<float, 3>(problem.logsumexp)(b, h, i) =
            whole.sum == 0 ? -CUDART_INF_F : whole.max * (unit * ln_2) + logf(whole.sum);
    // A value that is not finite, seen by this row: see cuda_mma_careful.cuh.
    if (__syncthreads_or(bad) && threadIdx.x < 32 && can_hide(problem))
        careful_row<T>(problem, b, h, i);
}

}  // namespace attn::gpu
