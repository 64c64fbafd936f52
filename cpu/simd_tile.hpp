/// \file
/// \brief The loop of the tier `simd`: one tile of 64 rows against all keys that they may see.
#pragma once

#include "simd_layout.hpp"
#include "simd_panel.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Calls f with the panel's number of vectors as a constant.
template <int Vectors = 1, class F>
[[gnu::always_inline]] inline void with_vectors(int vectors, F&& f) {
    if constexpr (Vectors < panel_vectors)
        if (vectors != Vectors) return with_vectors<Vectors + 1>(vectors, f);
    f(Rows<Vectors>{});
}

/// \brief The next tile of keys as float32 with unit strides: in place if it is so in memory,
///        otherwise copied and widened into scratch, once for all panels.
void fetch_tile(const Problem& p, const SimdTask& task, Index first, const TileScratch& scratch,
                KeyTile& tile) {
    const auto fetch = [&](const TensorView& from, Index columns, float* copy, const float*& data,
                           Index& stride) {
        const Index offset =
            task.b * from.stride[0] + task.key_head * from.stride[1] + first * from.stride[2];
        if (p.dtype == DType::float32 && from.stride[3] == 1) {
            data = static_cast<const float*>(from.data) + offset;
            stride = from.stride[2];
            return;
        }
        stride = copy_stride(columns);
        for (Index j = 0; j < tile.keys; ++j)
            widen_row(p.dtype, from.data, offset + j * from.stride[2], from.stride[3], columns,
                      copy + j * stride);
        data = copy;
    };
    fetch(p.key, p.E, scratch.key, tile.key, tile.key_stride);
    fetch(p.value, p.Ev, scratch.value, tile.value, tile.value_stride);
}

//! [loop]
/// \brief Visits the tiles of keys that these rows may see; leaves sums and maxima in `scratch`.
void visit_keys(const Problem& p, const SimdTask& task, const RowMap& map,
                const TileScratch& scratch, bool careful) {
    start_panels(p, map, scratch);
    // The last row sees the most: no key beyond its causal limit is visited.
    const Index end =
        map.visible[map.rows - 1] < task.end_key ? map.visible[map.rows - 1] : task.end_key;
    for (Index first = task.first_key; first < end; first += simd_tile_keys) {
        KeyTile tile{};
        tile.keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;

        alignas(64) std::uint64_t allowed[64];
        if (mask_tile(p, task, map, first, scratch, allowed, tile) == Cover::none) continue;

        fetch_tile(p, task, first, scratch, tile);
        for (int lane = 0; lane < map.rows; lane += panel_lanes)
            with_vectors(vectors_at(map, lane), [&]<int Vectors>(Rows<Vectors>) {
                visit_tile<Vectors>(panel_at(p, scratch, lane), tile, lane, p.E, p.Ev,
                                    scratch.score, careful);
            });
    }
}
//! [loop]

void attend_tile(const Problem& p, const SimdTask& task, float* memory) {
    const TileScratch scratch(p, memory);
    const RowMap map = map_rows(p, task);
    load_queries(p, task, map, scratch);
    visit_keys(p, task, map, scratch, false);
    // Rare: a NaN or an infinity in a value. It belongs to the rows that may see it and to no
    // other, so the tile is computed again with a product that skips weights of 0.
    if (!all_finite(p, map, scratch)) visit_keys(p, task, map, scratch, true);
    store_tile(p, task, map, scratch);
}

}  // namespace
}  // namespace attn::ATTN_ISA
