/// \file
/// \brief The main kernel of `cuda_int8` on sm_90a: the same integers through `wgmma`, which reads
///        queries, keys and values from shared memory, for four warps at a time.
///
///     shared memory   query tiles  (2, rows, HeadDim)          bytes: one in work, one to come
///                     key tiles    (stages, Keys, HeadDim)     bytes, with (stages, Keys) steps
///                     value tiles  (stages, planes, Keys, 64)  16 bits; planes of 64 columns
///                     mask tiles   (stages, planes, rows, 64)  elements, or (stages, rows, 128) bits
///                     out tile     (rows, HeadDim)             16 bits
///     registers       product      (64, Keys) of a group       int32, then scores, then weights
///                     out          (64, HeadDim)               float32
///
/// | HeadDim | rows          | Keys | stages |
/// |---------|---------------|------|--------|
/// | 64      | 256: 4 groups | 64   | 4      |
/// | 128     | 128: 2 groups | 128  | 3      |
///
/// One warp copies (cuda_int8_pipeline.cuh); groups of four warps compute, 64 rows each. While a
/// group's tensor cores add the weighted values of one tile, its other units turn the next tile's
/// products into weights: both products are started before the first is waited for.
///
/// \par Source
/// Shah et al. 2024, "FlashAttention-3", sections 3.1 and 3.2.
#pragma once

#include "cuda_int8_pipeline.cuh"

namespace attn::gpu {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief Starts product = Q K^T.
template <class Shape>
__device__ __forceinline__ void start_product(int (&product)[Shape::Keys / 8][4], Descriptor query,
                                              Descriptor key) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::HeadDim / 32; ++k)
        wgmma_rows(product, query + 2 * k, key + 2 * k, k > 0);
    wgmma_commit();
}
/// \brief Starts out += weights V.
template <class Shape, int Columns>
__device__ __forceinline__ void start_values(float (&out)[Columns][4],
                                             const std::uint32_t (&weights)[Shape::Keys / 16][4],
                                             Descriptor value) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::Keys / 16; ++k)
        wgmma_columns<typename Shape::Element>(out, weights[k], value + k * 128, true);
    wgmma_commit();
}

/// \brief Hides scores by the bits of a tile's mask, for the two rows of a lane.
/// \param mask  address in shared memory: (rows, 16) bytes, of 128 keys
/// \param tile  number of the tile of keys
template <class Shape>
__device__ inline void hide_by_bits(float (&score)[Shape::Keys / 8][4], std::uint32_t mask,
                                    int warp, int tile) {
    const int lane = fresh_lane();
    if constexpr (Shape::Keys == 64) mask += tile % 2 * 8;
    const std::uint32_t own = mask + (warp * 16 + c_row(lane, 0)) * Shape::mask_row_bytes +
                              lane % 4 * 2;  // see `mask_bit`
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int block = 0; block < Shape::Keys / 64; ++block) {
            const std::uint32_t bits =
                load_two_bytes(own + half * 8 * Shape::mask_row_bytes + block * 8);
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    hide_unless(score[8 * block + n][2 * half + i], bits, 1u << (2 * n + i));
        }
}

/// \brief Which of 16 bytes are not 0: a bit for each, the first one lowest.
__device__ inline unsigned set_bytes(uint4 raw) {
    if (((raw.x | raw.y | raw.z | raw.w) & 0xfefefefe) != 0)  // not as a compiler writes `bool`
        raw = {__vsetne4(raw.x, 0), __vsetne4(raw.y, 0), __vsetne4(raw.z, 0), __vsetne4(raw.w, 0)};
    constexpr unsigned low = 0x08040201, high = 0x80402010;  // a byte's place among eight
    return __dp4a(raw.y, high, __dp4a(raw.x, low, 0u)) | __dp4a(raw.w, high, __dp4a(raw.z, low, 0u))
                                                             << 8;
}

