/// \file
/// \brief How the tier `simd` cuts a problem into tasks, and how much memory they need.
#pragma once

#include "simd_kernel.hpp"
#include "threads.hpp"

#include <algorithm>

namespace attn {

/// \brief How a problem is cut into tasks. What decides a bit of the result (all but `threads`,
/// `merge_later` and how many tiles of rows make a task) follows from the shape alone, and not from
/// the number of cores.
struct SimdPlan {
    bool stream;      // few queries: attend_rows instead of attend_tile
    Index rows;       // per key head: L queries of Hq / H heads
    Index tile_rows;  // rows of a task
    Index tiles;      // tiles of rows per key head
    Index parts;      // parts that the keys of a tile are split into
    Index part_keys;  // keys of a part
    int threads;
    bool merge_later;      // parts are tasks; otherwise one task does a tile's parts in turn
    Index thread_floats;   // a kernel's working memory, then two states if parts are done in turn
    Index state_floats;    // the state of one tile of rows
    Index partial_floats;  // the states of all parts
    Index batch_covers;    // bytes of SimdTask::covers for each batch that has a mask of its own
    Index cover_floats;    // what all of them take
};

/// \brief Bytes that tell what the tiles of masks hold: at most this many, whatever L and S are.
inline constexpr Index most_covers = Index{1} << 16;

/// \brief Heads that share a mask share what is known of its tiles.
inline void plan_covers(const Problem& p, SimdPlan& plan) {
    const bool shared = p.mask_kind != MaskKind::none && p.mask.stride[1] == 0 && p.H > 1;
    if (!shared || plan.stream) return;
    const Index row_tiles = (plan.rows + simd_tile_rows - 1) / simd_tile_rows;
    const Index key_tiles = (p.S + simd_tile_keys - 1) / simd_tile_keys;
    const Index masks = p.mask.stride[0] == 0 ? 1 : p.B;
    if (row_tiles > most_covers || key_tiles > most_covers / row_tiles / masks) return;
    plan.batch_covers = row_tiles * key_tiles;
    plan.cover_floats = (masks * plan.batch_covers + 63) / 64 * 16;  // whole cache lines
}

inline SimdPlan make_plan(const Problem& p, const SimdKernels& kernel) {
    SimdPlan plan{};
    // By L and S alone, and not by the number of rows: heads that share keys get the same bits as
    // heads that have their own.
    plan.stream = p.L <= 8;
    plan.rows = p.L * (p.Hq / p.H);
    plan.tile_rows = plan.stream ? simd_few_rows : simd_tile_rows;
    plan.tiles = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;

    // Few queries may leave cores idle, so their keys are split: into parts of at least 512 keys,
    // which hide the cost of a merge, and at most 32 of them, which bounds the memory.
    constexpr Index least = 512, most = 32;
    const Index parts = p.L <= simd_tile_rows ? std::clamp<Index>(p.S / least, 1, most) : 1;
    const Index tiles_per_part = (p.S + parts * simd_tile_keys - 1) / (parts * simd_tile_keys);
    plan.part_keys = std::max<Index>(tiles_per_part, 1) * simd_tile_keys;
    plan.parts = std::max<Index>((p.S + plan.part_keys - 1) / plan.part_keys, 1);

    const Index tiles = p.B * p.H * plan.tiles;
    const double flops = 2.0 * static_cast<double>(p.B * p.Hq * p.L) * static_cast<double>(p.S) *
                         static_cast<double>(p.E + p.Ev);
    plan.threads = team_size(p, tiles * plan.parts, flops);
    plan.merge_later = plan.parts > 1 && tiles < Index{4} * plan.threads;

    // Tiles of rows are taken together where enough tasks remain for the threads.
    while (!plan.stream && plan.parts == 1 && 2 * plan.tile_rows <= kernel.most_rows &&
           (plan.tiles + 1) / 2 * p.B * p.H >= Index{4} * plan.threads) {
        plan.tile_rows *= 2;
        plan.tiles = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
    }

    plan.state_floats = std::min(plan.rows, plan.tile_rows) * simd_partial_stride(p.Ev);
    plan.thread_floats = kernel.scratch_floats(p) + (plan.parts > 1 ? 2 * plan.state_floats : 0);
    plan.partial_floats = plan.merge_later ? tiles * plan.parts * plan.state_floats : 0;
    plan_covers(p, plan);
    return plan;
}

}  // namespace attn
