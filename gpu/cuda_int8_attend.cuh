/// \file
/// \brief The loop of the kernel of cuda_int8_wgmma.cuh: what a group of four warps does with a block's
///        rows, tile of keys by tile of keys.
///
/// While the group's tensor cores add the weighted values of one tile, its other units turn the next
/// tile's products into weights: both products are started before the first is waited for.
///
/// \par Source
/// Shah et al. 2024, "FlashAttention-3", sections 3.1 and 3.2.
#pragma once

#include "cuda_int8_hide.cuh"

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
    //! [add tile]
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
    //! [add tile]
    //! [add held tile]
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
    //! [add held tile]
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

}  // namespace attn::gpu
