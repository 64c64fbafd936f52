/// \file
/// \brief The loop of the tier `simd`: one tile of 64 rows against all keys that they may see.
#pragma once

#include "simd_covers.hpp"
#include "simd_panel.hpp"
#include "simd_store.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief The next tile of keys and values.
void fetch_tile(const Problem& p, const SimdTask& task, Index first, const TileScratch& scratch,
                KeyTile& tile) {
    fetch_rows(p, task, p.key, p.E, first, tile.keys, scratch.key, tile.key, tile.key_stride);
    fetch_rows(p, task, p.value, p.Ev, first, tile.keys, scratch.value, tile.value,
               tile.value_stride);
}

/// \brief Visits the tiles of keys that these rows may see; leaves sums and maxima in `scratch`.
void visit_keys(const Problem& p, const SimdTask& task, const RowMap& map,
                const TileScratch& scratch, bool careful) {
    start_weights(scratch);
    RowsAhead ahead;
    bool fetches = p.dtype == DType::float32, first_tile = true;
    if (fetches) ahead = rows_ahead(p, task, map);
    //! [loop]
    // The last row sees the most: no key beyond its causal limit is visited.
    const Index end =
        map.visible[map.rows - 1] < task.end_key ? map.visible[map.rows - 1] : task.end_key;
    for (Index first = task.first_key; first < end; first += simd_tile_keys) {
        KeyTile tile{};
        tile.keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;

        alignas(64) std::uint64_t allowed[64];
        if (mask_tile(p, task, map, first, scratch, allowed, tile) == Cover::none) continue;

        fetch_tile(p, task, first, scratch, tile);
        // In one of the last two tiles, since a mask may leave out the last.
        if (fetches && first + 2 * simd_tile_keys >= end) {
            fetches = false;
            tile.ahead = &ahead;
        }
        for (int lane = 0; lane < map.rows; lane += panel_lanes)
            with_vectors(vectors_at(map, lane), [&]<int Vectors>(Rows<Vectors>) {
                Panel panel = panel_at(p, scratch, lane);
                panel.first = first_tile;
                visit_tile<Vectors>(panel, tile, lane, p.E, p.Ev, scratch.score, careful);
                tile.ahead = nullptr;
            });
        first_tile = false;
    }
    //! [loop]
    if (first_tile) start_sums(p, map, scratch);
}

void attend_tile(const Problem& p, const SimdTask& task, float* memory) {
    const TileScratch scratch(p, memory);
    const RowMap map = map_rows(p, task);
    load_queries(p, task, map, scratch);
    visit_keys(p, task, map, scratch, false);
    // Rare: a NaN or an infinity in a value. It belongs to the rows that may see it and to no
    // other, so the tile is computed again with a product that skips weights of 0.
    if (store_tile(p, task, map, scratch)) return;
    visit_keys(p, task, map, scratch, true);
    store_tile(p, task, map, scratch);
}

}  // namespace
}  // namespace attn::ATTN_ISA
