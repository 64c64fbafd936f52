/// \file
/// \brief Masks of the tier `simd`, a tile at a time: which keys a tile's queries may see.
///
/// Causality and a boolean mask become one bit per (query, key). 64 keys of a row are one word; the
/// words of a tile's 64 rows tell at once whether all of them, or none, are visible. Then the tile
/// is computed without a mask, or not at all. Only a mixed tile is masked: its 64 x 64 bits are
/// transposed, and a word holds one key's bit for every lane.
///
/// An additive mask becomes a tile of floats, transposed the same way.
#pragma once

#include "simd_kernel.hpp"
#include "simd_rows.hpp"

#include <attn/tier.hpp>

#include <limits>

namespace attn::ATTN_ISA {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// \brief The rows of one tile of queries: every query head that shares a key head, interleaved.
/// Row r is query r / group of head r % group: neighbours see nearly the same keys.
struct RowMap {
    Index rows;                     ///< 1 to simd_tile_rows
    Index query[simd_tile_rows];    ///< i, ascending
    Index head[simd_tile_rows];     ///< h
    Index visible[simd_tile_rows];  ///< keys that causality leaves: 0 .. visible - 1; ascending
    const std::uint8_t* mask[simd_tile_rows];  ///< the row of a boolean mask, (S)
    std::uint8_t* covers = nullptr;            ///< (key tiles) of these rows; null: not kept
};

/// \brief What the mask leaves of a tile. unknown: nobody has looked.
enum class Cover : std::uint8_t { unknown, none, all, mixed };

/// \brief The lowest `count` bits, 0 <= count <= 64.
[[gnu::always_inline]] inline std::uint64_t low_bits(Index count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

/// \brief Bit j of the result: element j of a row of booleans is not 0. At most 64.
[[gnu::always_inline]] inline std::uint64_t bits_of_booleans(const std::uint8_t* row, Index stride,
                                                             Index count) {
    std::uint64_t bits = 0;
    if (stride == 1 && count == 64) {
#if defined(__AVX512BW__)
        const __m512i bytes = _mm512_loadu_si512(row);
        return _mm512_test_epi8_mask(bytes, bytes);
#elif defined(__SSE2__)
        for (int n = 0; n < 4; ++n) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row) + n);
            const int zero = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
            bits |= static_cast<std::uint64_t>(~zero & 0xffff) << (16 * n);
        }
        return bits;
#endif
    }
    for (Index j = 0; j < count; ++j) bits |= static_cast<std::uint64_t>(row[j * stride] != 0) << j;
    return bits;
}

/// \brief Transposes a 64 x 64 bit matrix in place: halves of ever smaller blocks change places.
/// Source: Warren, Hacker's Delight, section 7-3.
void transpose_bits(std::uint64_t (&word)[64]) {
    std::uint64_t low = 0x00000000ffffffffu;
    for (int half = 32; half != 0; half >>= 1, low ^= low << half)
        for (int block = 0; block < 64; block += 2 * half)
            for (int r = block; r < block + half; ++r) {
                const std::uint64_t swap = ((word[r] >> half) ^ word[r + half]) & low;
                word[r] ^= swap << half;
                word[r + half] ^= swap;
            }
}

/// \brief Whether all, none or some of the booleans of a tile are true: their columns' maxima and
///        minima, without looking at a single bit. 64 keys, neighbours in memory.
Cover cover_of_booleans(const RowMap& map, Index first) {
    typedef std::uint8_t Bytes __attribute__((vector_size(64)));
    Bytes any{}, least = ~Bytes{};
    const std::uint8_t* last = nullptr;
    for (Index r = 0; r < map.rows; ++r) {
        const std::uint8_t* const row = map.mask[r] + first;
        if (row == last) continue;
        last = row;
        Bytes now;
        std::memcpy(&now, row, sizeof now);
        __builtin_prefetch(row + sizeof now);  // the row's next tile
        any |= now;
        least = now < least ? now : least;
    }
    const auto has_bits = [](const auto& bytes) {
        std::uint64_t word[8], all = 0;
        std::memcpy(word, &bytes, sizeof word);
        for (const std::uint64_t w : word) all |= w;
        return all != 0;
    };
    return !has_bits(any) ? Cover::none : !has_bits(least == 0) ? Cover::all : Cover::mixed;
}

