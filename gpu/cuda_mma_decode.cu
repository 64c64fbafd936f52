/// \file
/// \brief `cuda_mma` for short queries (decoding) on sm_90a: the split kernel (cuda_mma_split.cu)
///        fed by the copy engine.
///
/// Decoding is bound by the bandwidth of memory, and that by the bytes in flight: here one thread does
/// nothing but start copies, and is ahead of the others by as many tiles of keys and values as
/// shared memory has room for, also from part to part and from head to head. One block a
/// multiprocessor, each with as many parts as any other, so that all end at once.
///
///     shared memory  tiles    (stages, HeadDim / 64, 64, 64)  planes (wgmma.cuh) of keys, and of
///                             values, in turn; warp w uses keys 16 w .. of each
///                    results  (4, 4, HeadDim)  of warp, row: see `merge_warps`
///                    parts    (rows, splits, Ev + 2)  partial results, where they fit
///
/// Parts, and the operations on each, are those of the split kernel: the same bits come out. Where a
/// block has all parts of its heads, it merges them itself, and there is no second kernel.
///
/// \par Source
/// Dao et al. 2023, "Flash-Decoding for long-context inference".
#include "cuda_mma_decode.hpp"
#include "cuda_mma_merge.cuh"
#include "cuda_mma_tile.cuh"
#include "device.hpp"
#include "wgmma.cuh"

namespace attn::gpu {
namespace {

constexpr int warps = 4, tile_rows = 16, step_keys = 16;
constexpr int tile_keys = warps * step_keys;
constexpr int consumers = 32 * warps, threads = consumers + 32;

/// \brief Tiles lie in planes of 64 columns, rows of 128 bytes.
template <class T, int HeadDim>
struct DecodeShape : MmaShape<T, HeadDim, 1, 1, step_keys, true> {
    static constexpr int row_bytes = 128;
    static constexpr int planes = HeadDim / 64, plane_bytes = tile_keys * row_bytes;
    static constexpr int tile_bytes = planes * plane_bytes;
    static constexpr int stages = 96 * 1024 / tile_bytes;  // more were slower
    static constexpr int results_at = stages * tile_bytes;
    static constexpr int shares_at = results_at + warps * warps * HeadDim * 4;
    static constexpr int state_at = shares_at + warps * most_splits * 4;
    static constexpr int barriers_at = state_at + warps * tile_rows * 8;
    static constexpr int parts_at = barriers_at + 16 * stages;
    static constexpr int parts_bytes = 4 * 16 * (HeadDim + 2) * 4;      // 4 rows, 8192 keys
    static constexpr int shared_bytes = parts_at + parts_bytes + 1024;  // tiles start at 1024 bytes
};

/// \brief What the blocks share out.
struct DecodeWork {
    float* partial;    ///< see `partial_at`; null: blocks merge for themselves, in shared memory
    Index parts;       ///< in all
    Index run;         ///< parts of a block
    Index split_keys;  ///< keys of a part: whole tiles
    int rows, L;       ///< packed rows of a key head, at most 64; of them of a query head
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief A part of the keys for a tile of query rows: the work between two results. Found by
///        divisions once, then by counting: a division of 64 bits takes long.
struct Part {
    Index left;  ///< parts of this block from here on
    Index b, hk;
    int tile, split;

