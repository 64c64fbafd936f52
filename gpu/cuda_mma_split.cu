/// \file
/// \brief `cuda_mma` for short queries (decoding): the keys are split over blocks, and over the
///        warps of a block; partial results merge by their logsumexp.
///
/// With one query row a tile of 128 rows would be nearly empty, and a block per head would leave
/// most multiprocessors idle while a few read all keys. So the query heads that share a key head
/// are packed, with their L rows, into tiles of 16 rows; each block takes one such tile and some
/// parts of the keys, and each of its warps every fourth step of 16 keys, through a pipeline of its
/// own: no barrier, only bytes in flight, also from part to part. The limit is the bandwidth of
/// memory.
///
/// The number of parts depends on S alone: results do not change with the batch. How many a block
/// takes depends on the device: each has a result of its own.
///
/// \par Source
/// Dao et al. 2023, "Flash-Decoding for long-context inference".
#include "cuda_mma_decode.hpp"
#include "cuda_mma_merge.cuh"
#include "cuda_mma_tile.cuh"
#include "device.hpp"

#include "saturate.hpp"

namespace attn::gpu {
namespace {

constexpr int warps = 4, tile_rows = 16, step_keys = 16;
constexpr int merge_rows = warps;  // whose results the warps of a block exchange at once

/// \brief Shared memory: the query tile, then per warp `stages` x (key step, value step), then the
///        warps' results for `merge_rows` rows. 64 KB of steps at HeadDim 128: two blocks on a
///        multiprocessor keep up to 128 KB in flight; more was slower (docs/steps_cuda.md).
template <class T, int HeadDim>
struct SplitShape : MmaShape<T, HeadDim, 1, 1, step_keys, (HeadDim < 256)> {
    // At 256 the queries would take 64 of the registers that `out` needs.
    using Base = MmaShape<T, HeadDim, 1, 1, step_keys, (HeadDim < 256)>;
    static constexpr int stages = 2;
    static constexpr int stage_bytes = 2 * Base::tile_bytes;
    static constexpr int warp_bytes = stages * stage_bytes;
    static constexpr int results_at = Base::query_bytes + warps * warp_bytes;
    static constexpr int shared_bytes = results_at + warps * merge_rows * results_row(HeadDim) * 4;
};

/// \param run     parts of the keys of a block
/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool masked, bool second>
__device__ __forceinline__ bool attend(const MmaProblem& p, float* partial, int run,
                                       Index first_block) {
    using T = typename Shape::Element;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim;
    extern __shared__ __align__(1024) unsigned char shared[];
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    Index index = first_block + blockIdx.x;
    const int runs = (p.splits + run - 1) / run;
    const int first_split = static_cast<int>(index % runs) * run;
    const int splits = min(run, p.splits - first_split);
    const int tile = static_cast<int>((index /= runs) % p.query_tiles);
    const Index hk = (index /= p.query_tiles) % problem.H, b = index / problem.H;
    const std::uint16_t* key = p.key + p.key_stride(b, hk, 0);
    const std::uint16_t* value = p.value + p.value_stride(b, hk, 0);

    // Keys [begin, end) in steps; the warps take turns, each as often in every part but the last.
    constexpr int turn_keys = warps * step_keys;
    const Index split_keys =
        ((problem.S + p.splits - 1) / p.splits + turn_keys - 1) / turn_keys * turn_keys;
    const int split_steps = static_cast<int>(split_keys / step_keys);
    const Index begin = first_split * split_keys;
    const Index limit = problem.visible(problem.L - 1);
    const Index end = begin + splits * split_keys < limit ? begin + splits * split_keys : limit;
    const int steps =
        end <= begin ? 0 : static_cast<int>((end - begin + step_keys - 1) / step_keys);

    const std::uint32_t query_tile = shared_address(shared);
    const std::uint32_t ring = query_tile + Shape::query_bytes + warp * Shape::warp_bytes;
    constexpr bool once =
        true;  // no other block reads these keys and values, for up to 16 packed rows
    const auto copy_step = [&](int step) {
        if (step >= steps) return;
        const Index at = begin + static_cast<Index>(step) * step_keys;
        const std::uint32_t to = ring + step / warps % Shape::stages * Shape::stage_bytes;
        copy_tile<step_keys, HD, 32, once>(to, key + at * p.key_stride.row, p.key_stride.row,
                                           end - at, p.query_columns, lane);
        copy_tile<step_keys, HD, 32, once>(to + Shape::tile_bytes, value + at * p.value_stride.row,
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
    // At 256 columns there are no registers to keep them: found anew for each step. Without a mask the
    // last steps alone ask.
    constexpr bool kept = masked && HD < 256;
    const auto row_of = [&](int half) {
        if constexpr (kept) return mine[half];
        return PackedRow(problem, hk, tile * tile_rows + fresh_lane() / 4 + 8 * half);
    };
    const auto masks_of = [&](int half, const PackedRow& row) {
        if constexpr (kept) return masks[half];
        return MaskRow(problem, b, row.exists ? row.h : 0, row.i);
    };
    const float unit = masked ? Rows::log2_e : p.unit;
    float* results =
        reinterpret_cast<float*>(shared + Shape::results_at);  // (warps, 4, results_row)
    __shared__ RowState<float> state[warps][tile_rows];
    const Index packed_left =
        problem.Hq / problem.H * problem.L - static_cast<Index>(tile) * tile_rows;
    const int rows_here = packed_left < tile_rows ? static_cast<int>(packed_left) : tile_rows;
    float check = 0;  // NaN if any element is NaN or infinite
    int step = warp;
    for (int split = 0; split < splits; ++split) {
        Rows rows;
        rows.clear();
        const int split_end = min(steps, (split + 1) * split_steps);
        for (; step < split_end; step += warps) {
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
                for (int half = 0; half < 2; ++half) {
                    const PackedRow row = row_of(half);
                    const MaskRow mask_row = masks_of(half, row);
                    const Index visible = row.exists ? problem.visible(row.i) : 0;
#pragma unroll
                    for (int n = 0; n < 2; ++n)
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            const Index j = first_key + 8 * n + i;
                            float& s = score[0][n][2 * half + i];
                            if (j >= visible)
                                s = -CUDART_INF_F;
                            else if constexpr (masked) {
                                const float mask = mask_row.template at<float>(j);
                                s = mask == -CUDART_INF_F ? mask : fmaf(s, p.scale, mask);
                            }
                        }
                }
            }
            rows.grow(score, unit);
            rows.weigh(score, unit, weights);
            rows.add_values(weights, stage + value_lane);
            __syncwarp();  // the step may be overwritten
        }

        // ---- the warps' results, each normalised, row by row; the pipeline runs on meanwhile
        rows.finish_sums();
#pragma unroll
        for (int n = 0; n < HD / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) check += 0 * rows.out[0][n][i];
        merge_warps<warps, HD>(
            rows, results, state, rows_here, unit, state_at(problem.Ev), [] { __syncthreads(); },
            [&](int row, const RowState<float>& whole) {
                const PackedRow packed(problem, hk, tile * tile_rows + row);
                float* to = partial + partial_at(p, b, packed.h, packed.i, first_split + split);
                // A row that sees a value that is not finite: NaN makes the merge compute it key
                // by key.
                const Index from = begin + split * split_keys;
                const bool spoilt =
                    second && meets_infinite<T>(problem, b, packed.h, packed.i, from,
                                                from + split_keys < end ? from + split_keys : end);
                if (lane == 0) {
                    float* const state = to + state_at(problem.Ev);
                    state[0] = whole.max;
                    state[1] = spoilt ? CUDART_NAN_F : whole.sum;
                }
                return to;
            });
    }
    copy_async_wait<0>();
    return check == 0;
}

/// Not inlined: the registers of the first time are not to know of the second.
template <class Shape, bool masked>
__device__ __noinline__ void attend_again(const MmaProblem& p, float* partial, int run,
                                          Index first_block) {
    attend<Shape, masked, true>(p, partial, run, first_block);
}

template <class Shape, bool masked>
__global__ void __launch_bounds__(32 * warps)
    split_kernel(const __grid_constant__ MmaProblem p, float* partial, int run, Index first_block) {
    start_next_kernel();
    const bool finite = attend<Shape, masked, false>(p, partial, run, first_block);
    if (can_hide(p.problem) && __syncthreads_or(!finite))
        attend_again<Shape, masked>(p, partial, run, first_block);
}

/// \brief Parts for each block: as many as leave four blocks, two at a time, for a multiprocessor.
int parts_of_block(const MmaProblem& p) {
    const Index tiles = p.problem.B * p.problem.H * p.query_tiles;
    const Index places = 4 * (multiprocessors() > 0 ? multiprocessors() : 1);
    const Index runs = places / tiles;  // of a tile
    if (runs > 0) return static_cast<int>((p.splits + runs - 1) / runs);
    const Index run = tiles * p.splits / (2 * places);
    return static_cast<int>(run < 1 ? 1 : (run < p.splits ? run : p.splits));
}

template <class T, int HeadDim>
void launch_both(const MmaProblem& p, float* partial, cudaStream_t stream) {
    using Shape = SplitShape<T, HeadDim>;
    const Problem& problem = p.problem;
    const int run = parts_of_block(p);
    const Index blocks = problem.B * problem.H * p.query_tiles * ((p.splits + run - 1) / run);
    if (problem.mask_kind == MaskKind::none)
        launch<split_kernel<Shape, false>>(blocks, 32 * warps, Shape::shared_bytes, stream, p,
                                           partial, run);
    else
        launch<split_kernel<Shape, true>>(blocks, 32 * warps, Shape::shared_bytes, stream, p,
                                          partial, run);
    launch_merge<T>(p, partial, stream);
}

}  // namespace

int split_count(const Problem& p) {
    constexpr Index least_keys = 512;  // of a part
    const Index parts = (p.S + least_keys - 1) / least_keys;
    return static_cast<int>(parts < 1 ? 1 : (parts < most_splits ? parts : most_splits));
}

std::size_t split_partial_size(const Problem& p) {
    return (counted(p.B) * counted(p.Hq) * counted(p.L) * counted(split_count(p)) *
            counted(part_floats(p.Ev)))
        .count;
}

void set_split(MmaProblem& p) {
    const Index rows = p.problem.Hq / p.problem.H * p.problem.L;
    p.query_tiles = static_cast<int>((rows + tile_rows - 1) / tile_rows);
    p.splits = split_count(p.problem);
}

bool split_has_partial(const MmaProblem& p) { return !can_decode(p) || !merges_itself(p); }

template <class T>
void launch_split(const MmaProblem& p, float* partial, cudaStream_t stream) {
    if (can_decode(p)) return launch_decode<T>(p, partial, stream);
    const Index widest = p.problem.E > p.problem.Ev ? p.problem.E : p.problem.Ev;
    if (widest <= 64) return launch_both<T, 64>(p, partial, stream);
    if (widest <= 128) return launch_both<T, 128>(p, partial, stream);
    return launch_both<T, 256>(p, partial, stream);
}
template <class T>
void launch_merge(const MmaProblem& p, const float* partial, cudaStream_t stream) {
    launch_early<merge_kernel<T>>(p.problem.B * p.problem.Hq * p.problem.L, merge_threads, 0,
                                  stream, p, partial);
}
template void launch_split<float16>(const MmaProblem&, float*, cudaStream_t);
template void launch_split<bfloat16>(const MmaProblem&, float*, cudaStream_t);
template void launch_merge<float16>(const MmaProblem&, const float*, cudaStream_t);
template void launch_merge<bfloat16>(const MmaProblem&, const float*, cudaStream_t);

}  // namespace attn::gpu
