/// \file
/// \brief `cuda_mma` for short queries (decoding): the keys are split over blocks, and over the
///        warps of a block; partial results merge by their logsumexp.
///
/// With one query row a tile of 128 rows would be nearly empty, and a block per head would leave
/// most multiprocessors idle while a few read all keys. So the query heads that share a key head
/// are packed, with their L rows, into tiles of 16 rows; each block takes one such tile and a part
/// of the keys, and each of its warps every fourth step of 16 keys, through a pipeline of its own:
/// no barrier, only bytes in flight. The limit is the bandwidth of memory.
///
/// The number of parts depends on S alone: results do not change with the batch.
///
/// \par Source
/// Dao et al. 2023, "Flash-Decoding for long-context inference".
#include "cuda_mma_careful.cuh"
#include "cuda_mma_tile.cuh"
#include "device.hpp"

#include "saturate.hpp"

namespace attn::gpu {
namespace {

constexpr int warps = 4, tile_rows = 16, step_keys = 16;
constexpr int merge_threads = 128;
constexpr int most_splits = 64;  // two for each lane of the merging warp
constexpr float log2_e = 1.44269504f, ln_2 = 0.69314718f;

/// \brief Shared memory: the query tile, then per warp `stages` x (key step, value step). 96 KB of
///        steps at HeadDim 128: two blocks on a multiprocessor keep 128 KB in flight.
template <class T, int HeadDim>
struct SplitShape : MmaShape<T, HeadDim, 1, 1, step_keys, (HeadDim < 256)> {
    // At 256 the queries would take 64 of the registers that `out` needs.
    using Base = MmaShape<T, HeadDim, 1, 1, step_keys, (HeadDim < 256)>;
    static constexpr int stages = 3;
    static constexpr int stage_bytes = 2 * Base::tile_bytes;
    static constexpr int warp_bytes = stages * stage_bytes;
    static constexpr int shared_bytes = Base::query_bytes + warps * warp_bytes;
    static_assert(warp_bytes >= tile_rows * HeadDim * 4, "a warp's result takes the steps' place");
};

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

//! [split kernel]
/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool masked, bool second>
__device__ __forceinline__ bool attend(const MmaProblem& p, float* partial, Index first_block) {
    using T = typename Shape::Element;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim;
    extern __shared__ __align__(1024) unsigned char shared[];
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    Index index = first_block + blockIdx.x;
    const int split = static_cast<int>(index % p.splits);
    const int tile = static_cast<int>((index /= p.splits) % p.query_tiles);
    const Index hk = (index /= p.query_tiles) % problem.H, b = index / problem.H;
    const std::uint16_t* key = p.key + p.key_stride(b, hk, 0);
    const std::uint16_t* value = p.value + p.value_stride(b, hk, 0);

    // Keys [begin, end) in steps; the warps take turns.
    const Index per_split =
        ((problem.S + p.splits - 1) / p.splits + step_keys - 1) / step_keys * step_keys;
    const Index begin = split * per_split;
    const Index limit = problem.visible(problem.L - 1);
    const Index end = begin + per_split < limit ? begin + per_split : limit;
    const int steps =
        end <= begin ? 0 : static_cast<int>((end - begin + step_keys - 1) / step_keys);

    const std::uint32_t query_tile = shared_address(shared);
    const std::uint32_t ring = query_tile + Shape::query_bytes + warp * Shape::warp_bytes;
    const auto copy_step = [&](int step) {
        if (step >= steps) return;
        const Index at = begin + static_cast<Index>(step) * step_keys;
        const std::uint32_t to = ring + step / warps % Shape::stages * Shape::stage_bytes;
        copy_tile<step_keys, HD, 32>(to, key + at * p.key_stride.row, p.key_stride.row, end - at,
                                     p.query_columns, lane);
        copy_tile<step_keys, HD, 32>(to + Shape::tile_bytes, value + at * p.value_stride.row,
                                     p.value_stride.row, end - at, p.value_columns, lane);
    };

    for (int i = threadIdx.x; i < tile_rows * HD / 8; i += 32 * warps) {
        const int row = i / (HD / 8), piece = i % (HD / 8);
        const PackedRow packed(problem, hk, tile * tile_rows + row);
        copy_async_16(query_tile + swizzled<Shape::row_bytes>(row, piece),
                      p.query + p.query_stride(b, packed.h, packed.i) + piece * 8,
                      packed.exists && piece * 8 < p.query_columns);
    }
    copy_async_commit();
    for (int s = 0; s < Shape::stages - 1; ++s) {
        copy_step(warp + s * warps);
        copy_async_commit();
    }
    copy_async_wait<Shape::stages - 1>();
    __syncthreads();  // the query tile has arrived
    if (p.query_factor != 1) {
        multiply_tile<T>(reinterpret_cast<std::uint16_t*>(shared), tile_rows * HD, p.query_factor,
                         32 * warps);
        __syncthreads();
    }

    const QueryFragments<typename Shape::Base> fragments(
        query_tile + swizzled<Shape::row_bytes>(lane % 16, lane / 16));
    const std::uint32_t key_lane =
        swizzled<Shape::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const std::uint32_t value_lane =
        Shape::tile_bytes + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    const PackedRow mine[2] = {{problem, hk, tile * tile_rows + lane / 4},
                               {problem, hk, tile * tile_rows + lane / 4 + 8}};
    const MaskRow masks[2] = {{problem, b, mine[0].exists ? mine[0].h : 0, mine[0].i},
                              {problem, b, mine[1].exists ? mine[1].h : 0, mine[1].i}};
    const float unit = masked ? Rows::log2_e : p.unit;
    Rows rows;
    rows.clear();
    for (int step = warp; step < steps; step += warps) {
        copy_step(step + (Shape::stages - 1) * warps);
        copy_async_commit();
        copy_async_wait<Shape::stages - 1>();
        __syncwarp();  // this step has arrived for all lanes
        const std::uint32_t stage = ring + step / warps % Shape::stages * Shape::stage_bytes;
        if (second) {
            make_finite<T>(shared + (stage - query_tile) + Shape::tile_bytes, Shape::tile_bytes,
                           lane, 32);
            __syncwarp();
        }
        typename Rows::Scores score;
        typename Rows::Weights weights;
        Rows::multiply(score, fragments, stage + key_lane);
        const Index first_key = begin + static_cast<Index>(step) * step_keys + 2 * (lane % 4);
        if (masked || first_key + step_keys > problem.visible(0)) {
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const PackedRow& row = mine[i / 2];
                    const Index j = first_key + 8 * n + i % 2;
                    float& s = score[0][n][i];
                    if (!row.exists || j >= problem.visible(row.i))
                        s = -CUDART_INF_F;
                    else if constexpr (masked) {
                        const float mask = masks[i / 2].template at<float>(j);
                        s = mask == -CUDART_INF_F ? mask : fmaf(s, p.scale, mask);
                    }
                }
        }
        rows.grow(score, unit);
        rows.weigh(score, unit, weights);
        rows.add_values(weights, stage + value_lane);
        __syncwarp();  // the step may be overwritten
    }
    copy_async_wait<0>();
    __syncwarp();
    float check = 0;  // NaN if any element is NaN or infinite
#pragma unroll
    for (int n = 0; n < HD / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) check += 0 * rows.out[0][n][i];
    //! [split kernel]