    __device__ Part(const MmaProblem& p, const DecodeWork& work) {
        Index number = blockIdx.x * work.run;
        left = number + work.run < work.parts ? work.run : work.parts - number;
        split = static_cast<int>(number % p.splits);
        tile = static_cast<int>((number /= p.splits) % p.query_tiles);
        hk = (number /= p.query_tiles) % p.problem.H, b = number / p.problem.H;
    }
    __device__ void next(const MmaProblem& p) {
        --left;
        if (++split < p.splits) return;
        split = 0;
        if (++tile < p.query_tiles) return;
        tile = 0;
        if (++hk < p.problem.H) return;
        hk = 0, ++b;
    }
    __device__ Index begin(const DecodeWork& work) const { return split * work.split_keys; }
    __device__ Index end(const MmaProblem& p, const DecodeWork& work) const {
        const Index end = begin(work) + work.split_keys;
        return end < p.problem.S ? end : p.problem.S;
    }
    /// \brief Query head and row of a packed row.
    __device__ Index head(const DecodeWork& work, int row) const {
        return hk * (work.rows / work.L) + (tile * tile_rows + row) / work.L;
    }
    __device__ int row(const DecodeWork& work, int row) const {
        return (tile * tile_rows + row) % work.L;
    }
};

/// \brief The query rows of a tile as A fragments, from global memory: once for many keys.
template <class Shape>
struct DecodeQueries {
    std::uint32_t kept[Shape::HeadDim / 16][4];

    __device__ void load(const MmaProblem& p, const DecodeWork& work, const Part& part) {
        using T = typename Shape::Element;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = c_row(lane, 2 * half);
            const bool exists = part.tile * tile_rows + row < work.rows;
            const std::uint16_t* const from =
                p.query +
                (exists ? p.query_stride(part.b, part.head(work, row), part.row(work, row)) : 0);
#pragma unroll
            for (int n = 0; n < Shape::HeadDim / 8; ++n) {
                const int column = 8 * n + c_column(lane, 0);
                std::uint32_t two = 0;
                if (exists && column < p.query_columns)
                    two = *reinterpret_cast<const std::uint32_t*>(from + column);
                if (p.query_factor != 1)
                    two = pack<T>(low_float<T>(two) * p.query_factor,
                                  high_float<T>(two) * p.query_factor);
                kept[n / 2][n % 2 * 2 + half] = two;
            }
        }
    }
    __device__ void get(int, int k, std::uint32_t (&a)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = kept[k][i];
    }
};

/// \brief The tiles in shared memory, one after the other, and their barriers: *full* when the bytes
///        have arrived, *empty* when all warps have read them.
template <class Shape>
struct Ring {
    std::uint32_t memory;
    int stage = 0, parity = 0;

