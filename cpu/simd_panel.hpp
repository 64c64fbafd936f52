/// \file
/// \brief One panel of queries against one tile of keys: scores, weights, output. The online
///        softmax of the tier `online`, with every line acting on all queries of the panel at
///        once.
#pragma once

#include "simd_exp2.hpp"
#include "simd_masks.hpp"
#include "simd_microkernel.hpp"

namespace attn::ATTN_ISA {
namespace {

constexpr float log2e = 1.44269504088896340736f;

/// \brief What a panel keeps while it visits the tiles of keys. All buffers are aligned; `lanes` is
///        the number of its queries, rounded up to whole registers.
struct Panel {
    float* query;        ///< (E, lanes) scaled queries
    float* out;          ///< (Ev, lanes) sums of weight * value
    float* max;          ///< (lanes) running maximum of the scores
    float* sum;          ///< (lanes) running sum of the weights
    bool first = false;  ///< nothing is in `out` yet: these keys are the first
};

/// \brief Rows that are not needed yet but soon.
struct RowsAhead {
    const float* query[simd_tile_rows];  ///< (E) each, of the task that comes next
    const float* out[simd_tile_rows];    ///< (Ev) each, that this task will write
    /// The first tile of keys and values, (64, E) and (64, Ev), if the next task has others.
    struct {
        const float* data;
        Index stride;
        Index lines;  ///< cache lines of a row that are worth fetching
    } key, value;
};

/// \brief A tile of keys and values in float32, with unit stride along E and Ev.
struct KeyTile {
    const float* key;    ///< (keys, E), rows `key_stride` apart
    const float* value;  ///< (keys, Ev), rows `value_stride` apart
    Index key_stride, value_stride;
    Index keys;
    const std::uint64_t* allowed;  ///< (keys) bit n: lane n may see the key; null: all may
    const float* bias;             ///< (keys, simd_tile_rows) additive mask; null: none
    const RowsAhead* ahead;        ///< to fetch while this tile is computed; null: none
    /// Rows before this one see none of the keys step * n .. step * (n + 1) - 1: under a causal
    /// rule, the tile on the diagonal is a staircase. Read only if `stairs`.
    Index first_row[4];
    bool stairs;
    static constexpr Index step = simd_tile_keys / 4;
};

/// \brief Calls f(Rows<From>, first key, end key) for the steps of a tile's staircase, From being
///        the panel's first vector of queries that sees any of the keys: Vectors if none does.
template <int Vectors, bool stairs, class F>
[[gnu::always_inline]] inline void for_stairs(const KeyTile& tile, int first_lane, F&& f) {
    if constexpr (!stairs) return f(Rows<0>{}, Index{0}, tile.keys);
    for (Index n = 0; n * KeyTile::step < tile.keys; ++n) {
        const Index first = n * KeyTile::step, end = first + KeyTile::step;
        const Index hidden = (tile.first_row[n] - first_lane) / width;
        with_count<0, Vectors>(hidden, [&]<int From>(Rows<From>) {
            f(Rows<From>{}, first, end < tile.keys ? end : tile.keys);
        });
    }
}

/// \brief scores^T = K Q^T + bias, -inf where the mask removes a key. `top` grows to cover them.
/// \param first_lane  of this panel within the tile's rows
/// \param score       (keys, lanes)
template <int Vectors, bool stairs = false>
void score_panel(const Panel& panel, const KeyTile& tile, int first_lane, Index E, float* score,
                 Lanes (&top)[Vectors]) {
    for_stairs<Vectors,
               stairs>(tile, first_lane, [&]<int From>(Rows<From>, Index begin, Index end) {
        for_register_tiles<tile_rows(Vectors)>(end - begin, [&]<int Keys>(Rows<Keys>, Index at) {
            const Index first = begin + at;
            Lanes c[Keys][Vectors];  // scores of Keys keys; before From, where all are hidden, 0
            for_each_register(c, [&](int, int, Lanes& x) { x = Lanes(0.0f); });
            const float* const key = tile.key + first * tile.key_stride;
            const float* const value = tile.value + first * tile.value_stride;
            // A cache line, 16 floats, of each row: keys of the next register tile, values of these,
            // outputs; in turns, so that no more are asked for at once than the core can await.
            // A prefetch reads nothing, so it may point beyond the last row.
            const auto fetch = [&](Index e) {
                for (int r = 0; r < Keys && e % 16 == 0; ++r)
                    __builtin_prefetch(key + (r + Keys) * tile.key_stride + e);
                for (int r = 0; r < Keys && E > 64 && e % 16 == 4; ++r)
                    __builtin_prefetch(value + r * tile.value_stride + e, 0, 2);
            };
            const auto multiply = [&]([[maybe_unused]] auto fetch_lines) {
                if constexpr (From < Vectors)
                    multiply_add<Unit::depth, From>(key, tile.key_stride, panel.query, E, c,
                                                    fetch_lines);
            };
            if (!tile.ahead)
                multiply(fetch);
            else
                multiply([&](Index e) {
                    fetch(e);
                    for (int r = 0; r < Keys && e % 16 == 8; ++r)
                        __builtin_prefetch(tile.ahead->out[first + r] + e, 1, 2);
                });
            if (tile.bias)
                for_each_register(c, [&](int r, int n, Lanes& x) {
                    const Lanes add =
                        load(tile.bias + (first + r) * simd_tile_rows + first_lane + n * width);
                    // The mask's -inf removes the key even if its score is NaN.
                    x = xsimd::select(add == Lanes(minus_infinity), add, x + add);
                });
            if (tile.allowed)
                for_each_register(c, [&](int r, int n, Lanes& x) {
                    x = select(tile.allowed[first + r] >> (first_lane + n * width), x,
                               Lanes(minus_infinity));
                });
            for_each_register(c, [&](int r, int n, Lanes& x) {
                top[n] = larger(x, top[n]);
                store(score + ((first + r) * Vectors + n) * width, x);
            });
        });
    });
}

/// \brief Scores become weights, exp(score - max), in place. A tile's weights are summed by
///        themselves and then join the running sum, so that rounding errors of equal terms add up
///        over 64 keys and the tiles, not over all keys.
/// \param top     maxima of all scores so far
/// \param shrink  exp(old max - new max): for all that was summed under the old maxima
template <int Vectors>
void weigh_panel(const Panel& panel, Index keys, float* score, const Lanes (&top)[Vectors],
                 Lanes (&shrink)[Vectors]) {
    Lanes shift[Vectors], sum[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
        // A row that has seen no key yet has maximum -inf, and -inf - -inf is NaN: shift by 0
        // there.
        shift[n] = xsimd::select(top[n] == Lanes(minus_infinity), Lanes(0.0f), top[n]);
        shrink[n] = exp2((load(panel.max + n * width) - shift[n]) * Lanes(log2e));
        sum[n] = Lanes(0.0f);
        store(panel.max + n * width, top[n]);
    }
    for (Index j = 0; j < keys; ++j) {
#pragma GCC unroll 8
        for (int n = 0; n < Vectors; ++n) {
            float* const at = score + (j * Vectors + n) * width;
            const Lanes weight = exp2((load(at) - shift[n]) * Lanes(log2e));
            sum[n] = sum[n] + weight;
            store(at, weight);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n)
        store(panel.sum + n * width, fma(load(panel.sum + n * width), shrink[n], sum[n]));
}

/// \brief out^T = out^T * shrink + V^T weights^T.
/// \param weight   (keys, lanes)
/// \param careful  skip weights of 0 one by one: a value that is not finite must not reach the rows
///                 that may not see it, and 0 * NaN is NaN
/// \param first_lane  of this panel within the tile's rows
template <int Vectors, bool stairs = false>
void sum_values(const Panel& panel, const KeyTile& tile, Index Ev, const float* weight,
                const Lanes (&shrink)[Vectors], bool careful, int first_lane = 0) {
    // Register tiles that fetch no queries fetch a line of 64 keys or values, if others come next.
    Index others = 0;  // of these so far
    for_register_tiles<tile_rows(Vectors)>(Ev, [&]<int Columns>(Rows<Columns>, Index first) {
        float* const out = panel.out + first * Vectors * width;
        const float* const value = tile.value + first;
        Lanes c[Columns][Vectors];  // output of Columns elements of Ev
        for_each_register(c, [](int, int, Lanes& x) { x = Lanes(0.0f); });
        // A register tile in which a cache line of Ev begins fetches this line of each row ahead.
        const Index line = first / 16 * 16;
        const bool fetches = tile.ahead && first - line < Columns;
        const auto multiply = [&](auto fetch) {
            for_stairs<Vectors, stairs>(
                tile, first_lane, [&]<int From>(Rows<From>, Index begin, Index end) {
                    if constexpr (From < Vectors)
                        multiply_add<Unit::row, From>(value + begin * tile.value_stride,
                                                      tile.value_stride,
                                                      weight + begin * Vectors * width, end - begin,
                                                      c, [&](Index j) { fetch(begin + j); });
                });
        };
        const RowsAhead* const ahead = tile.ahead;
        if (!careful && fetches)
            multiply([&](Index j) {
                for (Index r = j; r < j + 4; ++r) __builtin_prefetch(ahead->query[r] + line, 0, 2);
            });
        else if (!careful && ahead && others < ahead->key.lines + ahead->value.lines) {
            const bool keys = others < ahead->key.lines;
            const auto& from = keys ? ahead->key : ahead->value;
            const float* const row = from.data + (others - (keys ? 0 : ahead->key.lines)) * 16;
            ++others;
            multiply([&](Index j) {
                for (Index r = j; r < j + 4; ++r) __builtin_prefetch(row + r * from.stride, 0, 2);
            });
        } else if (!careful)
            multiply([](Index) {});
        else
            for (Index j = 0; j < tile.keys; ++j)
                for_each_register(c, [&](int r, int n, Lanes& x) {
                    const Lanes w = load(weight + (j * Vectors + n) * width);
                    const Lanes sum = fma(Lanes(value[j * tile.value_stride + r]), w, x);
                    x = xsimd::select(w == Lanes(0.0f), x, sum);
                });
        for_each_register(c, [&](int r, int n, const Lanes& x) {
            float* const at = out + (r * Vectors + n) * width;
            store(at, panel.first ? x : fma(load(at), shrink[n], x));
        });
    });
}

//! [visit]
/// \brief All a panel does with one tile of keys.
/// \param score  working memory, (keys, lanes)
template <int Vectors>
void visit_tile(const Panel& panel, const KeyTile& tile, int first_lane, Index E, Index Ev,
                float* score, bool careful) {
    Lanes top[Vectors], shrink[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) top[n] = load(panel.max + n * width);
    if (tile.stairs)
        score_panel<Vectors, true>(panel, tile, first_lane, E, score, top);
    else
        score_panel(panel, tile, first_lane, E, score, top);
    weigh_panel(panel, tile.keys, score, top, shrink);
    if (tile.stairs)
        sum_values<Vectors, true>(panel, tile, Ev, score, shrink, careful, first_lane);
    else
        sum_values(panel, tile, Ev, score, shrink, careful);
}
//! [visit]

}  // namespace
}  // namespace attn::ATTN_ISA
