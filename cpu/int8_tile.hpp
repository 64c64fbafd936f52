/// \file
/// \brief The loops of the tiers `int8_pv32` and `int8`: one tile of 64 rows against all keys that
///        they may see.
#pragma once

#if defined(__AMX_INT8__)
#include "int8_amx.hpp"
#else
#include "int8_panel.hpp"
#endif
#include "simd_covers.hpp"
#include "simd_store.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Working memory of one thread: that of the tier `simd`, whose queries are words here, and
///        what a block of integers needs.
struct Int8Scratch : TileScratch {
    float* factor;    ///< (64) scale_q * scale
    float* smoothed;  ///< (64) scale * q . mean, for the logsumexp
    Word* bad;        ///< (64) lanes whose mask holds NaN or +infinity
    float* rotation;  ///< Rotation::floats(E)
    Word* weight;     ///< (int8_block in words, panel_lanes)

    Int8Scratch(const Problem& p, Int8Values values, float* memory) : TileScratch(p, memory) {
        const auto take = taker(memory, floats);
        if (words(p.E) > p.E) query = take(simd_tile_rows * words(p.E));  // of whole matrix tiles
        factor = take(simd_tile_rows);
        smoothed = take(simd_tile_rows);
        bad = reinterpret_cast<Word*>(take(simd_tile_rows));
        rotation = take(Rotation::floats(p.E));
        const Index keys = values == Int8Values::int8 ? int8_block : 0;
        weight = reinterpret_cast<Word*>(take(keys / dot_depth * panel_lanes));
    }
    const Word* words_of(const Panel& panel) const {
        return reinterpret_cast<const Word*>(panel.query);
    }
};

/// \brief a . b of two rows that end in zeros up to a whole cache line.
float dot_rows(const float* a, const float* b, Index count) {
    Lanes sum(0.0f);
    for (Index e = 0; e < count; e += width) sum = fma(load(a + e), load(b + e), sum);
    alignas(64) float lane[width];
    store(lane, sum);
    float total = 0;
    for (int n = 0; n < width; ++n) total += lane[n];
    return total;
}

/// \brief Query `row` of the tile becomes words in `line`: read, rotated and rounded. Notes the
///        factor of its scores, and what smoothing took from them.
/// \return false if it has no integers; its words are then those of zeros
bool quantize_query(const Problem& p, const SimdTask& task, const RowMap& map, Index row,
                    const Int8Head& head, const Rotation& rotate, const Int8Scratch& scratch,
                    float* line) {
    const TensorView& from = p.query;
    widen_row(
        p.dtype, from.data,
        task.b * from.stride[0] + map.head[row] * from.stride[1] + map.query[row] * from.stride[2],
        from.stride[3], p.E, line);
    const bool integers = has_integers(row_magnitude(line, p.E));
    const float scale = static_cast<float>(p.scale);
    if (!integers)
        for (Index e = 0; e < p.E; ++e) line[e] = 0;
    else if (scale < 0)
        for (Index e = 0; e < p.E; ++e) line[e] = -line[e];
    const float size = scale < 0 ? -scale : scale;
    scratch.smoothed[row] = size * dot_rows(line, head.mean, p.E);
    rotate(line);
    const Quantizer quantizer = quantizer_of(row_magnitude(line, p.E));
    quantize_row<query_offset>(quantizer, line, p.E, line);
    scratch.factor[row] = quantizer.scale * size;
    return integers;
}

