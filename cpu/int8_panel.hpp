/// \file
/// \brief The two integer products of one panel of queries, in registers.
#pragma once

#include "int8_softmax.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief What the products need while a task runs: nothing.
struct ProductUnit {};

//! [scores]
/// \brief scores^T = K Q^T in integers, then in floats.
/// \param query  (key_words, lanes) words
/// \param score  (keys, lanes)
template <int Vectors>
void score_integers(const Word* query, const QuantizedKeys& tile, float* score,
                    ScoreColumn (&columns)[Vectors]) {
    for_register_tiles<tile_rows(Vectors)>(tile.keys, [&]<int Keys>(Rows<Keys>, Index first) {
        Bits c[Keys][Vectors];  // sums of Keys keys
        for_each_register(c, [&](int r, int, Bits& x) { x = Bits{} + tile.start[first + r]; });
        multiply_words<Unit::depth>(tile.key + first * tile.key_words, tile.key_words, query,
                                    tile.key_words, c);
        for_each_register(c, [&](int r, int n, const Bits& sum) {
            store(score + ((first + r) * Vectors + n) * width,
                  score_of<true>(tile, first + r, sum, columns[n]));
        });
    });
}
//! [scores]

//! [values]
/// \brief out^T = out^T * shrink + V^T weights^T * (step of the channel * factor of the block).
/// \param weight  (words, lanes)
template <int Vectors>
void sum_integers(const QuantizedValues& values, Index Ev, const Word* weight, float*,
                  const BlockFactors<Vectors>& factors, float* out) {
    for_register_tiles<tile_rows(Vectors)>(Ev, [&]<int Columns>(Rows<Columns>, Index first) {
        Bits c[Columns][Vectors];
        for_each_register(c, [](int, int, Bits& x) { x = Bits{}; });
        multiply_words<Unit::row>(values.value + first, values.stride, weight, values.words, c);
        for_each_register(c, [&](int r, int n, const Bits& sum) {
            join_sum(sum, values.scale[first + r], factors, n, out + (first + r) * Vectors * width);
        });
    });
}
//! [values]

}  // namespace
}  // namespace attn::ATTN_ISA
