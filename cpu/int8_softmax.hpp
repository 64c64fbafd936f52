/// \file
/// \brief What stands between and behind the integer products of one panel of queries: sums become
///        scores, scores become weights, blocks join. The online softmax of simd_panel.hpp.
///
/// The products themselves are in int8_panel.hpp, in registers, or in int8_amx.hpp, in matrix tiles.
/// Everything here is the same for both, so the results have the same bits.
#pragma once

#include "int8_quantize.hpp"
#include "simd_panel.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Up to 64 quantized keys, and what the mask says about them.
struct QuantizedKeys {
    const Word* key;            ///< (keys, key_words)
    const std::int32_t* start;  ///< (keys)
    const float* scale;         ///< (keys)
    Index key_words, keys;
    const std::uint64_t* allowed;  ///< (keys) bit n: lane n may see the key; null: all may
    const float* bias;             ///< (keys, simd_tile_rows) additive mask; null: none
};

/// \brief All bits of the lanes that are NaN or +infinity.
[[gnu::always_inline]] inline Bits not_a_score(Lanes x) {
    const Bits bits = bits_of(x);
    return ((bits & 0x7f800000) == 0x7f800000) & (bits != bits_of(Lanes(minus_infinity)));
}

/// \brief A register of queries while it meets the keys of a tile.
struct ScoreColumn {
    Lanes factor;  ///< scale_q * scale
    Lanes top;     ///< grows to cover the scores
    Bits bad;      ///< set in lanes whose mask gives a key NaN or +infinity
    int lane;      ///< the first, among the tile's rows
};

//! [score]
/// \brief An integer sum becomes a score: times scale_k * scale_q, plus the bias, -inf where the
///        mask removes the key.
template <bool masked>
[[gnu::always_inline]] inline Lanes score_of(const QuantizedKeys& tile, Index key, Bits sum,
                                             ScoreColumn& column) {
    const Lanes product = to_floats(sum), factor = column.factor * Lanes(tile.scale[key]);
    Lanes x = product * factor;
    if (masked && tile.bias) {
        const Lanes add = load(tile.bias + key * simd_tile_rows + column.lane);
        // Fused by name: whether the compiler would fuse it depends on the code around.
        x = xsimd::select(add == Lanes(minus_infinity), add, fma(product, factor, add));
    }
    if (masked && tile.allowed)
        x = select(tile.allowed[key] >> column.lane, x, Lanes(minus_infinity));
    if (masked && tile.bias) column.bad |= not_a_score(x);
    column.top = larger(x, column.top);
    return x;
}
//! [score]

/// \brief The values of one block of keys.
struct QuantizedValues {
    const Word* value;   ///< (words, Ev) words of neighbouring keys, `stride` apart
    const float* scale;  ///< (Ev) steps, over 255
    Index stride, words;
};

/// \brief How a block's sums join the running ones.
template <int Vectors>
struct BlockFactors {
    Lanes shrink[Vectors];  ///< exp(old max - new max), for all before
    Lanes block[Vectors];   ///< exp(block's max - new max), for the block
};

/// \brief Scores of a block become weights in 0 .. 255.
///
/// Against the largest score of the block, not of the row so far: a key that outshines all others
/// then costs only its own block the precision of its weights.
/// \param score   (keys in whole words, lanes)
/// \param weight  (words, lanes)
/// \param top     largest scores of the block
template <int Vectors>
BlockFactors<Vectors> weigh_integers(const Panel& panel, Index block_words, const float* score,
                                     Word* weight, const Lanes (&top)[Vectors]) {
    constexpr float log2_levels = 7.99435343685885793770f;  // log2(255)
    BlockFactors<Vectors> factors;
    Lanes shift[Vectors];
    Bits total[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
        // Where no key was seen the maximum is -inf, and -inf - -inf is NaN: shift by 0 there.
        const auto finite = [](Lanes x) {
            return xsimd::select(x == Lanes(minus_infinity), Lanes(0.0f), x);
        };
        const Lanes old = load(panel.max + n * width), grown = larger(top[n], old);
        shift[n] = finite(top[n]);
        factors.shrink[n] = exp2((old - finite(grown)) * Lanes(log2e));
        factors.block[n] = exp2((top[n] - finite(grown)) * Lanes(log2e));
        store(panel.max + n * width, grown);
        total[n] = Bits{};
    }
    Bits ones[dot_depth];
#pragma GCC unroll 4
    for (int d = 0; d < dot_depth; ++d) ones[d] = Bits{} + 1;
    //! [weights]
    for (Index w = 0; w < block_words; ++w) {
#pragma GCC unroll 8
        for (int n = 0; n < Vectors; ++n) {
            Bits q[dot_depth];
#pragma GCC unroll 4
            for (int d = 0; d < dot_depth; ++d) {
                const Lanes x = load(score + ((w * dot_depth + d) * Vectors + n) * width);
                q[d] = round_to_ints(exp2(fma(x - shift[n], Lanes(log2e), Lanes(log2_levels))));
            }
            const Bits packed = pack_weights(q);
            total[n] = dot(packed, pack(ones), total[n]);
            store_words(weight + (w * Vectors + n) * width, packed);
        }
    }
    //! [weights]
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
        const Lanes sum = to_floats(total[n]) * Lanes(1.0f / weight_levels);
        store(panel.sum + n * width,
              fma(sum, factors.block[n], load(panel.sum + n * width) * factors.shrink[n]));
    }
    return factors;
}

//! [join]
/// \brief A block's integer sum of one channel joins the running one: that shrinks, and the sum is
///        multiplied by the step of the channel and the factor of the block.
/// \param out  (lanes)
/// \param n    register of queries
template <int Vectors>
[[gnu::always_inline]] inline void join_sum(Bits sum, float scale,
                                            const BlockFactors<Vectors>& factors, int n,
                                            float* out) {
    float* const at = out + n * width;
    store(at, fma(to_floats(sum), factors.block[n] * Lanes(scale), load(at) * factors.shrink[n]));
}
//! [join]

}  // namespace
}  // namespace attn::ATTN_ISA
