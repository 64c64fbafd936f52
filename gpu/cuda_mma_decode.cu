/// \file
/// \brief `cuda_mma` for short queries (decoding) on sm_90a: the split kernel (cuda_mma_split.cu)
///        fed by the copy engine.
///
/// Decoding is bound by the bandwidth of memory, and that by the bytes in flight: here some threads do
/// nothing but start copies, and are ahead of the others by as many tiles of keys and values as
/// shared memory has room for, also from part to part and from head to head. One block a
/// multiprocessor, each with as many parts as any other. Multiprocessors do not read equally fast, and
/// the slow ones catch up when others have ended, unless their warps hold them back: four of them,
/// which wait for one result after the other, are busy three quarters of the time. So there are two
/// teams of four, each with a thread that copies, and with every second part.
///
///     shared memory  tiles    (stages, HeadDim / 64, 64, 64)  planes (wgmma.cuh) of keys, and of
///                             values, in turn; warp w uses keys 16 w .. of each; for each team
///                             half of the stages
///                    results  (teams, 4, 4, results_row)  of warp, row: see `merge_warps`
///                    parts    (rows, splits, part_floats)  partial results, where they fit
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
#include "divisor.cuh"
#include "wgmma.cuh"

namespace attn::gpu {
namespace {

constexpr int warps = 4, tile_rows = 16, step_keys = 16;
constexpr int tile_keys = warps * step_keys;
constexpr int most_row_parts = 4 * 16;  // partial results in shared memory: 4 rows, 8192 keys
constexpr int most_teams = 2, team_threads = 32 * warps;
constexpr int consumers = most_teams * team_threads, threads = consumers + 32 * most_teams;

/// \brief Tiles lie in planes of 64 columns, rows of 128 bytes.
template <class T, int HeadDim>
struct DecodeShape : MmaShape<T, HeadDim, 1, 1, step_keys, true> {
    static constexpr int row_bytes = 128;
    static constexpr int planes = HeadDim / 64, plane_bytes = tile_keys * row_bytes;
    static constexpr int tile_bytes = planes * plane_bytes;
    static constexpr int stages = 96 * 1024 / tile_bytes;  // of all teams; more were slower
    static constexpr int results_floats = warps * warps * results_row(HeadDim);
    static constexpr int results_at = stages * tile_bytes;
    static constexpr int shares_at = results_at + most_teams * results_floats * 4;
    static constexpr int states_at = shares_at + most_teams * warps * most_splits * 4;
    static constexpr int barriers_at = states_at + most_teams * warps * tile_rows * 8;
    static constexpr int parts_at = (barriers_at + 16 * stages + 15) / 16 * 16;
    static constexpr int parts_bytes = most_row_parts * static_cast<int>(part_floats(HeadDim)) * 4;
    static constexpr int shared_bytes = parts_at + parts_bytes + 1024;  // tiles start at 1024 bytes
};

/// \brief What the blocks share out.
struct DecodeWork {
    float* partial;    ///< see `partial_at`; null: blocks merge for themselves, in shared memory
    int parts;         ///< in all
    int run;           ///< parts of a block
    int teams;         ///< 1 where parts do not come in pairs: that team has all stages
    Index split_keys;  ///< keys of a part: whole tiles
    int rows, group;   ///< packed rows of a key head, at most 64; query heads of it
    Divisor of_splits, of_tiles, of_heads, of_L;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief As many parts of the keys as there are teams, for a tile of query rows.
struct Turn {
    int left;  ///< parts of this block from here on
    int b, hk;
    int tile, split;  ///< the first team's part