/// \brief Quantizes and transposes the queries; lanes without a row hold zeros. Returns a bit for
///        each row that has no integers.
std::uint64_t quantize_queries(const Problem& p, const SimdTask& task, const RowMap& map,
                               const Int8Head& head, const Int8Scratch& scratch) {
    const Rotation rotate(p.E, Operand::query, scratch.rotation);
    std::uint64_t without = 0;
    for (int lane = 0; lane < map.rows; lane += panel_lanes) {
        const Index lanes = vectors_at(map, lane) * width;
        float* const panel = panel_at(p, scratch, lane).query;  // (words, lanes)
        for (Index r = 0; r < lanes; r += 4) {
            for (Index n = 0; n < 4; ++n) {
                float* const line = scratch.line + n * scratch.line_stride;
                const Index row = lane + r + n;
                for (Index e = 0; e < lines(p.E); ++e) line[e] = 0;
                scratch.smoothed[row] = scratch.factor[row] = 0;
                if (row < map.rows &&
                    !quantize_query(p, task, map, row, head, rotate, scratch, line))
                    without |= std::uint64_t{1} << row;
            }
            Index w = 0;
            for (; w + 4 <= head.key_words; w += 4)
                transpose_4x4(scratch.line + w, scratch.line_stride, panel + w * lanes + r, lanes);
            for (; w < head.key_words; ++w)
                for (Index n = 0; n < 4; ++n)
                    std::memcpy(panel + w * lanes + r + n,
                                scratch.line + n * scratch.line_stride + w, sizeof(float));
        }
    }
    return without;
}

/// \brief Whether row r of the tile may see key j.
bool sees(const Problem& p, const RowMap& map, Index r, Index j) {
    if (j >= map.visible[r]) return false;
    const Index at =
        map.head[r] * p.mask.stride[1] + map.query[r] * p.mask.stride[2] + j * p.mask.stride[3];
    if (p.mask_kind == MaskKind::boolean)
        return static_cast<const std::uint8_t*>(p.mask.data)[at] != 0;
    float add = 0;
    if (p.mask_kind == MaskKind::additive) widen_row(p.mask.dtype, p.mask.data, at, 1, 1, &add);
    return add != minus_infinity;
}

/// \brief A bit for each row that may see a key without integers.
std::uint64_t rows_without_integers(const Problem& p, const RowMap& map, const Int8Head& head) {
    std::uint64_t rows = 0;
    for (Index first = 0; first < p.S; first += int8_block) {
        if (head.not_integer[first / int8_block] == 0) continue;
        for (Index j = first; j < first + int8_block && j < p.S; ++j) {
            if (head.used[j] != 2) continue;
            for (Index r = 0; r < map.rows; ++r)
                if (sees(p, map, r, j)) rows |= std::uint64_t{1} << r;
        }
    }
    return rows;
}

/// \brief The quantized keys first .. first + keys - 1 and their mask; false if no row sees any.
/// \param allowed  working memory
bool take_keys(const Problem& p, const SimdTask& task, const RowMap& map, const Int8Head& head,
               Index first, Index keys, const Int8Scratch& scratch, std::uint64_t (&allowed)[64],
               QuantizedKeys& tile) {
    KeyTile masked{};
    masked.keys = keys;
    if (mask_tile(p, task, map, first, scratch, allowed, masked) == Cover::none) return false;
    tile = {head.key + first * head.key_words,
            head.key_start + first,
            head.key_scale + first,
            head.key_words,
            keys,
            masked.allowed,
            masked.bias};
    return true;
}

/// \brief Scores of one panel; keeps lanes that are bad.
template <int Vectors>
void score_panel_integers(const Problem& p, const Int8Scratch& scratch, const QuantizedKeys& tile,
                          int lane, float* score, Lanes (&top)[Vectors]) {
    ScoreColumn columns[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
        const int first = lane + n * width;
        columns[n] = {load(scratch.factor + first), top[n], load_words(scratch.bad + first), first};
    }
    score_integers(scratch.words_of(panel_at(p, scratch, lane)), tile, score, columns);
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
        top[n] = columns[n].top;
        store_words(scratch.bad + lane + n * width, columns[n].bad);
    }
}

