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
/// Two warps copy (cuda_int8_pipeline.cuh); groups of four warps compute, 64 rows each. While a
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

/// \brief Hides scores of 64 keys by bits, for one row of a lane.
/// \param bits  16 of them, in the order of `mask_bit`
/// \param first  of the tile's blocks of 8 keys
template <int Blocks>
__device__ __forceinline__ void hide_by(float (&score)[Blocks][4], std::uint32_t bits, int first,
                                        int half) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
            hide_unless(score[first + n][2 * half + i], bits, 1u << (2 * n + i));
}
/// \brief The same by the bits of a tile's mask, for the two rows of a lane.
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
        for (int block = 0; block < Shape::Keys / 64; ++block)
            hide_by(score, load_two_bytes(own + half * 8 * Shape::mask_row_bytes + block * 8),
                    8 * block, half);
}
/// \brief Hides what lies behind the causal rule, or behind the last key, for the two rows of a lane.
/// \param row  the first one
/// \param key  the tile's first one
template <class Shape>
__device__ inline void hide_behind(float (&score)[Shape::Keys / 8][4], const Problem& p, int row,
                                   int key) {
    const int column = c_column(fresh_lane(), 0), last = static_cast<int>(p.S) - key;
    // What row 0 may see of the tile, and more; not so much that a sum overflows.
    const int of_first =
        static_cast<int>(p.diagonal - key < Shape::Keys ? p.diagonal - key : Shape::Keys);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int left = min(row + half * 8 + 1 + of_first, last) - column;
#pragma unroll
        for (int block = 0; block < Shape::Keys / 64; ++block) {
            const int seen =
                max(min(left - block * 64, 64), 0);           // of 64 keys from the lane's first
            const int own = seen / 8 * 2 + min(seen % 8, 2);  // of its own among them
            hide_by(score, (1u << own) - 1, 8 * block, half);
        }
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

/// \brief What turns scores into units of log 2, see `of_row`: here the factors of the lane's rows.
template <class Shape, bool second, bool natural = Shape::natural>
struct ScoreUnits {
    const float (&unit)[1][2];
    __device__ ScoreUnits(const float (&factor)[1][2], bool) : unit(factor) {}
};
/// Scores that have been scaled, since a mask was added to them.
template <class Shape>
struct ScoreUnits<Shape, false, true> {
    float unit = WarpRows<typename Shape::Base>::log2_e;
    __device__ ScoreUnits(const float (&)[1][2], bool) {}
};
/// The second pass, one for all masks, learns at run time which of the two, and scales before.
template <class Shape, bool natural>
struct ScoreUnits<Shape, true, natural> {
    float unit[1][2], scale[1][2];
    __device__ ScoreUnits(const float (&factor)[1][2], bool scaled) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float own = factor[0][half];
            unit[0][half] = scaled ? WarpRows<typename Shape::Base>::log2_e : own;
            scale[0][half] = scaled ? own : 1.0f;
        }
    }
};

