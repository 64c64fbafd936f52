/// \file
/// \brief The two integer products of one panel of queries, on the matrix tiles of AMX.
///
/// One instruction multiplies 16 rows of 64 8-bit numbers by 16 rows of 16 words and adds to 16 x 16
/// sums of 32 bits, in 16 cycles: eight times the products of vpdpbusd. Words are those of
/// int8_dot.hpp, so queries and weights lie as they do for registers:
///
///     product   first operand (16 rows of 16 words)   second operand (16 words x 16 columns)
///     scores^T  16 keys                               queries, (words of E, lanes)
///     output^T  16 channels of V, transposed once     weights, (words of keys, lanes)
///               when they became integers
#pragma once

#include "int8_softmax.hpp"
#include "simd_amx_tiles.hpp"

namespace attn::ATTN_ISA {
namespace {

static_assert(panel_lanes == simd_tile_rows && int8_block == 4 * 16,
              "one panel, one row of values");

/// \brief What the products need while a task runs: the tile registers.
using ProductUnit = Tiles;

// g++ 12 takes numbers of tile registers only as they are written, hence `if constexpr` below.

/// \brief Loads 16 words x Columns * 16 columns into the tile registers 4 and up.
/// \param b  words, rows `row` bytes apart
template <int Columns>
[[gnu::always_inline]] inline void hold(const Word* b, Index row) {
    _tile_loadd(4, b, row);
    if constexpr (Columns > 1) _tile_loadd(5, b + side, row);
    if constexpr (Columns > 2) _tile_loadd(6, b + 2 * side, row);
    if constexpr (Columns > 3) _tile_loadd(7, b + 3 * side, row);
}

/// \brief c = a b for 16 rows of 16 words and column n of what `hold` holds. The first column loads
///        a, the others find it.
/// \tparam weights  b is 0 .. 255, else -127 .. 127 as a is
/// \param a  words, rows `a_row` bytes apart
/// \param c  sums, rows `c_row` bytes apart
template <bool weights, int n>
[[gnu::always_inline]] inline void multiply_held(const Word* a, Index a_row, Word* c, Index c_row) {
    if constexpr (n == 0) _tile_loadd(3, a, a_row);
    if constexpr (n % 2 == 0) _tile_zero(0);
    if constexpr (n % 2 == 1) _tile_zero(1);
    if constexpr (weights && n == 0) _tile_dpbsud(0, 3, 4);
    if constexpr (weights && n == 1) _tile_dpbsud(1, 3, 5);
    if constexpr (weights && n == 2) _tile_dpbsud(0, 3, 6);
    if constexpr (weights && n == 3) _tile_dpbsud(1, 3, 7);
    if constexpr (!weights && n == 0) _tile_dpbssd(0, 3, 4);
    if constexpr (!weights && n == 1) _tile_dpbssd(1, 3, 5);
    if constexpr (!weights && n == 2) _tile_dpbssd(0, 3, 6);
    if constexpr (!weights && n == 3) _tile_dpbssd(1, 3, 7);
    if constexpr (n % 2 == 0) _tile_stored(0, c, c_row);
    if constexpr (n % 2 == 1) _tile_stored(1, c, c_row);
}

/// \brief Loads 32 words x Columns * 16 columns, 1 or 2.
template <int Columns>
[[gnu::always_inline]] inline void hold_twice(const Word* b, Index row) {
    const Word* const below = b + side * row / 4;
    _tile_loadd(4, b, row);
    _tile_loadd(6, below, row);
    if constexpr (Columns > 1) _tile_loadd(5, b + side, row);
    if constexpr (Columns > 1) _tile_loadd(7, below + side, row);
}

/// \brief c = a b for 16 rows of 32 words and column n of what `hold_twice` holds.
template <int n>
[[gnu::always_inline]] inline void multiply_held_twice(const Word* a, Index a_row, Word* c,
                                                       Index c_row) {
    if constexpr (n == 0) {
        _tile_loadd(2, a, a_row);
        _tile_loadd(3, a + side, a_row);
        _tile_zero(0);
        _tile_dpbssd(0, 2, 4);
        _tile_dpbssd(0, 3, 6);
        _tile_stored(0, c, c_row);
    } else {
        _tile_zero(1);
        _tile_dpbssd(1, 2, 5);
        _tile_dpbssd(1, 3, 7);
        _tile_stored(1, c, c_row);
    }
}

/// \brief c = a b for 16 rows of `steps` times 16 words, and one column.
/// \param b  words, rows as far apart as those of c
[[gnu::always_inline]] inline void multiply_long(const Word* a, Index a_row, const Word* b,
                                                 Index steps, Word* c, Index c_row) {
    _tile_zero(0);
    for (Index k = 0; k < steps; ++k) {
        _tile_loadd(2, a + k * side, a_row);
        _tile_loadd(3, b + k * side * c_row / 4, c_row);
        _tile_dpbssd(0, 2, 3);
    }
    _tile_stored(0, c, c_row);
}

//! [in turns]
/// \brief Calls multiply(column, first row), and then take(column, first row, end), for every 16 of
///        `rows` rows and every column. In turns: while a column is taken, the matrix unit works on
///        the one two columns ahead; both fit the window in which the core reorders instructions.
///        (Not further ahead: sums 16 rows ahead lie 4096 bytes ahead, where a load waits for a
///        store that it takes for its own.)
template <int Columns, int n = 0, class Multiply, class Take>
[[gnu::always_inline]] inline void in_turns(Index rows, Index first, Multiply multiply, Take take) {
    constexpr int ahead = (Columns + 1) / 2;
    const Index next = first + side;
    if constexpr (n + ahead < Columns)
        multiply(Rows<n + ahead>{}, first);
    else if (next < rows)
        multiply(Rows<n + ahead - Columns>{}, next);
    take(Rows<n>{}, first, next < rows ? next : rows);
    if constexpr (n + 1 < Columns) in_turns<Columns, n + 1>(rows, first, multiply, take);
}
template <int Columns, class Multiply, class Take>
[[gnu::always_inline]] inline void in_turns(Index rows, Multiply multiply, Take take) {
    asm volatile("" : : : "memory");  // g++ 12 does not know that tiles are loaded from memory
    if (rows > 0) multiply(Rows<0>{}, Index{0});
    if constexpr (Columns > 2)
        if (rows > 0) multiply(Rows<1>{}, Index{0});
    for (Index first = 0; first < rows; first += side)
        in_turns<Columns>(rows, first, multiply, take);
}
//! [in turns]

/// \brief The sums of one column of queries become scores, in place.
/// \param score  (keys, lanes), from the column's first lane
template <bool masked, Index lanes>
[[gnu::always_inline]] inline void take_scores(const QuantizedKeys& tile, Index first, Index end,
                                               float* score, ScoreColumn& kept) {
    ScoreColumn column = kept;  // in registers
    const QuantizedKeys keys = tile;
#pragma GCC unroll 4
    for (Index key = first; key < end; ++key) {
        float* const at = score + key * lanes;
        store(at, score_of<masked>(keys, key, load_words(at), column));
    }
    kept = column;
}

// What the functions below give to `in_turns` are copies, not references: those would be read from
// memory again after every tile that is stored.
#define ATTN_INLINE __attribute__((always_inline))

/// \brief The scores of Columns columns of queries.
/// \param query   (key_words, lanes) words, from the first column's lane
/// \param score   (keys, lanes) likewise: the sums lie where their scores will
/// \param column  (Columns)
template <int Columns, Index lanes>
[[gnu::always_inline]] inline void score_columns(const Word* query, const QuantizedKeys& tile,
                                                 float* score, ScoreColumn* column) {
    constexpr Index row = lanes * 4;
    const QuantizedKeys* const keys = &tile;
    const Word* const key = tile.key;
    const Index words = tile.key_words, steps = words / side;
    const bool masked = tile.allowed || tile.bias;
    const auto sums_at = [=](int n, Index first) ATTN_INLINE {
        return reinterpret_cast<Word*>(score) + first * lanes + n * width;
    };
    const auto take = [=]<int n>(Rows<n>, Index first, Index end) ATTN_INLINE {
        if (masked)
            take_scores<true, lanes>(*keys, first, end, score + n * width, column[n]);
        else
            take_scores<false, lanes>(*keys, first, end, score + n * width, column[n]);
    };
    if (steps == 1) {
        hold<Columns>(query, row);
        in_turns<Columns>(
            tile.keys,
            [=]<int n>(Rows<n>, Index first) ATTN_INLINE {
                multiply_held<false, n>(key + first * side, tile_bytes_row, sums_at(n, first), row);
            },
            take);
    } else if (Columns <= 2 && steps == 2) {
        hold_twice<Columns>(query, row);
        in_turns<Columns>(
            tile.keys,
            [=]<int n>(Rows<n>, Index first) ATTN_INLINE {
                multiply_held_twice<n>(key + first * words, words * 4, sums_at(n, first), row);
            },
            take);
    } else {
        in_turns<Columns>(
            tile.keys,
            [=]<int n>(Rows<n>, Index first) ATTN_INLINE {
                multiply_long(key + first * words, words * 4, query + n * side, steps,
                              sums_at(n, first), row);
            },
            take);
    }
}

/// \brief scores^T = K Q^T in integers, then in floats.
/// \param query  (key_words, lanes) words
/// \param score  (keys, lanes)
template <int Vectors>
void score_integers(const Word* query, const QuantizedKeys& tile, float* score,
                    ScoreColumn (&columns)[Vectors]) {
    constexpr Index lanes = Vectors * width;
    if (tile.key_words != 2 * side || Vectors <= 2)
        return score_columns<Vectors, lanes>(query, tile, score, columns);
    score_columns<2, lanes>(query, tile, score, columns);
    score_columns<(Vectors > 2 ? Vectors - 2 : 1), lanes>(query + 2 * side, tile, score + 2 * width,
                                                          columns + 2);
}

/// \brief out^T = out^T * shrink + V^T weights^T * (step of the channel * factor of the block).
/// \param weight  (words, lanes)
/// \param memory  working memory, (32, lanes)
template <int Vectors>
void sum_integers(const QuantizedValues& values, Index Ev, const Word* weight, float* memory,
                  const BlockFactors<Vectors>& factors, float* out) {
    constexpr Index lanes = Vectors * width, row = lanes * 4;
    const BlockFactors<Vectors> own = factors;
    const Word* const value = values.value;
    const float* const scale = values.scale;
    Word* const sums = reinterpret_cast<Word*>(memory);
    asm volatile("" : : : "memory");  // as above
    hold<Vectors>(weight, row);
    in_turns<Vectors>(
        Ev,
        [=]<int n>(Rows<n>, Index first) ATTN_INLINE {
            multiply_held<true, n>(value + first * side, tile_bytes_row,
                                   sums + (first & side) * lanes + n * width, row);
        },
        [=]<int n>(Rows<n>, Index first, Index end) ATTN_INLINE {
            const Word* sum = sums + (first & side) * lanes + n * width;
#pragma GCC unroll 4
            for (Index e = first; e < end; ++e, sum += lanes)
                join_sum(load_words(sum), scale[e], own, n, out + e * lanes);
        });
}
#undef ATTN_INLINE

}  // namespace
}  // namespace attn::ATTN_ISA