/// \brief All tiles of keys: integer scores, then weights and values as in the tier `simd`.
void visit_float_values(const Problem& p, const SimdTask& task, const RowMap& map,
                        const Int8Head& head, const Int8Scratch& scratch, bool careful) {
    start_panels(p, map, scratch);
    const Index end = map.visible[map.rows - 1];
    for (Index first = 0; first < end; first += simd_tile_keys) {
        KeyTile values{};
        values.keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;
        alignas(64) std::uint64_t allowed[64];
        QuantizedKeys keys;
        if (!take_keys(p, task, map, head, first, values.keys, scratch, allowed, keys)) continue;
        fetch_rows(p, task, p.value, p.Ev, first, values.keys, scratch.value, values.value,
                   values.value_stride);
        for (int lane = 0; lane < map.rows; lane += panel_lanes)
            with_vectors(vectors_at(map, lane), [&]<int Vectors>(Rows<Vectors>) {
                const Panel panel = panel_at(p, scratch, lane);
                Lanes top[Vectors], shrink[Vectors];
#pragma GCC unroll 8
                for (int n = 0; n < Vectors; ++n) top[n] = load(panel.max + n * width);
                score_panel_integers(p, scratch, keys, lane, scratch.score, top);
                weigh_panel(panel, values.keys, scratch.score, top, shrink);
                sum_values(panel, values, p.Ev, scratch.score, shrink, careful);
            });
    }
}

/// \brief All a panel does with one block of keys: scores, weights and values in integers.
template <int Vectors>
void visit_block(const Problem& p, const Int8Scratch& scratch, const QuantizedKeys& keys,
                 const QuantizedValues& values, int lane) {
    constexpr Index lanes = Vectors * width;
    const Panel panel = panel_at(p, scratch, lane);
    Lanes top[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) top[n] = Lanes(minus_infinity);
    score_panel_integers(p, scratch, keys, lane, scratch.score, top);
    // Numbers of the last word that stand for no key.
    for (Index n = keys.keys * lanes; n < values.words * dot_depth * lanes; ++n)
        scratch.score[n] = minus_infinity;
    const auto factors = weigh_integers(panel, values.words, scratch.score, scratch.weight, top);
    sum_integers(values, p.Ev, scratch.weight, scratch.score, factors, panel.out);
}

//! [integer values]
void visit_integer_values(const Problem& p, const SimdTask& task, const RowMap& map,
                          const Int8Head& head, const Int8Scratch& scratch) {
    start_panels(p, map, scratch);
    const Index end = map.visible[map.rows - 1];
    for (Index first = 0; first < end; first += int8_block) {
        const Index count = end - first < int8_block ? end - first : int8_block;
        alignas(64) std::uint64_t allowed[64];
        QuantizedKeys keys;
        if (!take_keys(p, task, map, head, first, count, scratch, allowed, keys)) continue;
        const QuantizedValues values = {head.value + first / dot_depth * lines(p.Ev),
                                        head.value_scale + first / int8_block * lines(p.Ev),
                                        lines(p.Ev), words(count)};
        for (int lane = 0; lane < map.rows; lane += panel_lanes)
            with_vectors(vectors_at(map, lane), [&]<int Vectors>(Rows<Vectors>) {
                visit_block<Vectors>(p, scratch, keys, values, lane);
            });
    }
}
//! [integer values]

std::uint64_t attend(const Problem& p, Int8Values values, const Int8Head& head,
                     const SimdTask& task, float* memory) {
    const Int8Scratch scratch(p, values, memory);
    [[maybe_unused]] const ProductUnit unit;
    const RowMap map = map_rows(p, task);
    std::uint64_t without = quantize_queries(p, task, map, head, scratch);
    for (Index r = 0; r < simd_tile_rows; ++r) scratch.bad[r] = 0;
    if (values == Int8Values::int8) {
        visit_integer_values(p, task, map, head, scratch);
    } else {
        visit_float_values(p, task, map, head, scratch, false);
        if (!all_finite(p, map, scratch))  // as in the tier `simd`
            visit_float_values(p, task, map, head, scratch, true);
    }
    for (Index r = 0; r < map.rows; ++r) {
        without |= static_cast<std::uint64_t>(scratch.bad[r] != 0) << r;
        scratch.max[r] += scratch.smoothed[r];  // from here on only the logsumexp uses it
    }
    store_tile(p, task, map, scratch);
    return without | rows_without_integers(p, map, head);
}

}  // namespace
}  // namespace attn::ATTN_ISA