/// \brief The mask of a tile, if it is dense, for the two rows of a lane: hides scores, or scales them
///        and is added.
/// \param mask  shared memory: (planes, rows, 64) bytes or 16-bit elements
template <class Shape>
__device__ inline void apply_dense_mask(float (&score)[Shape::Keys / 8][4],
                                        const unsigned char* mask, int warp,
                                        const float (&factor)[2]) {
    const int lane = fresh_lane(), t = lane % 4;
#pragma unroll
    for (int plane = 0; plane < Shape::mask_planes; ++plane, mask += Shape::mask_plane_bytes) {
        if constexpr (Shape::natural) {
            const std::uint32_t own =
                shared_address(mask) +
                swizzled<128>(warp * 16 + a_lane_row(lane), a_lane_piece(lane));
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                std::uint32_t two[4];  // rows g, g + 8 of columns 16 n .., then of 16 n + 8 ..
                load_matrices(two, own ^ (n * 32));
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float* pair = &score[8 * plane + 2 * n + i / 2][i % 2 * 2];
                    pair[0] =
                        fmaf(pair[0], factor[i % 2], low_float<typename Shape::Element>(two[i]));
                    pair[1] =
                        fmaf(pair[1], factor[i % 2], high_float<typename Shape::Element>(two[i]));
                }
            }
        } else {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // The lane reads keys 16 t .. 16 t + 15 of the 64, and needs 8 n + 2 t and the next.
                const unsigned own = set_bytes(*reinterpret_cast<const uint4*>(
                                         mask + (warp * 16 + c_row(lane, 2 * half)) * 64 + 16 * t))
                                     << (t % 2 * 16);
                const unsigned pair = own | __shfl_xor_sync(~0u, own, 1);
                const unsigned other = __shfl_xor_sync(~0u, pair, 2);
                const unsigned word[] = {(t < 2 ? pair : other) >> (2 * t),
                                         (t < 2 ? other : pair) >> (2 * t)};
#pragma unroll
                for (int n = 0; n < 8; ++n) {
                    const unsigned first = 1u << (8 * (n % 4));
                    float* two = &score[8 * plane + n][2 * half];
                    if ((word[n / 4] & first) == 0) two[0] = -CUDART_INF_F;
                    if ((word[n / 4] & 2 * first) == 0) two[1] = -CUDART_INF_F;
                }
            }
        }
    }
}

/// \brief What turns scores into units of log 2: see `of_row`.
template <class Shape>
__device__ inline decltype(auto) score_unit(const float (&factor)[1][2]) {
    if constexpr (Shape::natural)
        return WarpRows<typename Shape::Base>::log2_e;
    else
        return (factor);
}

