/// \file
/// \brief The memory of one tile: queries come in transposed, so that one register holds the same
///        element of many queries. Keys and values are used as they lie.
#pragma once

#include "simd_masks.hpp"
#include "simd_microkernel.hpp"
#include "simd_panel.hpp"
#include "simd_scratch.hpp"
#include "simd_transpose.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Row stride of a copied tile of keys or values: one cache line more than whole lines, so
///        that a column of a tile does not crowd into a few sets of the cache (4 % at E = 128).
[[gnu::always_inline]] inline Index copy_stride(Index columns) { return lines(columns) + 16; }

/// \brief Rows that are transposed at once: a register of queries on their way in, four rows on
/// their way out.
constexpr Index line_rows = width > 4 ? width : 4;

/// \brief Working memory of one thread. A panel's part begins at lane * E (or Ev) of a buffer.
struct TileScratch {
    float* query;  ///< (panels, E, lanes) scaled
    float* out;    ///< (panels, Ev, lanes) sums of weight * value
    float* max;    ///< (64)
    float* sum;    ///< (64)
    float* score;  ///< (tile_keys, panel_lanes), then the weights
    float* line;   ///< (line_rows, max(E, Ev, 64)) rows on their way in or out
    float* key;    ///< (tile_keys, copy_stride(E)) copied; unused where keys are read in place
    float* value;  ///< (tile_keys, copy_stride(Ev)) likewise
    float* bias;   ///< (tile_keys, 64); absent without an additive mask
    Index line_stride;
    Index floats;  ///< in all

    TileScratch() = default;
    TileScratch(const Problem& p, float* memory) : floats(0) {
        const auto take = taker(memory, floats);
        const Index longest = p.E > p.Ev ? p.E : p.Ev;
        line_stride = lines(longest > simd_tile_keys ? longest : simd_tile_keys);
        const bool half = p.dtype != DType::float32;
        query = take(simd_tile_rows * p.E);
        out = take(simd_tile_rows * p.Ev);
        max = take(simd_tile_rows);
        sum = take(simd_tile_rows);
        score = take(simd_tile_keys * panel_lanes);
        line = take(line_rows * line_stride);
        key = take(half || p.key.stride[3] != 1 ? simd_tile_keys * copy_stride(p.E) : 0);
        value = take(half || p.value.stride[3] != 1 ? simd_tile_keys * copy_stride(p.Ev) : 0);
        bias = take(p.mask_kind == MaskKind::additive ? simd_tile_keys * simd_tile_rows : 0);
    }
};

/// \brief Which query and head each row of the task is.
RowMap map_rows(const Problem& p, const SimdTask& task) {
    RowMap map;
    const Index group = p.Hq / p.H;
    map.rows = task.rows;
    const Index key_tiles = (p.S + simd_tile_keys - 1) / simd_tile_keys;
    // Some rows of a tile say nothing of all of them.
    const Index left = p.L * group - task.first_row;
    if (task.covers != nullptr && task.first_row % simd_tile_rows == 0 &&
        task.rows == (left < simd_tile_rows ? left : simd_tile_rows))
        map.covers = task.covers + task.first_row / simd_tile_rows * key_tiles;
    Index query = task.first_row / group, in_group = task.first_row % group;
    for (Index r = 0; r < task.rows; ++r) {
        map.query[r] = query;
        map.head[r] = task.key_head * group + in_group;
        if (++in_group == group) in_group = 0, ++query;
        const Index end = map.query[r] + p.diagonal + 1;
        map.visible[r] = end < 0 ? 0 : end > p.S ? p.S : end;
        if (p.mask_kind == MaskKind::boolean)
            map.mask[r] = static_cast<const std::uint8_t*>(p.mask.data) +
                          task.b * p.mask.stride[0] + map.head[r] * p.mask.stride[1] +
                          map.query[r] * p.mask.stride[2];
    }
    return map;
}

/// \brief Registers of queries in the panel that begins at `lane`: fewer in the last one.
[[gnu::always_inline]] inline int vectors_at(const RowMap& map, int lane) {
    const int left = (static_cast<int>(map.rows) - lane + width - 1) / width;
    return left < panel_vectors ? left : panel_vectors;
}

/// \brief Calls f with the panel's number of vectors as a constant.
template <int Vectors = 1, class F>
[[gnu::always_inline]] inline void with_vectors(int vectors, F&& f) {
    if constexpr (Vectors < panel_vectors)
        if (vectors != Vectors) return with_vectors<Vectors + 1>(vectors, f);
    f(Rows<Vectors>{});
}

[[gnu::always_inline]] inline Panel panel_at(const Problem& p, const TileScratch& scratch,
                                             int lane) {
    return {scratch.query + lane * p.E, scratch.out + lane * p.Ev, scratch.max + lane,
            scratch.sum + lane};
}

[[gnu::always_inline]] inline Index query_at(const Problem& p, Index b, Index h, Index i) {
    return b * p.query.stride[0] + h * p.query.stride[1] + i * p.query.stride[2];
}

/// \brief Reads, transposes and scales the queries; lanes without a row hold zeros.
inline void load_queries(const Problem& p, const SimdTask& task, const RowMap& map,
                         const TileScratch& scratch) {
    const TensorView& from = p.query;
    const bool in_place = p.dtype == DType::float32 && from.stride[3] == 1;
    const float scale = static_cast<float>(p.scale);
    for (int first = 0; first < map.rows; first += width) {
        const float* rows[width];  // (E) each
        for (int n = 0; n < width; ++n) {
            const Index row = first + n;
            float* const line = scratch.line + n * scratch.line_stride;
            rows[n] = line;
            if (row >= map.rows) {
                for (Index e = 0; e < p.E; ++e) line[e] = 0;
                continue;
            }
            const Index offset = query_at(p, task.b, map.head[row], map.query[row]);
            if (in_place)
                rows[n] = static_cast<const float*>(from.data) + offset;
            else
                widen_row(p.dtype, from.data, offset, from.stride[3], p.E, line);
        }
        const int lane = first / panel_lanes * panel_lanes;
        const Index lanes = vectors_at(map, lane) * width;
        float* const to = panel_at(p, scratch, lane).query + (first - lane);  // (E, lanes)
        Index e = 0;
        for (; e + 4 <= p.E; e += 4)
            transpose_fours(
                [&](Index r) { return rows[r] + e; },
                [&](Index c, Lanes x) { store(to + (e + c) * lanes, x * Lanes(scale)); });
        for (; e < p.E; ++e)
            for (int n = 0; n < width; ++n) to[e * lanes + n] = rows[n][e] * scale;
    }
}

/// \brief `keys` rows of keys or values as float32 with unit stride: in place if they are so in
///        memory, otherwise copied and widened to `copy`, once for all panels.
inline void fetch_rows(const Problem& p, const SimdTask& task, const TensorView& from,
                       Index columns, Index first, Index keys, float* copy, const float*& data,
                       Index& stride) {
    const Index offset =
        task.b * from.stride[0] + task.key_head * from.stride[1] + first * from.stride[2];
    if (p.dtype == DType::float32 && from.stride[3] == 1) {
        data = static_cast<const float*>(from.data) + offset;
        stride = from.stride[2];
        return;
    }
    stride = copy_stride(columns);
    for (Index j = 0; j < keys; ++j)
        widen_row(p.dtype, from.data, offset + j * from.stride[2], from.stride[3], columns,
                  copy + j * stride);
    data = copy;
}

}  // namespace
}  // namespace attn::ATTN_ISA
