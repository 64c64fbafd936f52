/// \file
/// \brief How queries, keys and values lie for the products of AMX.
///
///     product   first operand (16 rows x 32 deep)   second operand (16 pairs deep x 16 columns)
///     scores^T  16 keys, as they lie in memory      16 queries, paired along E once per task
///     output^T  16 columns of V, transposed in a    weights of 16 queries, paired along the keys
///               tile of 64 keys                     when they are rounded
///
/// bfloat16 tensors have one plane and float16 tensors two (simd_amx_tiles.hpp): `Count`.
#pragma once

#include "simd_amx_tiles.hpp"
#include "simd_layout.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Tiles of queries that one task takes side by side: they share the planes and pairs that
///        are made of keys and values.
constexpr Index amx_blocks = simd_task_rows / simd_tile_rows;

/// \brief What one tile of queries keeps while it visits the tiles of keys.
struct AmxBlock {
    RowMap map;
    TileScratch tile;  ///< of this block: max, sum and out
    Half* query;       ///< (Count, deep(E) / 2, lanes, 2) pairs along E
    Index lanes;       ///< rows, rounded up to whole tile registers
    Index end;         ///< no row sees this key, or one behind it
};

/// \brief Working memory of one thread, besides TileScratch.
template <int Count>
struct AmxScratch {
    TileScratch tile;
    Half* query;   ///< (amx_blocks, Count, deep(E) / 2, 64, 2), see AmxBlock
    float* out;    ///< (amx_blocks, tall(Ev), 64)
    float* max;    ///< (amx_blocks, 64)
    float* sum;    ///< (amx_blocks, 64)
    Half* key;     ///< (Count, 64, deep(E)) copied; unused where keys are read in place
    Half* value;   ///< (Count, tall(Ev), 64) transposed
    Half* weight;  ///< (Count, 64 / 2, lanes, 2) pairs along the keys
    Half* line;    ///< rows on their way: (Count + 1, 4, deep(E)) or (2, tall(Ev)), at least
    float* pairs;  ///< (Count, 64 / 2, tall(Ev)) values paired along the keys, a pair seen as one
                   ///< float
    float* score;  ///< (64, lanes)
    Index query_halves, out_floats;  ///< of one block
    Index floats;                    ///< in all

    AmxScratch(const Problem& p, float* memory) : tile(p, memory), floats(tile.floats) {
        const auto take = taker(memory, floats);
        const auto take_halves = [&](Index count) {
            return reinterpret_cast<Half*>(take(Count * count / 2));
        };
        query_halves = Count * deep(p.E) * simd_tile_rows;
        out_floats = tall(p.Ev) * simd_tile_rows;
        query = take_halves(amx_blocks * deep(p.E) * simd_tile_rows);
        out = take(amx_blocks * out_floats);
        max = take(amx_blocks * simd_tile_rows);
        sum = take(amx_blocks * simd_tile_rows);
        key = take_halves(simd_tile_keys * deep(p.E));
        value = take_halves(tall(p.Ev) * simd_tile_keys);
        weight = take_halves(simd_tile_keys * simd_tile_rows);
        line = take_halves(8 * deep(p.E) + 2 * tall(p.Ev));
        pairs = take(Count * simd_tile_keys / 2 * tall(p.Ev));
        score = take(simd_tile_keys * simd_tile_rows);
    }
};

/// \brief 32 floats rounded to bfloat16, x below y.
[[gnu::always_inline]] inline __m512i round_to_bfloat16(__m512 x, __m512 y) {
    return (__m512i)_mm512_cvtne2ps_pbh(y, x);
}

