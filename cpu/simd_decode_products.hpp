/// \file
/// \brief Few rows against one tile of keys: scores, weights, sums of values. The three steps of
///        the panel, with one row in a register instead of one query in each lane.
#pragma once

#include "simd_decode_lanes.hpp"
#include "simd_panel.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Rows that come next, to be fetched beside the loads of a tile: its values during its scores,
///        the next tile's keys during its sums. One row (`Group` = 1) needs its loads so fast that the
///        processor's own prefetches follow, and each of ours is a load less: one line in four. The
///        products of more rows hold the loads back; then every line is asked for, but none twice.
template <class Element, int Group>
struct RowsNext {
    using Memory = typename Element::Memory;
    static constexpr Index line = 64 / static_cast<Index>(sizeof(Memory));
    static constexpr Index step = (line > width ? line : width) * (Group == 1 ? 4 : 1);

    const Memory* data = nullptr;  // (rows, stride), from the columns on that are used; null: none
    Index stride = 0;

    /// \brief At the load of element e of row j. (The row need not exist: a prefetch reads nothing.)
    void fetch(Index j, Index e) const {
        if (e % step == 0 && data != nullptr) __builtin_prefetch(data + j * stride + e, 0, 2);
    }
};

/// \brief Scores of `Group` rows against four keys at a time: a register of a key serves all rows.
///        Key after key, as they lie in memory, so that a processor that guesses what is read next
///        guesses right.
/// \param score  (Group, tile_keys)
template <class Element, int Group>
void score_rows(const float* query, Index query_stride, const typename Element::Memory* key,
                Index key_stride, Index keys, Index E, const RowsNext<Element, Group>& next,
                float* score) {
    const Index whole = E / width * width;
    for (Index j = 0; j < keys; j += 4) {
        // In the last step the last key stands in for those that do not exist.
        const typename Element::Memory* row[4];
        for (Index n = 0; n < 4; ++n) row[n] = key + (j + n < keys ? j + n : keys - 1) * key_stride;
        Lanes c[Group][4];
        for_each_register(c, [&](int, int, Lanes& x) { x = Lanes(0.0f); });
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n)
            for (Index e = 0; e < whole; e += width) {
                const Lanes k = Element::load(row[n] + e);
                next.fetch(j + n, e);
#pragma GCC unroll 4
                for (int g = 0; g < Group; ++g)
                    c[g][n] = fma(load(query + g * query_stride + e), k, c[g][n]);
            }
        if (whole < E) {
            Lanes k[4];
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) k[n] = load_part<Element>(row[n] + whole, E - whole);
            for_each_register(c, [&](int g, int n, Lanes& x) {
                x = fma(load(query + g * query_stride + whole), k[n], x);
            });
        }
#pragma GCC unroll 4
        for (int g = 0; g < Group; ++g)
            *reinterpret_cast<Four*>(score + g * simd_tile_keys + j) =
                sums(c[g][0], c[g][1], c[g][2], c[g][3]);
    }
}

/// \brief out = out * shrink + weights V for `Group` rows and `Count` registers of Ev.
/// \param weight  (Group, tile_keys)
template <class Element, int Group, int Count>
void sum_rows(const float* weight, const typename Element::Memory* value, Index value_stride,
              Index keys, Index part, const float* shrink, const RowsNext<Element, Group>& next,
              float* out, Index out_stride, bool careful) {
    Lanes c[Group][Count];
    for_each_register(c, [&](int g, int n, Lanes& x) {
        x = load(out + g * out_stride + n * width) * Lanes(shrink[g]);
    });
    for (Index j = 0; j < keys; ++j, value += value_stride) {
        Lanes v[Count];
        if (part == 0) {
#pragma GCC unroll 16
            for (int n = 0; n < Count; ++n) {
                v[n] = Element::load(value + n * width);
                next.fetch(j, n * width);
            }
        } else {
            v[0] = load_part<Element>(value, part);  // Count is 1 here
        }
        for_each_register(c, [&](int g, int n, Lanes& x) {
            const float w = weight[g * simd_tile_keys + j];
            if (careful && w == 0) return;
            x = fma(Lanes(w), v[n], x);
        });
    }
    for_each_register(c,
                      [&](int g, int n, Lanes& x) { store(out + g * out_stride + n * width, x); });
}

/// \brief The scores of one row, masked, become weights, in place. Returns the factor by which what
///        was summed under the old maximum shrinks.
/// \param allowed  bit j: the row may see key j; none beyond the tile's keys
/// \param bias     (tile_keys) additive mask; null: none
float weigh_row(float* score, std::uint64_t allowed, const float* bias, float* state) {
    constexpr int registers = simd_tile_keys / width;
    float& max = state[0];
    float& sum = state[1];
    Lanes x[registers], largest(max), total(0.0f);
#pragma GCC unroll 16
    for (int n = 0; n < registers; ++n) {
        x[n] = load(score + n * width);
        if (bias != nullptr) {
            const Lanes add = load(bias + n * width);
            x[n] = xsimd::select(add == Lanes(minus_infinity), add, x[n] + add);
        }
        x[n] = select(allowed >> (n * width), x[n], Lanes(minus_infinity));
        largest = larger(x[n], largest);
    }
    alignas(64) float lane[width];
    store(lane, largest);
    float grown = max;
    for (int n = 0; n < width; ++n) grown = lane[n] > grown ? lane[n] : grown;

    const float shift = grown == minus_infinity ? 0.0f : grown;
#pragma GCC unroll 16
    for (int n = 0; n < registers; ++n) {
        const Lanes weight = exp2((x[n] - Lanes(shift)) * Lanes(log2e));
        total = total + weight;
        store(score + n * width, weight);
    }
    store(lane, exp2(Lanes((max - shift) * log2e)));
    const float shrink = lane[0];
    const Four four = fold(total);
    max = grown;
    sum = sum * shrink + ((four[0] + four[1]) + (four[2] + four[3]));
    return shrink;
}

}  // namespace
}  // namespace attn::ATTN_ISA
