/// \file
/// \brief The memory of one tile: queries come in transposed, so that one register holds the same
///        element of many queries, and outputs go out transposed back. Keys and values are used as
///        they lie.
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

/// \brief No key seen: maxima -inf, sums of weights 0.
inline void start_weights(const TileScratch& scratch) {
    for (Index n = 0; n < simd_tile_rows; ++n) scratch.max[n] = minus_infinity, scratch.sum[n] = 0;
}

/// \brief And sums of weight * value 0.
inline void start_sums(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    for (Index n = 0; n < lines(map.rows) * p.Ev; ++n) scratch.out[n] = 0;
}

inline void start_panels(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    start_weights(scratch);
    start_sums(p, map, scratch);
}

/// \brief Whether all sums of weight * value are finite.
inline bool all_finite(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    const Index lanes = (map.rows + width - 1) / width * width;
    Lanes zero[4] = {Lanes(0.0f), Lanes(0.0f), Lanes(0.0f), Lanes(0.0f)};  // sums in flight at once
    for (Index n = 0, turn = 0; n < lanes * p.Ev; n += width, ++turn)
        // 0 * infinity and 0 * NaN are NaN
        zero[turn % 4] = fma(load(scratch.out + n), Lanes(0.0f), zero[turn % 4]);
    const Lanes sum = (zero[0] + zero[1]) + (zero[2] + zero[3]);
    return xsimd::all(sum == sum);
}

/// \brief Looks for rows, from the first on, that see nothing of a quarter of the tile's keys.
void find_stairs(const std::uint64_t (&allowed)[64], KeyTile& tile) {
    for (Index n = 0; n < 4; ++n) {
        std::uint64_t any = 0;  // bit r: row r sees one of these keys
        for (Index j = n * KeyTile::step; j < (n + 1) * KeyTile::step; ++j) any |= allowed[j];
        tile.first_row[n] = any == 0 ? simd_tile_rows : std::countr_zero(any);
        tile.stairs = tile.stairs || tile.first_row[n] >= width;
    }
}

/// \brief Reads the masks of a tile of keys. A tile that no row may see is `none`; `tile.allowed`
///        and `tile.bias` are set only where some may and some may not.
/// \param allowed  memory for one word per key
Cover mask_tile(const Problem& p, const SimdTask& task, const RowMap& map, Index first,
                const TileScratch& scratch, std::uint64_t (&allowed)[64], KeyTile& tile) {
    const CoverNote note(map, first);
    const Cover known = note.read();
    if (known == Cover::none || known == Cover::all) return known;
    const Cover cover = read_bits(p, map, first, tile.keys, allowed, known);
    if (cover == Cover::none) return note.write(Cover::none);
    if (cover == Cover::mixed) {
        turn_to_lanes(map, allowed);
        tile.allowed = allowed;
        find_stairs(allowed, tile);
    }
    if (p.mask_kind != MaskKind::additive) return note.write(cover);
    const Cover bias = read_bias(p, task.b, map, first, tile.keys, scratch.bias, scratch.line);
    if (bias == Cover::mixed) tile.bias = scratch.bias;
    if (bias == Cover::none) return note.write(Cover::none);
    return note.write(bias == Cover::all ? cover : Cover::mixed);
}

/// \brief What a row's sums are multiplied with. A row that saw no key has sum 0 and output 0.
[[gnu::always_inline]] inline float normalizer(float sum) { return sum == 0 ? 0.0f : 1.0f / sum; }

void write_logsumexp(const Problem& p, Index b, Index h, Index i, float max, float sum) {
    if (p.logsumexp.rank == 0) return;
    const MutableTensorView& to = p.logsumexp;
    static_cast<float*>(to.data)[b * to.stride[0] + h * to.stride[1] + i * to.stride[2]] =
        sum == 0 ? minus_infinity : max + __builtin_logf(sum);
}

[[gnu::always_inline]] inline Index out_at(const Problem& p, Index b, Index h, Index i) {
    return b * p.out.stride[0] + h * p.out.stride[1] + i * p.out.stride[2];
}