/// \brief Sixteen bfloat16 as floats.
[[gnu::always_inline]] inline __m512 widened(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

[[gnu::always_inline]] inline __m512 widen_half(const Half* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

/// \brief Copies elements to contiguous memory, zeros up to `padded`.
[[gnu::always_inline]] inline void copy_row(const Half* from, Index stride, Index count, Half* to,
                                            Index padded) {
    if (stride == 1)
        std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(Half));
    else
        for (Index n = 0; n < count; ++n) to[n] = from[n * stride];
    for (Index n = count; n < padded; ++n) to[n] = 0;
}

/// \brief A row of queries or keys as planes of bfloat16, zeros up to deep(E).
/// \param to    the first plane's row, the second `plane` halves behind it
/// \param line  working memory, (deep(E))
template <int Count>
void place_row(const Half* from, Index stride, Index E, Half* to, Index plane, Half* line) {
    if constexpr (Count == 1) return copy_row(from, stride, E, to, deep(E));
    if (stride != 1 || E % depth != 0) {
        copy_row(from, stride, E, line, deep(E));
        from = line;
    }
    for (Index e = 0; e < deep(E); e += depth) {
        const __m512 x = widen_half(from + e), y = widen_half(from + e + side);
        const __m512i rounded = round_to_bfloat16(x, y);
        const __m512 x_rest = _mm512_sub_ps(x, widened(_mm512_castsi512_si256(rounded)));
        const __m512 y_rest = _mm512_sub_ps(y, widened(_mm512_extracti64x4_epi64(rounded, 1)));
        _mm512_storeu_si512(to + e, rounded);
        _mm512_storeu_si512(to + plane + e, round_to_bfloat16(x_rest, y_rest));  // 3 bits: exact
    }
}

/// \brief Pairs the queries along E: a pair moves as one float, so this is a transposition.
template <int Count>
Planes pair_queries(const Problem& p, const SimdTask& task, const AmxBlock& block,
                    const AmxScratch<Count>& scratch) {
    const RowMap& map = block.map;
    const Index lanes = block.lanes, pairs = deep(p.E) / 2, plane = 4 * deep(p.E);
    const TensorView& from = p.query;
    Half* const four = scratch.line;                  // (Count, 4, deep(E))
    Half* const line = scratch.line + Count * plane;  // (deep(E))
    for (Index r = 0; r < lanes; r += 4) {
        for (Index n = 0; n < 4; ++n) {
            const Index row = r + n;
            Half* const to = four + n * deep(p.E);
            if (row >= map.rows) {
                for (int c = 0; c < Count; ++c)
                    std::memset(to + c * plane, 0, static_cast<std::size_t>(pairs) * 4);
                continue;
            }
            place_row<Count>(static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                                 map.head[row] * from.stride[1] + map.query[row] * from.stride[2],
                             from.stride[3], p.E, to, plane, line);
        }
        for (int c = 0; c < Count; ++c) {
            const float* const rows = reinterpret_cast<const float*>(four + c * plane);
            float* const to = reinterpret_cast<float*>(block.query) + c * pairs * lanes + r;
            for (Index k = 0; k < pairs; k += 4)
                transpose_4x4(rows + k, pairs, to + k * lanes, lanes);
        }
    }
    return {block.query, deep(p.E) * lanes, lanes * 4};
}

/// \brief Keys as rows of at least deep(E) halves, 64 of them: in place if they are so in memory.
template <int Count>
Planes fetch_keys(const Problem& p, const SimdTask& task, Index first, Index keys,
                  const AmxScratch<Count>& scratch) {
    const TensorView& from = p.key;
    constexpr Index bytes = sizeof(Half);
    const Half* const source = static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                               task.key_head * from.stride[1] + first * from.stride[2];
    if (Count == 1 && from.stride[3] == 1 && p.E % depth == 0 && keys == simd_tile_keys)
        return {source, 0, from.stride[2] * bytes};
    const Index plane = simd_tile_keys * deep(p.E);
    for (Index j = 0; j < keys; ++j)
        place_row<Count>(source + j * from.stride[2], from.stride[3], p.E,
                         scratch.key + j * deep(p.E), plane, scratch.line);
    for (int c = 0; c < Count; ++c)
        std::memset(scratch.key + c * plane + keys * deep(p.E), 0,
                    static_cast<std::size_t>((simd_tile_keys - keys) * deep(p.E) * bytes));
    return {scratch.key, plane, deep(p.E) * bytes};
}

/// \brief x rounded to bfloat16, as the upper halves of dwords whose lower halves are 0.
[[gnu::always_inline]] inline __m512i upper_half(__m512 x) {
    return _mm512_castps_si512(widened((__m256i)_mm512_cvtneps_pbh(x)));
}

/// \brief Joins the elements of two keys' values to pairs, (columns) dwords in each plane.
/// \param plane  floats from one plane of `pairs` to the next
template <int Count>
[[gnu::always_inline]] inline void pair_rows(const Half* even, const Half* odd, Index columns,
                                             float* pairs, Index plane) {
    for (Index e = 0; e < columns; e += side) {
        if constexpr (Count == 1) {
            const __m512i low = _mm512_cvtepu16_epi32(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + e)));
            const __m512i high = _mm512_cvtepu16_epi32(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + e)));
            _mm512_store_si512(pairs + e, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        } else {
            // A rounded number is the upper half of its dword: what is left of x is x - rounded.
            const __m512 low = widen_half(even + e), high = widen_half(odd + e);
            const __m512i low_rounded = upper_half(low), high_rounded = upper_half(high);
            const __m512 low_rest = _mm512_sub_ps(low, _mm512_castsi512_ps(low_rounded));
            const __m512 high_rest = _mm512_sub_ps(high, _mm512_castsi512_ps(high_rounded));
            _mm512_store_si512(pairs + e,
                               _mm512_or_si512(_mm512_srli_epi32(low_rounded, 16), high_rounded));
            _mm512_store_si512(pairs + plane + e,
                               _mm512_or_si512(_mm512_srli_epi32(upper_half(low_rest), 16),
                                               upper_half(high_rest)));
        }
    }
}