    // ---- the warps' results, each normalised, with its logsumexp; then one row by one
    __syncthreads();
    rows.finish_sums();
    __shared__ RowState<float> state[warps][tile_rows];
    float* out = reinterpret_cast<float*>(shared + Shape::query_bytes);  // (warps, 16, HD)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = lane / 4 + 8 * half;
        const float inverse = rows.sum[0][half] == 0 ? 0.0f : 1 / rows.sum[0][half];
#pragma unroll
        for (int n = 0; n < HD / 8; ++n)
            *reinterpret_cast<float2*>(&out[(warp * tile_rows + row) * HD + 8 * n + lane % 4 * 2]) =
                make_float2(rows.out[0][n][2 * half] * inverse,
                            rows.out[0][n][2 * half + 1] * inverse);
        if (lane % 4 == 0) state[warp][row] = {rows.max[0][half], rows.sum[0][half]};
    }
    __syncthreads();
    for (int row = warp; row < tile_rows; row += warps) {
        const PackedRow packed(problem, hk, tile * tile_rows + row);
        if (!packed.exists) continue;
        float* to = partial + partial_at(p, b, packed.h, packed.i, split);
        float share;
        const RowState<float> whole =
            merge_lanes(lane < warps ? state[lane][row] : RowState<float>{}, unit, share);
        for (Index e = lane; e - lane < problem.Ev; e += 32) {
            float sum = 0;
#pragma unroll
            for (int w = 0; w < warps; ++w) {
                const float part = __shfl_sync(~0u, share, w);
                if (e < HD) sum += part * out[(w * tile_rows + row) * HD + e];
            }
            if (e < problem.Ev) to[e] = sum;
        }
        // A row that sees a value that is not finite: NaN makes the merge compute it key by key.
        const bool spoilt = second && meets_infinite<T>(problem, b, packed.h, packed.i, begin, end);
        if (lane == 0) {
            to[problem.Ev] = whole.max;
            to[problem.Ev + 1] = spoilt ? CUDART_NAN_F : whole.sum;
        }
    }
    return check == 0;
}