/// \brief What the other warps do: the rows of a block, all tiles of keys, then the results.
/// \param slot  of the query tile, the rows
/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool second>
__device__ __forceinline__ bool attend_integers(const Int8Problem& p, const volatile Int8Task& task,
                                                int slot, const volatile TileLabel* labels,
                                                unsigned char* shared,
                                                const Int8Barriers<Shape::stages>& barriers,
                                                Turn<Shape::stages>& key_turn,
                                                Turn<Shape::stages>& value_turn) {
    using T = typename Shape::Element;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    const std::uint32_t memory = shared_address(shared);
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = uniform(warp / 4);
    const Index first_row = task.first_row;
    const int tiles = tiles_up_to<Shape>(problem, first_row + Shape::rows - 1);
    const Index group_row = first_row + group * 64, warp_row = first_row + warp * 16;
    const int own_tiles =
        uniform(group_row < problem.L ? tiles_up_to<Shape>(problem, group_row + 63) : 0);
    const int first_partial = static_cast<int>(problem.visible(group_row) / KT);
    key_turn.stage = uniform(key_turn.stage);
    value_turn.stage = uniform(value_turn.stage);
    // Rows behind the last one have no factor.
    const float* row_factor =
        p.queries.factor + task.row + (own_tiles > 0 ? warp * 16 : 0) + lane / 4;
    const float factor[1][2] = {{row_factor[0], row_factor[8]}};
    const auto& unit = score_unit<Shape>(factor);
    Rows rows;
    rows.clear();

    const auto start_scores = [&](auto& product, const auto& query) {
        barrier_wait(barriers.key_full(key_turn.stage), key_turn.parity);
        start_product<Shape>(
            product, query,
            rows_at<HD>(memory + Shape::key_at + key_turn.stage * Shape::int8_tile_bytes));
    };
    const auto value_tile = [&] {
        return two_planes_at(memory + Shape::value_at + value_turn.stage * Shape::tile_bytes,
                             Shape::plane_bytes);
    };
    const auto wait_for_values = [&](const Turn<Shape::stages>& turn) {
        barrier_wait(barriers.value_full(turn.stage), turn.parity);
        if constexpr (second) {
            make_finite<T>(shared + Shape::value_at + turn.stage * Shape::tile_bytes,
                           Shape::tile_bytes, threadIdx.x, Shape::consumers);
            fence_shared_for_wgmma();
            barrier_of(2, Shape::consumers);
        }
    };
    const auto release_keys = [&] {
        barrier_arrive(barriers.key_empty(key_turn.stage));
        key_turn.next();
    };
    const auto release_values = [&] {
        __syncwarp();
        if (fresh_lane() == 0) barrier_arrive(barriers.value_empty(value_turn.stage));
        value_turn.next();
    };
    // The number of the tile behind tile j, -1 behind the last one; and whether the mask hides some of it.
    bool mixed = false;
    const auto next_tile = [&](int j) {
        if constexpr (!Shape::listed) return j + 1;
        barrier_wait(barriers.key_full(key_turn.stage), key_turn.parity);
        const int tile = labels[key_turn.stage].tile;
        mixed = tile >= 0 && (labels[key_turn.stage].mixed >> group & 1) != 0;
        return tile;
    };
    const auto is_own = [&](int j) {
        return static_cast<unsigned>(j) < static_cast<unsigned>(own_tiles);
    };
    //! [held]
    // A row whose norm says that no weight can exceed 2^reach keeps its maximum, and asks for none
    // from there on: its weights fit their 16 bits, and the sums of them float32.
    constexpr float reach = dtype_of<T> == DType::float16 ? 15 : 24;
    const bool bounded = !Shape::natural && p.queries.square != nullptr;
    unsigned held = 0;      // bit `half`: of the lane's two rows
    bool all_held = false;  // of the warp's rows
    const auto hold = [&] {
        const float* square =
            reinterpret_cast<const float*>(shared + Shape::square_at + slot * Shape::square_bytes) +
            warp * 16 + c_row(fresh_lane(), 0);
        const float longest = task.longest;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float room = reach + rows.max[0][half] * factor[0][half];
            if (room >= 0 && square[8 * half] * longest <= room * room) held |= 1u << half;
        }
        all_held = __all_sync(~0u, held == 3);
    };
    //! [held]
    int product[1][KT / 8][4];
    typename Rows::Scores score;
    std::uint32_t weights[KT / 16][4];
    float shrink[2];
    // The products of tile j become scores; maxima and sums move.
    const auto prepare_scores = [&](int j) {
        wgmma_use(product[0]);
        // Numbers of the lane anew: what is kept through the loop would be spilled.
        const int fresh = fresh_lane();
        const float* step = reinterpret_cast<const float*>(shared + Shape::scale_at) +
                            key_turn.stage * KT + c_column(fresh, 0);
#pragma unroll
        for (int n = 0; n < KT / 8; ++n) {
            const float2 two = *reinterpret_cast<const float2*>(step + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                score[0][n][i] =
                    static_cast<float>(product[0][n][i]) * (i % 2 == 0 ? two.x : two.y);
        }
        if constexpr (Shape::dense)
            apply_dense_mask<Shape>(score[0],
                                    shared + Shape::mask_at + key_turn.stage * Shape::mask_bytes,
                                    warp, factor[0]);
        if (Shape::listed && mixed)
            hide_by_bits<Shape>(
                score[0], memory + Shape::mask_at + key_turn.stage * Shape::mask_bytes, warp, j);
        release_keys();
        if (j >= first_partial)
            hide_beyond<Shape>(score, problem, warp_row + c_row(fresh, 0),
                               static_cast<Index>(j) * KT + c_column(fresh, 0));
        bool moves = false;
        if (!all_held) {
            moves = rows.raise(
                score, unit, [&](int, int half) { return (held >> half & 1) != 0; },
                [&](int, int half, float by) { shrink[half] = by; });
            if (bounded && moves) hold();
        }
        return moves;
    };
    // With two groups, a warp's exponentials fill the time in which its values are added. Four groups
    // fill it for each other, and are faster if they wait first: see docs/steps_cuda.md.
    constexpr bool waits_first = Shape::Warps > 8;
    const auto pack_weights = [&] {
#pragma unroll
        for (int n = 0; n < KT / 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                weights[n / 2][n % 2 * 2 + half] =
                    pack<T>(score[0][n][2 * half], score[0][n][2 * half + 1]);
    };

    const Descriptor query = rows_at<HD>(memory + slot * Shape::int8_query_bytes + group * 64 * HD);
    int j = next_tile(-1);
    if (is_own(j)) {
        start_scores(product[0], query);
        wgmma_wait<0>();
        prepare_scores(j);
        rows.exponentiate(score, unit);
        pack_weights();
        wait_for_values(value_turn);
        //! [wgmma loop]
        for (j = next_tile(j); is_own(j); j = next_tile(j)) {
            start_scores(product[0], query);
            start_values<Shape>(rows.out[0], weights, value_tile());
            wgmma_wait<1>();  // the products of tile j are there; the values before are being added
            const bool moves = prepare_scores(j);
            if constexpr (!waits_first) rows.exponentiate(score, unit);
            Turn<Shape::stages> next = value_turn;
            next.next();
            wait_for_values(next);  // a branch, behind which ptxas puts few of the exponentials
            wgmma_wait<0>();
            wgmma_use(rows.out[0]);
            release_values();
            if (moves)
#pragma unroll
                for (int n = 0; n < HD / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) rows.out[0][n][i] *= shrink[i / 2];
            if constexpr (waits_first) rows.exponentiate(score, unit);
            pack_weights();
        }
        //! [wgmma loop]
        start_values<Shape>(rows.out[0], weights, value_tile());
        wgmma_wait<0>();
        wgmma_use(rows.out[0]);
        release_values();
    }
    // Tiles that only other groups use; with a mask, also the empty one at the end.
    for (bool more = Shape::listed || j < tiles; more; more = Shape::listed ? more : j < tiles) {
        barrier_wait(barriers.key_full(key_turn.stage), key_turn.parity);
        if constexpr (Shape::listed) more = labels[key_turn.stage].tile >= 0;
        release_keys();
        wait_for_values(value_turn);
        release_values();
        ++j;
    }
    rows.finish_sums();
    return write_int8_rows<Shape>(p, rows, unit, shared + Shape::out_at, p.queries.shift + task.row,
                                  task.b, task.h, task.first_row);
}

#endif  // sm_90a

/// \brief One block a multiprocessor, which takes one block of rows after the other: while the
///        results of one are written, the tiles of the next are under way.
/// \param blocks  of rows
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, 1)
    int8_wgmma_kernel(const __grid_constant__ Int8Problem p, const __grid_constant__ Int8Maps maps,
                      Index blocks, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = whole_kilobytes(raw);
    const Int8Barriers<Shape::stages> barriers{shared_address(shared) + Shape::barriers_at};
    volatile Int8Task* const task =  // two: one in work, one to come
        reinterpret_cast<Int8Task*>(shared + Shape::tasks_at);
    auto* const labels = reinterpret_cast<volatile TileLabel*>(shared + Shape::labels_at);
    if (threadIdx.x == 0) barriers.set(Shape::Warps);
    wait_for_last_kernel();
    __syncthreads();  // the barriers are there
    Turn<Shape::stages> key_turn, value_turn;
    Turn<2> turn;  // of query tiles
    if (threadIdx.x >= Shape::consumers) {
        fewer_registers<Shape::copier_registers>();
        if (threadIdx.x >= Shape::consumers + 32) return;
        const bool first = fresh_lane() == 0;
        const auto take = [&] {
            const unsigned long long own = first ? atomicAdd(p.next_block, 1ull) : 0;
            return static_cast<Index>(__shfl_sync(~0u, own, 0));
        };
        const auto wait_for_room = [&] {
            barrier_wait(barriers.query_empty(turn.stage), turn.parity ^ 1);
        };
        for (Index block = take(), next; block < blocks; block = next, turn.next()) {
            next = take();
            wait_for_room();
            copy_int8_tiles<Shape>(p, maps, block, turn.stage, task[turn.stage], labels,
                                   shared_address(shared), barriers, key_turn);
            __syncwarp();
        }
        if (!first) return;
        start_next_kernel();  // not at the beginning: that was slower
        wait_for_room();
        task[turn.stage].block = -1;
        barrier_arrive(barriers.query_full(turn.stage));
        return;
    }
    more_registers<Shape::consumer_registers>();
    for (;; turn.next()) {
        barrier_wait(barriers.query_full(turn.stage), turn.parity);
        const volatile Int8Task& own = task[turn.stage];
        if (own.block < 0) return;
        const bool finite = attend_integers<Shape, false>(p, own, turn.stage, labels, shared,
                                                          barriers, key_turn, value_turn);
        // Rows for the second pass? The pre-pass has set the marks to 0.
        const int lane = fresh_lane(), row = static_cast<int>(fresh_thread()) / 32 * 16 + lane;
        const bool without =
            lane < 16 && own.first_row + row < p.problem.L && p.queries.without[own.row + row] != 0;
        const bool again =
            without || (!finite && can_hide(p.problem)) || p.keys.floating[own.keys] != 0;
        if (__any_sync(~0u, again) && lane == 0) p.again[own.block] = true;
        barrier_arrive(barriers.query_empty(turn.stage));
    }
#endif
}