/// \brief Transposes a tile of values: two keys' elements become a pair, and pairs move as floats.
template <int Count>
Planes transpose_values(const Problem& p, const SimdTask& task, Index first, Index keys,
                        const AmxScratch<Count>& scratch) {
    const TensorView& from = p.value;
    const Index columns = tall(p.Ev), plane = columns * simd_tile_keys;
    const Half* const source = static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                               task.key_head * from.stride[1] + first * from.stride[2];
    const Index pairs_plane = simd_tile_keys / 2 * columns;
    for (Index j = 0; j < simd_tile_keys; j += 2) {
        const Half* even = source + j * from.stride[2];
        const Half* odd = even + from.stride[2];
        if (from.stride[3] != 1 || p.Ev != columns || j + 1 >= keys) {
            Half* const line = scratch.line;  // (2, columns)
            copy_row(j < keys ? even : source, from.stride[3], j < keys ? p.Ev : 0, line, columns);
            copy_row(j + 1 < keys ? odd : source, from.stride[3], j + 1 < keys ? p.Ev : 0,
                     line + columns, columns);
            even = line, odd = line + columns;
        }
        pair_rows<Count>(even, odd, columns, scratch.pairs + j / 2 * columns, pairs_plane);
    }
    for (int c = 0; c < Count; ++c) {
        const float* const pairs = scratch.pairs + c * pairs_plane;
        float* const to = reinterpret_cast<float*>(scratch.value + c * plane);
        for (Index k = 0; k < simd_tile_keys / 2; k += 16)
            for (Index e = 0; e < columns; e += 4)
                transpose_fours([&](Index r) { return pairs + (k + r) * columns + e; },
                                to + e * (simd_tile_keys / 2) + k, simd_tile_keys / 2);
    }
    return {scratch.value, plane, simd_tile_keys * static_cast<Index>(sizeof(Half))};
}

}  // namespace
}  // namespace attn::ATTN_ISA