/// \brief One row's result: the sums divided, rounded and written, and its logsumexp.
inline void write_row(const Problem& p, Index b, Index h, Index i, float max, float sum,
                      float* out) {
    const float factor = normalizer(sum);
    for (Index e = 0; e < p.Ev; ++e) out[e] *= factor;
    narrow_row(p.dtype, out, p.Ev, p.out.data, out_at(p, b, h, i), p.out.stride[3]);
    write_logsumexp(p, b, h, i, max, sum);
}

/// \brief Transposes the sums back and writes them: divided to `out`, or unfinished to the task's
///        `partial`.
/// \return whether all sums are finite
bool store_tile(const Problem& p, const SimdTask& task, const RowMap& map,
                const TileScratch& scratch) {
    const bool in_place = p.dtype == DType::float32 && p.out.stride[3] == 1;
    Lanes zero[4] = {Lanes(0.0f), Lanes(0.0f), Lanes(0.0f), Lanes(0.0f)};
    float rest = 0;
    for (int first = 0; first < map.rows; first += 4) {
        float* to[4];  // (Ev) each
        float factor[4];
        for (Index n = 0; n < 4; ++n) {
            const Index row = first + n;
            to[n] = scratch.line + n * scratch.line_stride;
            factor[n] = 0;
            if (row >= map.rows) continue;
            const float max = scratch.max[row], sum = scratch.sum[row];
            if (task.partial) {
                float* const state = task.partial + row * simd_partial_stride(p.Ev);
                state[0] = max;
                state[1] = sum;
                to[n] = state + simd_partial_header;
                factor[n] = 1;
                continue;
            }
            const Index h = map.head[row], i = map.query[row];
            if (in_place) to[n] = static_cast<float*>(p.out.data) + out_at(p, task.b, h, i);
            factor[n] = normalizer(sum);
            write_logsumexp(p, task.b, h, i, max, sum);
        }
        const int lane = first / panel_lanes * panel_lanes;
        const Index lanes = vectors_at(map, lane) * width;
        const float* const from = panel_at(p, scratch, lane).out + (first - lane);  // (Ev, lanes)
        Index e = 0;
        for (; e + width <= p.Ev; e += width)
            transpose_fours([&](Index r) { return from + (e + r) * lanes; },
                            [&](Index n, Lanes x) {
                                zero[n] = fma(x, Lanes(0.0f), zero[n]);  // NaN for infinity and NaN
                                (x * Lanes(factor[n])).store_unaligned(to[n] + e);
                            });
        for (; e < p.Ev; ++e)
            for (Index n = 0; n < 4; ++n) {
                rest += from[e * lanes + n] * 0.0f;
                to[n][e] = from[e * lanes + n] * factor[n];
            }
        if (in_place || task.partial) continue;
        for (Index n = 0; n < 4 && first + n < map.rows; ++n)
            narrow_row(p.dtype, to[n], p.Ev, p.out.data,
                       out_at(p, task.b, map.head[first + n], map.query[first + n]),
                       p.out.stride[3]);
    }
    const Lanes sum = (zero[0] + zero[1]) + (zero[2] + zero[3]) + Lanes(rest);
    return xsimd::all(sum == sum);
}

/// \brief Of float32 tensors.
inline RowsAhead rows_ahead(const Problem& p, const SimdTask& task, const RowMap& map) {
    RowsAhead ahead;
    for (Index r = 0; r < simd_tile_rows; ++r) {
        const Index row = r < map.rows ? r : map.rows - 1, h = map.head[row], i = map.query[row];
        ahead.query[r] =
            static_cast<const float*>(p.query.data) + query_at(p, task.b, h, i) + task.next_query;
        ahead.out[r] = task.partial
                           ? task.partial + row * simd_partial_stride(p.Ev) + simd_partial_header
                           : static_cast<const float*>(p.out.data) + out_at(p, task.b, h, i);
    }
    return ahead;
}

}  // namespace
}  // namespace attn::ATTN_ISA