/// \brief Reads the causal rule and a boolean mask for keys first .. first + keys - 1.
/// \param word  for a mixed tile: one word per row, one bit per key
/// \param known  Cover::mixed: so it was for another head
Cover read_bits(const Problem& p, const RowMap& map, Index first, Index keys,
                std::uint64_t (&word)[64], Cover known = Cover::unknown) {
    const std::uint64_t full = low_bits(keys);
    const bool boolean = p.mask_kind == MaskKind::boolean;
    // Rows ascend: when the first sees all of these keys, the causal rule removes none.
    const bool all_visible = map.visible[0] >= first + keys;
    if (!boolean && all_visible) return Cover::all;
    const Index stride = p.mask.stride[3];
    if (boolean && all_visible && stride == 1 && keys == 64 && known == Cover::unknown) {
        const Cover cover = cover_of_booleans(map, first);
        if (cover != Cover::mixed) return cover;
    }

    std::uint64_t any = 0, every = full, mask_bits = full;
    const std::uint8_t* last = nullptr;
    for (Index r = 0; r < map.rows; ++r) {
        const Index visible = map.visible[r] - first;
        // A mask that is broadcast over rows or heads gives the same bits again.
        if (boolean && map.mask[r] != last) {
            const std::uint8_t* const row = map.mask[r] + first * stride;
            mask_bits = bits_of_booleans(row, stride, keys);
            __builtin_prefetch(row + simd_tile_keys);  // the row's next tile
            last = map.mask[r];
        }
        word[r] = mask_bits & (visible > 0 ? low_bits(visible) & full : 0);
        any |= word[r];
        every &= word[r];
    }
    return any == 0 ? Cover::none : every == full ? Cover::all : Cover::mixed;
}

/// \brief One word per row, one bit per key, becomes one word per key, one bit per lane. Lanes
///        without a row see all keys.
void turn_to_lanes(const RowMap& map, std::uint64_t (&word)[64]) {
    for (Index r = map.rows; r < simd_tile_rows; ++r) word[r] = ~std::uint64_t{0};
    transpose_bits(word);
}

/// \brief Reads an additive mask for keys first .. first + keys - 1 into `bias`, (keys, 64 rows).
/// \param line  working memory, (4, 64)
/// \return none if every element is -inf, all if every element is 0
Cover read_bias(const Problem& p, Index b, const RowMap& map, Index first, Index keys, float* bias,
                float* line) {
    for (Index r = 0; r < simd_tile_rows; r += 4) {
        for (Index n = 0; n < 4; ++n) {
            // Lanes without a row repeat the last one, so that they do not change the cover.
            const Index row = r + n < map.rows ? r + n : map.rows - 1;
            widen_row(p.mask.dtype, p.mask.data,
                      b * p.mask.stride[0] + map.head[row] * p.mask.stride[1] +
                          map.query[row] * p.mask.stride[2] + first * p.mask.stride[3],
                      p.mask.stride[3], keys, line + n * 64);
        }
        for (Index j = 0; j + 4 <= keys; j += 4)
            transpose_4x4(line + j, 64, bias + j * simd_tile_rows + r, simd_tile_rows);
        for (Index j = keys & ~Index{3}; j < keys; ++j)
            for (Index n = 0; n < 4; ++n) bias[j * simd_tile_rows + r + n] = line[n * 64 + j];
    }
    bool removed = true, zero = true;
    for (Index at = 0; at < keys * simd_tile_rows && (removed || zero); at += width) {
        const Lanes add = load(bias + at);
        removed = removed && xsimd::all(add == Lanes(minus_infinity));
        zero = zero && xsimd::all(add == Lanes(0.0f));
    }
    return removed ? Cover::none : zero ? Cover::all : Cover::mixed;
}

}  // namespace
}  // namespace attn::ATTN_ISA