/// \brief See `int8_again_kernel`.
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, 1)
    int8_wgmma_again_kernel(const __grid_constant__ Int8Problem p,
                            const __grid_constant__ Int8Maps maps, Index blocks, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = whole_kilobytes(raw);
    const Int8Barriers<Shape::stages> barriers{shared_address(shared) + Shape::barriers_at};
    volatile Int8Task& task = *reinterpret_cast<Int8Task*>(shared + Shape::tasks_at);
    auto* const labels = reinterpret_cast<volatile TileLabel*>(shared + Shape::labels_at);
    wait_for_last_kernel();
    // The two kinds of warps as in the first pass; both go over the same marks.
    const auto each = [&](auto&& work) {
        const auto together = [] { barrier_of(3, Shape::consumers + 32); };
        const auto again = [&](Index block) {
            if (threadIdx.x == 0) barriers.set(Shape::Warps);
            together();  // the barriers are there
            work(block);
            together();  // they have served
            if (threadIdx.x == 0) barriers.end();
        };
        for_marked(p.again, blocks, again, together);
    };
    if (threadIdx.x >= Shape::consumers) {
        fewer_registers<Shape::copier_registers>();
        if (threadIdx.x >= Shape::consumers + 32) return;
        each([&](Index block) {
            Turn<Shape::stages> turn;
            copy_int8_tiles<Shape>(p, maps, block, 0, task, labels, shared_address(shared),
                                   barriers, turn);
            __syncwarp();
        });
        return;
    }
    more_registers<Shape::consumer_registers>();
    each([&](Index block) {
        Turn<Shape::stages> turn, value_turn;
        barrier_wait(barriers.query_full(0), 0);
        attend_integers<Shape, true>(p, task, 0, labels, shared, barriers, turn, value_turn);
        repair_rows<Shape>(p, block - blockIdx.x);
    });
#endif
}

}  // namespace attn::gpu
