/// \file
/// \brief Between the two products of AMX: scores of one tile become weights in planes of bfloat16.
///
/// Without an additive mask, scores stay as the product left them, and scale and log2(e) are one
/// factor in the exponential: softmax(scale * x) shifts by the maximum of x as well as by that of
/// scale * x.
#pragma once

#include "simd_amx_layout.hpp"
#include "simd_panel.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief What the maxima and scores of a problem count in.
struct ScoreUnit {
    float scale;  ///< of a raw score, before it is compared; 1 or -1: raw scores are kept
    float unit;   ///< a maximum times this is a scaled score
    float log2;   ///< a difference of scores times this is an exponent of 2

    /// \brief A scale that is far from 1 might make raw scores overflow where scaled ones do not.
    explicit ScoreUnit(const Problem& p) {
        const float given = static_cast<float>(p.scale), size = given < 0 ? -given : given;
        const bool raw = p.mask_kind != MaskKind::additive && size >= 0x1p-20f && size <= 0x1p20f;
        scale = !raw ? given : given < 0 ? -1.0f : 1.0f;
        unit = raw ? size : 1.0f;
        log2 = unit * log2e;
    }
};

/// \brief Scales and masks the scores of 16 queries, in place.
/// \param score  (64, lanes), from the queries' first
inline void mask_scores(const KeyTile& tile, Index lane, Index lanes, float scale, float* score) {
    for (Index j = 0; j < simd_tile_keys; ++j, score += lanes) {
        Lanes x = load(score) * Lanes(scale);
        if (tile.bias) {
            const Lanes add = load(tile.bias + j * simd_tile_rows + lane);
            x = xsimd::select(add == Lanes(minus_infinity), add, x + add);
        }
        if (tile.allowed) x = select(tile.allowed[j] >> lane, x, Lanes(minus_infinity));
        if (j >= tile.keys) x = Lanes(minus_infinity);
        store(score, x);
    }
}

/// \brief The maxima of 16 queries' scores.
inline Lanes largest_scores(const float* score, Index lanes) {
    Lanes top[4];  // in flight at once
    for (int n = 0; n < 4; ++n) top[n] = load(score + n * lanes);
    for (Index j = 4; j < simd_tile_keys; j += 4)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) top[n] = larger(load(score + (j + n) * lanes), top[n]);
    return larger(larger(top[0], top[1]), larger(top[2], top[3]));
}

/// \brief The upper halves of x and y, which are bfloat16, as pairs along the keys.
[[gnu::always_inline]] inline __m512i upper_pairs(__m512 even, __m512 odd) {
    alignas(64) static constexpr Half in_turn[32] = {1,  33, 3,  35, 5,  37, 7,  39, 9,  41, 11,
                                                     43, 13, 45, 15, 47, 17, 49, 19, 51, 21, 53,
                                                     23, 55, 25, 57, 27, 59, 29, 61, 31, 63};
    return _mm512_permutex2var_epi16(_mm512_castps_si512(even), _mm512_load_si512(in_turn),
                                     _mm512_castps_si512(odd));
}

/// \brief What is left of floats when their upper halves are taken away.
[[gnu::always_inline]] inline __m512 rest_of(__m512 x) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), upper)));
}

/// \brief Scores of 16 queries become weights, paired along the keys. Returns their sum, of weights
///        before rounding.
///
/// One plane: rounded to bfloat16. Two planes: cut, into the upper half of a float and the upper
/// half of what that leaves; less than 2^-15 of the weight is lost.
/// \param score   (64, lanes), from the queries' first
/// \param weight  (Count planes, 32, lanes, 2), likewise
template <int Count>
Lanes weigh(const float* score, Index lanes, Lanes shift, float log2, Half* weight) {
    // The conversion puts its second operand's 16 halves below its first's; pairs want them in
    // turn.
    alignas(64) static constexpr Half in_turn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(in_turn);
    const Index plane = simd_tile_keys * lanes;
    Lanes sum(0.0f);
#pragma GCC unroll 2
    for (Index j = 0; j < simd_tile_keys; j += 2) {
        const Lanes even = exp2((load(score + j * lanes) - shift) * Lanes(log2));
        const Lanes odd = exp2((load(score + (j + 1) * lanes) - shift) * Lanes(log2));
        sum = sum + (even + odd);
        if constexpr (Count == 1) {
            _mm512_store_si512(weight + j * lanes,
                               _mm512_permutexvar_epi16(order, round_to_bfloat16(even, odd)));
        } else {
            _mm512_store_si512(weight + j * lanes, upper_pairs(even, odd));
            _mm512_store_si512(weight + plane + j * lanes,
                               upper_pairs(rest_of(even), rest_of(odd)));
        }
    }
    return sum;
}

/// \brief The online softmax of one tile of keys, 16 queries at a time: maxima, sums and output
///        shrink to the new maxima, scores become weights.
template <int Count>
void weigh_tile(const KeyTile& tile, const ScoreUnit& unit, Index columns, const AmxBlock& block,
                const AmxScratch<Count>& scratch) {
    const Index lanes = block.lanes;
    const bool change = unit.scale != 1 || tile.allowed || tile.bias || tile.keys < simd_tile_keys;
    for (Index lane = 0; lane < lanes; lane += side) {
        float* const score = scratch.score + lane;
        float* const max = block.tile.max + lane;
        float* const sum = block.tile.sum + lane;
        if (change) mask_scores(tile, lane, lanes, unit.scale, score);
        const Lanes old = load(max), top = larger(largest_scores(score, lanes), old);
        const Lanes shift = xsimd::select(top == Lanes(minus_infinity), Lanes(0.0f), top);
        const Lanes shrink = exp2((old - shift) * Lanes(unit.log2));
        const Lanes total = weigh<Count>(score, lanes, shift, unit.log2, scratch.weight + 2 * lane);
        store(max, top);
        store(sum, fma(load(sum), shrink, total));
        if (xsimd::all(shrink == Lanes(1.0f))) continue;  // no maximum grew
        for (Index e = 0; e < columns; ++e) {
            float* const at = block.tile.out + e * lanes + lane;
            store(at, load(at) * shrink);
        }
    }
}

}  // namespace
}  // namespace attn::ATTN_ISA