    __device__ Turn(const DecodeWork& work) {
        const unsigned number = blockIdx.x * work.run;
        left = min(work.run, work.parts - static_cast<int>(number));
        const unsigned tiles = work.of_splits(number), heads = work.of_tiles(tiles);
        split = work.of_splits.rest(number, tiles);
        tile = work.of_tiles.rest(tiles, heads);
        b = work.of_heads(heads), hk = work.of_heads.rest(heads, b);
    }
    __device__ void next(const MmaProblem& p, const DecodeWork& work) {
        left -= work.teams;
        if ((split += work.teams) < p.splits) return;
        split = 0;
        if (++tile < p.query_tiles) return;
        tile = 0;
        if (++hk < p.problem.H) return;
        hk = 0, ++b;
    }
    /// \brief The keys of a team's part.
    __device__ Index begin(const DecodeWork& work, int team) const {
        return (split + team) * work.split_keys;
    }
    __device__ Index end(const MmaProblem& p, const DecodeWork& work, int team) const {
        const Index end = begin(work, team) + work.split_keys;
        return end < p.problem.S ? end : p.problem.S;
    }
    /// \brief Query head and row of a packed row.
    __device__ Index head(const DecodeWork& work, int row) const {
        return hk * work.group + work.of_L(tile * tile_rows + row);
    }
    __device__ int row(const DecodeWork& work, int row) const {
        const int packed = tile * tile_rows + row;
        return work.of_L.rest(packed, work.of_L(packed));
    }
};

/// \brief The query rows of a tile as A fragments, from global memory: once for many keys.
template <class Shape>
struct DecodeQueries {
    std::uint32_t kept[Shape::HeadDim / 16][4];