/// Not inlined: the registers of the first time are not to know of the second.
template <class Shape, bool masked>
__device__ __noinline__ void attend_again(const MmaProblem& p, float* partial, Index first_block) {
    attend<Shape, masked, true>(p, partial, first_block);
}

template <class Shape, bool masked>
__global__ void __launch_bounds__(32 * warps)
    split_kernel(const __grid_constant__ MmaProblem p, float* partial, Index first_block) {
    const bool finite = attend<Shape, masked, false>(p, partial, first_block);
    if (can_hide(p.problem) && __syncthreads_or(!finite))
        attend_again<Shape, masked>(p, partial, first_block);
}

//! [merge kernel]
/// \brief One block per query row: out = sum of share * partial out, share = exp(lse - total lse).
template <class T>
__global__ void __launch_bounds__(merge_threads)
    merge_kernel(const __grid_constant__ MmaProblem p, const float* partial, Index first_block) {
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
//! [merge kernel]

template <class T, int HeadDim>
void launch_both(const MmaProblem& p, float* partial, cudaStream_t stream) {
    using Shape = SplitShape<T, HeadDim>;
    const Problem& problem = p.problem;
    const Index blocks = problem.B * problem.H * p.query_tiles * p.splits;
    if (problem.mask_kind == MaskKind::none)
        launch<split_kernel<Shape, false>>(blocks, 32 * warps, Shape::shared_bytes, stream, p,
                                           partial);
    else
        launch<split_kernel<Shape, true>>(blocks, 32 * warps, Shape::shared_bytes, stream, p,
                                          partial);
    launch<merge_kernel<T>>(problem.B * problem.Hq * problem.L, merge_threads, 0, stream, p,
                            static_cast<const float*>(partial));
}

}  // namespace

int split_count(const Problem& p) {
    constexpr Index least_keys = 512;  // of a part
    const Index parts = (p.S + least_keys - 1) / least_keys;
    return static_cast<int>(parts < 1 ? 1 : (parts < most_splits ? parts : most_splits));
}

std::size_t split_partial_size(const Problem& p) {
    return (counted(p.B) * counted(p.Hq) * counted(p.L) * counted(split_count(p)) *
            counted(p.Ev + 2))
        .count;
}

template <class T>
void launch_split(MmaProblem p, float* partial, cudaStream_t stream) {
    const Index rows = p.problem.Hq / p.problem.H * p.problem.L;
    p.query_tiles = static_cast<int>((rows + tile_rows - 1) / tile_rows);
    p.splits = split_count(p.problem);
    const Index widest = p.problem.E > p.problem.Ev ? p.problem.E : p.problem.Ev;
    if (widest <= 64) return launch_both<T, 64>(p, partial, stream);
    if (widest <= 128) return launch_both<T, 128>(p, partial, stream);
    return launch_both<T, 256>(p, partial, stream);
}
template void launch_split<float16>(MmaProblem, float*, cudaStream_t);
template void launch_split<bfloat16>(MmaProblem, float*, cudaStream_t);

}  // namespace attn::gpu