/// \brief What the other warps do: the rows of a block, all tiles of keys, then the results.
/// \param slot  of the query tile, the rows
/// \param turn  of the block's first tile; becomes that of the next block's
/// \tparam second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool second>
__device__ __forceinline__ bool attend_integers(const Int8Problem& p, const volatile Int8Task& task,
                                                int slot, const volatile std::uint32_t* labels,
                                                unsigned char* shared,
                                                const Int8Barriers<Shape::stages>& barriers,
                                                Turn<Shape::stages>& turn) {
    using T = typename Shape::Element;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    const std::uint32_t memory = shared_address(shared);
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = uniform(warp / 4);
    const int warp_row = static_cast<int>(task.first_row) + warp * 16;
    // Of keys: tiles of the block, of the group, and those that all rows of the group may see whole.
    const int tiles = uniform(task.tiles), own_tiles = uniform(task.group_tiles[group]);
    const int whole_tiles = uniform(min(own_tiles, task.group_whole[group]));
    turn = {uniform(turn.stage), uniform(turn.parity)};
    // Rows behind the last one have no factor.
    const float* row_factor =
        p.queries.factor + task.row + (own_tiles > 0 ? warp * 16 : 0) + lane / 4;
    const float factor[1][2] = {{row_factor[0], row_factor[8]}};
    const ScoreUnits<Shape, second> units(factor, problem.mask_kind == MaskKind::additive);
    const auto& unit = units.unit;
    Rows rows;
    rows.clear();

    // `turn` is that of the next tile's keys, `pending` that of values which wait for their product.
    Turn<Shape::stages> pending;
    const Descriptor query =
        uniform(rows_at<HD>(memory + slot * Shape::int8_query_bytes + group * 64 * HD));
    const Descriptor first_key = uniform(rows_at<HD>(memory + Shape::key_at));
    const Descriptor first_value =
        uniform(two_planes_at(memory + Shape::value_at, Shape::plane_bytes));
    int product[1][KT / 8][4];
    typename Rows::Scores score;
    std::uint32_t weights[KT / 16][4];
    const auto start_scores = [&] {
        barrier_wait(barriers.key_full(turn.stage), turn.parity);
        start_product<Shape>(product[0], query,
                             first_key + turn.stage * (Shape::int8_tile_bytes / 16));
    };
    const auto start_pending = [&] {
        start_values<Shape>(rows.out[0], weights,
                            first_value + pending.stage * (Shape::tile_bytes / 16));
    };
    const auto wait_for_values = [&](const Turn<Shape::stages>& of) {
        barrier_wait(barriers.value_full(of.stage), of.parity);
        if constexpr (second) {
            make_finite<T>(shared + Shape::value_at + of.stage * Shape::tile_bytes,
                           Shape::tile_bytes, threadIdx.x, Shape::consumers);
            fence_shared_for_wgmma();
            barrier_of(2, Shape::consumers);
        }
    };
    const auto release_values = [&](const Turn<Shape::stages>& of) {
        __syncwarp();
        if (fresh_lane() == 0) barrier_arrive(barriers.value_empty(of.stage));
    };
    // A tile that others see and this group does not.
    const auto pass_tile = [&] {
        barrier_wait(barriers.key_full(turn.stage), turn.parity);
        barrier_arrive(barriers.key_empty(turn.stage));
        wait_for_values(turn);  // before they have come, their room must not be free
        release_values(turn);
        turn.next();
    };
    // What the next stage holds, if a mask decides it.
    const auto next_label = [&] {
        barrier_wait(barriers.key_full(turn.stage), turn.parity);
        return TileLabel{uniform_bits(labels[turn.stage])};
    };
    //! [held]
    // A row whose norm says that no weight can exceed 2^reach keeps its maximum, and asks for none
    // from there on: its weights fit their 16 bits, and the sums of them float32.
    constexpr float reach = dtype_of<T> == DType::float16 ? 15 : 24;
    constexpr bool may_hold = !Shape::natural;
    const bool bounded = may_hold && p.queries.square != nullptr;
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
    float shrink[2];
    // The products of tile j become scores; then its mask, if it `hides` keys from the group.
    const auto take_products = [&](int j, bool hides) {
        wgmma_use(product[0]);
        const float* step = reinterpret_cast<const float*>(shared + Shape::scale_at) +
                            turn.stage * KT + c_column(fresh_lane(), 0);
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
                                    shared + Shape::mask_at + turn.stage * Shape::mask_bytes, warp,
                                    factor[0]);
        if (Shape::listed && hides)
            hide_by_bits<Shape>(score[0], memory + Shape::mask_at + turn.stage * Shape::mask_bytes,
                                warp, j);
        barrier_arrive(barriers.key_empty(turn.stage));
    };
    const auto hide_end = [&](int j) {
        hide_behind<Shape>(score[0], problem, warp_row + c_row(fresh_lane(), 0), j * KT);
    };
    // The same, with what the causal rule hides; maxima and sums move.
    const auto prepare_scores = [&](int j, bool hides) {
        take_products(j, hides);
        if constexpr (second)
            if (problem.mask_kind != MaskKind::none)
                mask_scores_again<Shape>(score, problem, task.b, task.h,
                                         warp_row + c_row(fresh_lane(), 0),
                                         j * KT + c_column(fresh_lane(), 0), units.scale);
        if (j >= whole_tiles) hide_end(j);
        bool moves = false;
        if (!all_held) {
            moves = rows.raise(
                score, unit, [&](int, int half) { return (held >> half & 1) != 0; },
                [&](int, int half, float by) { shrink[half] = by; });
            if (bounded && moves) hold();
        }
        return moves;
    };
    const auto shrink_sums = [&] {
#pragma unroll
        for (int n = 0; n < HD / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) rows.out[0][n][i] *= shrink[i / 2];
    };
    const auto pack_weights = [&] {
#pragma unroll
        for (int n = 0; n < KT / 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                weights[n / 2][n % 2 * 2 + half] =
                    pack<T>(score[0][n][2 * half], score[0][n][2 * half + 1]);
    };
    // A branch, behind which ptxas puts few of the exponentials.
    const auto end_values = [&] {
        wait_for_values(turn);
        wgmma_wait<0>();
        wgmma_use(rows.out[0]);
    };
    // The turn of the tile whose weights are ready passes to its values.
    const auto end_tile = [&] {
        pack_weights();
        pending = turn;
        turn.next();
    };

    // The first tile of a run: no values wait.
    const auto begin_run = [&](int j, bool hides) {
        start_scores();
        wgmma_wait<0>();
        const bool moves = prepare_scores(j, hides);
        if (Shape::listed && moves) shrink_sums();  // of the runs before
        rows.exponentiate(score, unit);
        wait_for_values(turn);
        end_tile();
    };
    // With two groups, a warp's exponentials fill the time in which its values are added. Four groups
    // fill it for each other, and are faster if they wait first: see docs/steps_cuda.md.
    constexpr bool waits_first = Shape::Warps > 8;
    //! [wgmma loop]
    const auto add_tile = [&](int j, bool hides) {
        start_scores();
        start_pending();
        wgmma_wait<1>();  // the products of tile j are there; the values before are being added
        const bool moves = prepare_scores(j, hides);
        if constexpr (!waits_first) rows.exponentiate(score, unit);
        end_values();
        release_values(pending);
        if (moves) shrink_sums();
        if constexpr (waits_first) rows.exponentiate(score, unit);
        end_tile();
    };
    // Where all rows of the group hold their maximum: without a branch, so that some exponentials begin
    // while other products still become scores.
    // `hides`: bits of the mask are asked; `ends`: the tile is one of the last.
    const auto add_held_tile = [&](int j, bool hides, bool ends) {
        start_scores();
        start_pending();
        wgmma_wait<1>();
        if constexpr (waits_first) {
            end_values();
            release_values(pending);
        }
        take_products(j, hides);
        if (ends) hide_end(j);
        rows.template exponentiate<true>(score, unit);
        if constexpr (!waits_first) {
            end_values();
            release_values(pending);
        }
        end_tile();
    };
    //! [wgmma loop]
    // The four warps of a group decide together: each product is one instruction of all of them.
    // (The second pass, which is rare, does without: the bits are the same, and there is less code.)
    const auto can_add_held = [&] {
        return may_hold && !second && all_of(4 + group, 128, all_held && !rows.far);
    };
    // ptxas takes what follows such a question for different in each lane: said anew.
    const auto same_turns = [&] {
        turn = {uniform(turn.stage), uniform(turn.parity)};
        pending = {uniform(pending.stage), uniform(pending.parity)};
    };
    const auto end_run = [&] {
        start_pending();
        wgmma_wait<0>();
        wgmma_use(rows.out[0]);
        release_values(pending);
    };

    if constexpr (!Shape::listed) {
        int j = 0;
        if (own_tiles > 0) {
            begin_run(j++, false);
            for (; j < own_tiles && !can_add_held(); ++j) add_tile(j, false);
            if constexpr (may_hold && !second) {
                same_turns();
                j = uniform(j);
                for (; j < whole_tiles; ++j) add_held_tile(j, false, false);
                for (; j < own_tiles; ++j) add_held_tile(j, false, true);
            }
            end_run();
        }
#pragma unroll 1
        for (int n = own_tiles; n < tiles; ++n) pass_tile();  // that only other groups use
    } else {
        TileLabel label = next_label();
        while (label.word != 0) {
            if (!label.seen(group)) {
                pass_tile();
                label = next_label();
                continue;
            }
            begin_run(label.tile(), label.mixed(group));
            for (label = next_label(); label.seen(group); label = next_label()) {
                if (can_add_held() && label.tile() < whole_tiles) {
                    same_turns();
                    do {
                        if (label.mixed(group))
                            add_held_tile(label.tile(), true, false);
                        else
                            add_held_tile(label.tile(), false, false);
                        label = next_label();
                    } while (label.seen(group) && label.tile() < whole_tiles);
                    if (!label.seen(group)) break;
                }
                add_tile(label.tile(), label.mixed(group));
            }
            end_run();
        }
        pass_tile();  // the empty one at the end
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
    auto* const labels = reinterpret_cast<volatile std::uint32_t*>(shared + Shape::labels_at);
    if (threadIdx.x == 0) barriers.set(Shape::Warps);
    wait_for_last_kernel();
    __syncthreads();           // the barriers are there
    Turn<Shape::stages> turn;  // of tiles of keys and values
    Turn<2> query_turn;
    if (threadIdx.x >= Shape::consumers) {
        fewer_registers<Shape::copier_registers>();
        const int copier = (static_cast<int>(threadIdx.x) - Shape::consumers) / 32;
        const bool first = fresh_lane() == 0;
        if (copier == 0) {  // copies tiles
            for (;; query_turn.next()) {
                barrier_wait(barriers.task_full(query_turn.stage), query_turn.parity);
                const volatile Int8Task& own = task[query_turn.stage];
                if (own.block < 0) return;
                copy_int8_tiles<Shape>(p, maps, own, labels, shared_address(shared), barriers,
                                       turn);
                __syncwarp();
                barrier_arrive(barriers.query_empty(query_turn.stage));
            }
        }
        if (copier > 1) return;
        // Finds blocks of rows, the first one without asking, and copies their queries.
        const auto take = [&] {
            const unsigned long long own = first ? atomicAdd(p.next_block, 1ull) : 0;
            return static_cast<Index>(__shfl_sync(~0u, own, 0)) + gridDim.x;
        };
        const auto wait_for_room = [&] {
            barrier_wait(barriers.query_empty(query_turn.stage), query_turn.parity ^ 1);
        };
        for (Index block = blockIdx.x; block < blocks; block = take(), query_turn.next()) {
            wait_for_room();
            copy_int8_rows<Shape>(p, block, query_turn.stage, task[query_turn.stage],
                                  shared_address(shared), barriers);
        }
        if (!first) return;
        start_next_kernel();  // not at the beginning: that was slower
        wait_for_room();
        task[query_turn.stage].block = -1;
        barrier_arrive(barriers.task_full(query_turn.stage));
        barrier_arrive(barriers.query_full(query_turn.stage));
        return;
    }
    more_registers<Shape::consumer_registers>();
    for (;; query_turn.next()) {
        barrier_wait(barriers.query_full(query_turn.stage), query_turn.parity);
        const volatile Int8Task& own = task[query_turn.stage];
        if (uniform_bits(own.block < 0) != 0) return;
        const bool finite =
            attend_integers<Shape, false>(p, own, query_turn.stage, labels, shared, barriers, turn);
        // Rows for the second pass? The pre-pass has set the marks to 0.
        if (__any_sync(~0u, can_hide(p.problem) && !finite) && fresh_lane() == 0)
            p.again[own.block] = true;
        barrier_arrive(barriers.query_empty(query_turn.stage));
    }
#endif
}

/// \brief See `int8_again_kernel`. Masks are read where they lie, and no tile is left out, which gives
///        the same bits.
/// \tparam Shape  without a mask
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, 1)
    int8_wgmma_again_kernel(const __grid_constant__ Int8Problem p,
                            const __grid_constant__ Int8Maps maps, Index blocks, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = whole_kilobytes(raw);
    const Int8Barriers<Shape::stages> barriers{shared_address(shared) + Shape::barriers_at};
    volatile Int8Task& task = *reinterpret_cast<Int8Task*>(shared + Shape::tasks_at);
    auto* const labels = reinterpret_cast<volatile std::uint32_t*>(shared + Shape::labels_at);
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
            copy_int8_rows<Shape>(p, block, 0, task, shared_address(shared), barriers);
            __syncwarp();  // the task has been written
            copy_int8_tiles<Shape>(p, maps, task, labels, shared_address(shared), barriers, turn);
            __syncwarp();
        });
        return;
    }
    more_registers<Shape::consumer_registers>();
    each([&](Index block) {
        Turn<Shape::stages> turn;
        barrier_wait(barriers.query_full(0), 0);
        attend_integers<Shape, true>(p, task, 0, labels, shared, barriers, turn);
        repair_rows<Shape>(p, block - blockIdx.x);
    });
#endif
}

}  // namespace attn::gpu