    __device__ std::uint32_t tile() const { return memory + stage * Shape::tile_bytes; }
    __device__ std::uint32_t full() const { return memory + Shape::barriers_at + 16 * stage; }
    __device__ std::uint32_t empty() const { return full() + 8; }
    __device__ void next() {
        if (++stage == Shape::stages) stage = 0, parity ^= 1;
    }
};

/// \brief Copies all that the block needs, as room comes free. The work of one thread.
template <class Shape>
__device__ void copy_parts(const MmaProblem& p, const CUtensorMap& keys, const CUtensorMap& values,
                           const DecodeWork& work, Ring<Shape> ring) {
    const bool once = p.query_tiles == 1;  // no other block reads these keys and values
    const auto copy = [&](const CUtensorMap& map, const Strides& stride, Index at,
                          const Part& part) {
        barrier_wait(ring.empty(), ring.parity ^ 1);
        barrier_expect(ring.full(), Shape::tile_bytes);
#pragma unroll
        for (int plane = 0; plane < Shape::planes; ++plane)
            copy_box(ring.tile() + plane * Shape::plane_bytes, &map, plane * 64,
                     static_cast<int>(at), stride.head == 0 ? 0 : static_cast<int>(part.hk),
                     stride.batch == 0 ? 0 : static_cast<int>(part.b), ring.full(), once);
        ring.next();
    };
    for (Part part(p, work); part.left > 0; part.next(p)) {
        const Index end = part.end(p, work);
        for (Index at = part.begin(work); at < end; at += tile_keys) {
            copy(keys, p.key_stride, at, part);
            copy(values, p.value_stride, at, part);
        }
    }
}

/// \brief A row whose parts are all there becomes a row of the output. The work of a warp.
/// \param parts  (splits, Ev + 2)
template <class T>
__device__ void write_whole(const MmaProblem& p, const float* parts, float* share, Index b, Index h,
                            Index i) {
    if (p.leaves(b, h)) return;
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32;
    const RowState<float> whole = merge_parts(parts, p.splits, problem.Ev, p.unit, share);
    __syncwarp();  // the shares are there
    for (Index e = lane; e < problem.Ev; e += 32)
        as<T, 4>(problem.out)(b, h, i, e) = T(merged_column(parts, p.splits, problem.Ev, share, e));
    if (lane == 0) write_logsumexp(problem, b, h, i, whole, p.unit);
    __syncwarp();  // they have been read
}

/// \brief What the other warps do.
template <class Shape>
__device__ void attend_parts(const MmaProblem& p, const DecodeWork& work, unsigned char* shared,
                             Ring<Shape> ring) {
    using Rows = WarpRows<Shape>;
    using T = typename Shape::Element;
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const std::uint32_t key_lane =
                            swizzled<128>(warp * step_keys + b_lane_row(lane), b_lane_piece(lane)),
                        value_lane =
                            swizzled<128>(warp * step_keys + a_lane_row(lane), a_lane_piece(lane));
    auto* const results = reinterpret_cast<float*>(shared + Shape::results_at);
    auto* const share = reinterpret_cast<float*>(shared + Shape::shares_at) + warp * most_splits;
    auto* const state =
        reinterpret_cast<RowState<float>(*)[tile_rows]>(shared + Shape::state_at);  // (warps, 16)
    auto* const parts = reinterpret_cast<float*>(shared + Shape::parts_at);
    const Index part_size = problem.Ev + 2, row_size = p.splits * part_size;  // floats
    DecodeQueries<Shape> queries;
    bool fresh = true;  // this tile of rows
    const auto read = [&] {
        __syncwarp();  // the warp has read the tile
        if (lane == 0) barrier_arrive(ring.empty());
        ring.next();
    };
    for (Part part(p, work); part.left > 0; part.next(p)) {
        if (fresh) queries.load(p, work, part);
        const Index end = part.end(p, work);
        Rows rows;
        rows.clear();
        for (Index at = part.begin(work); at < end; at += tile_keys) {
            const Index first_key = at + warp * step_keys;
            const bool any = first_key < end;  // as in the split kernel: no step without a key
            typename Rows::Scores score;
            typename Rows::Weights weights;
            barrier_wait(ring.full(), ring.parity);
            if (any) Rows::multiply(score, queries, ring.tile() + key_lane);
            read();
            if (any) {
                if (first_key + step_keys > end) {
#pragma unroll
                    for (int n = 0; n < 2; ++n)
#pragma unroll
                        for (int i = 0; i < 4; ++i)
                            if (first_key + 8 * n + c_column(lane, i) >= end)
                                score[0][n][i] = -CUDART_INF_F;
                }
                rows.grow(score, p.unit);
                rows.weigh(score, p.unit, weights);
            }
            barrier_wait(ring.full(), ring.parity);
            if (any) rows.add_values(weights, ring.tile() + value_lane);
            read();
        }
        rows.finish_sums();
        const int first_row = part.tile * tile_rows;
        const int rows_here = min(tile_rows, work.rows - first_row);
        float* to = parts + part.split * part_size;
        if (work.partial != nullptr) {
            const Index row = (part.b * problem.H + part.hk) * work.rows + first_row;
            to = work.partial + row * row_size + part.split * part_size;
        }
        merge_warps<warps, Shape::HeadDim>(
            rows, results, state, rows_here, p.unit, problem.Ev, [] { barrier_of(1, consumers); },
            [&](int row, const RowState<float>& whole) {
                float* const own = to + row * row_size;
                if (lane == 0) own[problem.Ev] = whole.max, own[problem.Ev + 1] = whole.sum;
                return own;
            });
        fresh = part.split == p.splits - 1;
        if (work.partial == nullptr && fresh) {
            __syncwarp();  // the parts of a row are all of this warp
            for (int row = warp; row < rows_here; row += warps)
                write_whole<T>(p, parts + row * row_size, share, part.b, part.head(work, row),
                               part.row(work, row));
        }
    }
}

#endif  // sm_90a

template <class Shape>
__global__ void __launch_bounds__(threads, 1)
    decode_kernel(const __grid_constant__ MmaProblem p, const __grid_constant__ CUtensorMap keys,
                  const __grid_constant__ CUtensorMap values,
                  const __grid_constant__ DecodeWork work, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
    start_next_kernel();
    Ring<Shape> ring{shared_address(shared)};
    if (threadIdx.x == 0) {
        for (; ring.stage < Shape::stages; ++ring.stage) {
            barrier_set(ring.full(), 1);
            barrier_set(ring.empty(), warps);
        }
        ring.stage = 0;
        fence_shared_for_wgmma();
    }
    __syncthreads();  // the barriers are there
    wait_for_last_kernel();
    if (threadIdx.x < consumers)
        attend_parts<Shape>(p, work, shared, ring);
    else if (threadIdx.x == consumers)
        copy_parts<Shape>(p, keys, values, work, ring);
#endif
}

Index parts_of(const MmaProblem& p) { return p.problem.B * p.problem.H * p.query_tiles * p.splits; }
/// \brief Parts of a block.
Index run_of(Index parts) {
    const Index places = multiprocessors();
    return (parts + places - 1) / places;
}
/// \brief Are most multiprocessors busy to the end? Else the split kernel, of smaller blocks.
bool is_even(Index parts) {
    const Index run = run_of(parts);
    return run == 1 || 5 * parts >= 4 * run * multiprocessors();
}

template <class T, int HeadDim>
void launch_shape(const MmaProblem& p, float* partial, cudaStream_t stream) {
    using Shape = DecodeShape<T, HeadDim>;
    const Problem& problem = p.problem;
    DecodeWork work;
    work.parts = parts_of(p);
    work.run = run_of(work.parts);
    work.split_keys = split_keys(p);
    work.rows = static_cast<int>(problem.Hq / problem.H * problem.L);
    work.L = static_cast<int>(problem.L);
    // The merge of rows that could meet hidden values stays in its own kernel.
    const Index at_once = work.rows < tile_rows ? work.rows : tile_rows;
    const bool whole = work.run % p.splits == 0 && !can_hide(problem) &&
                       at_once * p.splits * (problem.Ev + 2) * 4 <= Shape::parts_bytes;
    work.partial = whole ? nullptr : partial;
    // Longer reads than were asked for, and the bandwidth falls: see docs/steps_cuda.md.
    const auto map = [](const MappedRows& rows) {
        return map_rows(rows, tile_keys, CU_TENSOR_MAP_L2_PROMOTION_NONE);
    };
    launch_early<decode_kernel<Shape>>((work.parts + work.run - 1) / work.run, threads,
                                       Shape::shared_bytes, stream, p, map(mapped_keys(p)),
                                       map(mapped_values(p)), work);
    if (!whole) launch_merge<T>(p, partial, stream);
}

}  // namespace

bool can_decode(const MmaProblem& p) {
    const Problem& problem = p.problem;
    const Index widest = problem.E > problem.Ev ? problem.E : problem.Ev;
    // Up to 64 columns the thread that copies is the limit, and the split kernel is faster.
    return widest > 64 && widest <= 128 && problem.mask_kind == MaskKind::none &&
           problem.visible(0) == problem.S && has_wgmma() && can_map(mapped_keys(p)) &&
           can_map(mapped_values(p)) && is_even(parts_of(p));
}

template <class T>
void launch_decode(const MmaProblem& p, float* partial, cudaStream_t stream) {
    launch_shape<T, 128>(p, partial, stream);
}
template void launch_decode<float16>(const MmaProblem&, float*, cudaStream_t);
template void launch_decode<bfloat16>(const MmaProblem&, float*, cudaStream_t);

}  // namespace attn::gpu