    __device__ void load(const MmaProblem& p, const DecodeWork& work, const Turn& turn) {
        using T = typename Shape::Element;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = c_row(lane, 2 * half);
            const bool exists = turn.tile * tile_rows + row < work.rows;
            const std::uint16_t* const from =
                p.query +
                (exists ? p.query_stride(turn.b, turn.head(work, row), turn.row(work, row)) : 0);
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

/// \brief A team's tiles in shared memory, one after the other, and their barriers: *full* when the
///        bytes have arrived, *empty* when all warps of the team have read them.
template <class Shape>
struct Ring {
    std::uint32_t memory;
    int first, end;  ///< stages of the team
    int stage = first, parity = 0;

    __device__ Ring(std::uint32_t memory, int team, int teams)
        : memory(memory),
          first(team * (Shape::stages / teams)),
          end(first + Shape::stages / teams) {}
    __device__ std::uint32_t tile() const { return memory + stage * Shape::tile_bytes; }
    __device__ std::uint32_t full() const { return memory + Shape::barriers_at + 16 * stage; }
    __device__ std::uint32_t empty() const { return full() + 8; }
    __device__ void next() {
        if (++stage == end) stage = first, parity ^= 1;
    }
};

/// \brief Copies all that a team needs, as room comes free. The work of one thread.
template <class Shape>
__device__ void copy_parts(const MmaProblem& p, const CUtensorMap& keys, const CUtensorMap& values,
                           const DecodeWork& work, int team, Ring<Shape> ring) {
    const bool once = p.query_tiles == 1;  // no other block reads these keys and values
    Turn turn(work);
    wait_for_last_kernel();
    const auto copy = [&](const CUtensorMap& map, const Strides& stride, Index at) {
        barrier_wait(ring.empty(), ring.parity ^ 1);
        barrier_expect(ring.full(), Shape::tile_bytes);
#pragma unroll
        for (int plane = 0; plane < Shape::planes; ++plane)
            copy_box(ring.tile() + plane * Shape::plane_bytes, &map, plane * 64,
                     static_cast<int>(at), stride.head == 0 ? 0 : turn.hk,
                     stride.batch == 0 ? 0 : turn.b, ring.full(), once);
        ring.next();
    };
    for (; turn.left > 0; turn.next(p, work)) {
        const Index end = turn.end(p, work, team);
        for (Index at = turn.begin(work, team); at < end; at += tile_keys) {
            copy(keys, p.key_stride, at);
            copy(values, p.value_stride, at);
        }
    }
}

/// \brief A row whose parts are all there becomes a row of the output. The work of a warp.
/// \param parts  (splits, part_floats)
template <class T, int HeadDim>
__device__ void write_whole(const MmaProblem& p, const float* parts, float* share, Index b, Index h,
                            Index i) {
    if (p.leaves(b, h)) return;
    constexpr int N = HeadDim / 32;  // columns of a lane
    static_assert(N == 2 || N == 4);
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32;
    const RowState<float> whole = merge_parts(parts, p.splits, problem.Ev, p.unit, share);
    __syncwarp();  // the shares are there
    const Floats<N> own = merged_columns<N>(parts, p.splits, problem.Ev, share, lane * N);
    T* const to = &as<T, 4>(problem.out)(b, h, i, 0);
#pragma unroll
    for (int n = 0; n < N; ++n)
        if (lane * N + n < problem.Ev) to[(lane * N + n) * problem.out.stride[3]] = T(own.x[n]);
    if (lane == 0) write_logsumexp(problem, b, h, i, whole, p.unit);
    __syncwarp();  // they have been read
}

/// \brief What the other warps do.
template <class Shape>
__device__ void attend_parts(const MmaProblem& p, const DecodeWork& work, unsigned char* shared,
                             int team, Ring<Shape> ring) {
    using Rows = WarpRows<Shape>;
    using T = typename Shape::Element;
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp_of_all = threadIdx.x / 32, warp = warp_of_all % warps;
    const std::uint32_t key_lane =
                            swizzled<128>(warp * step_keys + b_lane_row(lane), b_lane_piece(lane)),
                        value_lane =
                            swizzled<128>(warp * step_keys + a_lane_row(lane), a_lane_piece(lane));
    auto* const results =
        reinterpret_cast<float*>(shared + Shape::results_at) + team * Shape::results_floats;
    auto* const share =
        reinterpret_cast<float*>(shared + Shape::shares_at) + warp_of_all * most_splits;
    auto* const state = reinterpret_cast<RowState<float>(*)[tile_rows]>(
        shared + Shape::states_at + team * (warps * tile_rows * 8));  // (warps, 16)
    auto* const parts = reinterpret_cast<float*>(shared + Shape::parts_at);
    const Index part_size = part_floats(problem.Ev), row_size = p.splits * part_size;  // floats
    Turn turn(work);
    DecodeQueries<Shape> queries;
    bool fresh = true;  // this tile of rows
    const auto read = [&] {
        __syncwarp();  // the warp has read the tile
        if (lane == 0) barrier_arrive(ring.empty());
        ring.next();
    };
    wait_for_last_kernel();
    for (; turn.left > 0; turn.next(p, work)) {
        if (fresh) queries.load(p, work, turn);
        const Index end = turn.end(p, work, team);
        Rows rows;
        rows.clear();
        for (Index at = turn.begin(work, team); at < end; at += tile_keys) {
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
        const int first_row = turn.tile * tile_rows;
        const int rows_here = min(tile_rows, work.rows - first_row);
        float* to = parts + (turn.split + team) * part_size;
        if (work.partial != nullptr) {
            const Index row = (Index{turn.b} * problem.H + turn.hk) * work.rows + first_row;
            to = work.partial + row * row_size + (turn.split + team) * part_size;
        }
        merge_warps<warps, Shape::HeadDim>(
            rows, results, state, rows_here, p.unit, state_at(problem.Ev),
            [&] { barrier_of(1 + team, team_threads); },
            [&](int row, const RowState<float>& whole) {
                float* const own = to + row * row_size;
                if (lane == 0)
                    *reinterpret_cast<Floats<2>*>(own + state_at(problem.Ev)) = {whole.max,
                                                                                 whole.sum};
                return own;
            });
        fresh = turn.split + work.teams == p.splits;
        if (work.partial != nullptr || !fresh) continue;
        const auto together = [&] { barrier_of(1 + most_teams, work.teams * team_threads); };
        together();  // all parts of these rows are there
        for (int row = warp_of_all; row < rows_here; row += work.teams * warps)
            write_whole<T, Shape::HeadDim>(p, parts + row * row_size, share, turn.b,
                                           turn.head(work, row), turn.row(work, row));
        together();  // they have been read
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
    const bool copies = threadIdx.x >= consumers;
    const int team = copies ? (threadIdx.x - consumers) / 32 : threadIdx.x / team_threads;
    const Ring<Shape> ring(shared_address(shared), team, work.teams);
    if (threadIdx.x == 0) {
        for (auto all = Ring<Shape>(ring.memory, 0, 1); all.parity == 0; all.next()) {
            barrier_set(all.full(), 1);
            barrier_set(all.empty(), warps);
        }
        fence_shared_for_wgmma();
    }
    if (threadIdx.x == consumers) {
        prefetch_map(&keys);
        prefetch_map(&values);
    }
    __syncthreads();  // the barriers are there
    if (team >= work.teams) return;
    if (!copies) return attend_parts<Shape>(p, work, shared, team, ring);
    if (threadIdx.x % 32 != 0) return;
    copy_parts<Shape>(p, keys, values, work, team, ring);
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
    work.parts = static_cast<int>(parts_of(p));
    work.run = static_cast<int>(run_of(work.parts));
    const bool pairs = work.run % most_teams == 0 && p.splits % most_teams == 0;
    work.teams = pairs ? most_teams : 1;
    work.split_keys = split_keys(p);
    work.group = static_cast<int>(problem.Hq / problem.H);
    work.rows = work.group * static_cast<int>(problem.L);
    work.of_splits = Divisor(p.splits), work.of_tiles = Divisor(p.query_tiles);
    work.of_heads = Divisor(problem.H), work.of_L = Divisor(problem.L);
    const bool itself = merges_itself(p);
    work.partial = itself ? nullptr : partial;
    // Longer reads than were asked for, and the bandwidth falls: see docs/steps_cuda.md.
    const auto map = [](const MappedRows& rows) {
        return map_rows(rows, tile_keys, CU_TENSOR_MAP_L2_PROMOTION_NONE);
    };
    const auto queue = [&](auto&& launch) {
        launch((work.parts + work.run - 1) / work.run, threads, Shape::shared_bytes, stream, p,
               map(mapped_keys(p)), map(mapped_values(p)), work);
    };
    // Queued early behind another of its kind, it was slower: see there as well.
    if (itself) return queue([](const auto&... a) { launch<decode_kernel<Shape>>(a...); });
    queue([](const auto&... a) { launch_early<decode_kernel<Shape>>(a...); });
    launch_merge<T>(p, partial, stream);
}

}  // namespace

bool can_decode(const MmaProblem& p) {
    const Problem& problem = p.problem;
    const Index widest = problem.E > problem.Ev ? problem.E : problem.Ev;
    return widest <= 128 && problem.mask_kind == MaskKind::none &&
           problem.visible(0) == problem.S && has_wgmma() && can_map(mapped_keys(p)) &&
           can_map(mapped_values(p)) && parts_of(p) < Index{1} << 31 && is_even(parts_of(p));
}

bool merges_itself(const MmaProblem& p) {
    const Problem& problem = p.problem;
    const Index rows = problem.Hq / problem.H * problem.L;
    const Index at_once = rows < tile_rows ? rows : tile_rows;
    // The merge of rows that could meet hidden values stays in its own kernel.
    return run_of(parts_of(p)) % p.splits == 0 && !can_hide(problem) &&
           at_once * p.splits <= most_row_parts;
}

template <class T>
void launch_decode(const MmaProblem& p, float* partial, cudaStream_t stream) {
    const Index widest = p.problem.E > p.problem.Ev ? p.problem.E : p.problem.Ev;
    if (widest <= 64) return launch_shape<T, 64>(p, partial, stream);
    launch_shape<T, 128>(p, partial, stream);
}
template void launch_decode<float16>(const MmaProblem&, float*, cudaStream_t);
template void launch_decode<bfloat16>(const MmaProblem&, float*, cudaStream_t);

}  // namespace attn::gpu
