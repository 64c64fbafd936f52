/// \file
/// \brief The algebra of 8-bit attention: scales, groups, smoothing, rotation. Host and device.
///
/// A score is scale * (q . k). An integer product needs q and k as small integers times a step:
///
///     q ~ scale_q * q8,  k ~ scale_k * k8      =>      q . k ~ scale_q * scale_k * (q8 . k8)
///
/// The integer sum is exact, so all error is in the rounding of q and k, at most half a step for
/// each element. A step is the largest magnitude of its group over 127; everything below keeps that
/// largest magnitude small, and none of it changes the attention that is computed:
///
/// | what      | identity                                            | what it removes   |
/// |-----------|-----------------------------------------------------|-------------------|
/// | groups    | each group of tokens has its own step               | loud tokens       |
/// | smoothing | q . (k - c) = q . k - q . c: the same for all keys  | a bias of K       |
/// | rotation  | (R q) . (R k) = q . k for orthogonal R              | loud channels     |
/// | folding   | exp(scale * s) = exp2((scale * log2(e)) * s)        | a product a score |
///
/// \par Every integer is the same everywhere
/// Each operation below rounds once, by IEEE 754, to nearest, ties to even, and none is a product
/// that is added to something (except by a power of two, which is exact): a compiler has nothing to
/// fuse. Any vectorised or parallel form that follows the stated order of additions gives the same
/// bits, with or without denormal numbers.
///
/// \par Sources
/// Zhang et al. 2024 (SageAttention), sections 4.2 and 4.3: smoothing, scales; Zhang et al. 2024
/// (SageAttention2), section 3.2: a group for what a thread owns; Ashkboos et al. 2024 (QuaRot) and
/// Shah et al. 2024 (FlashAttention-3), section 3.3: the rotation.
#pragma once

#include <attn/dtype.hpp>
#include <attn/tensor.hpp>

#include <bit>
#include <cmath>
#include <cstdint>

namespace attn {

// ---- one number ---------------------------------------------------------------------------------

/// \brief Quantized queries, keys and values are in -127 .. 127: symmetric, so that a negated
///        tensor has negated integers.
inline constexpr int quantized_levels = 127;

/// \brief Quantized weights are in 0 .. 255.
inline constexpr int weight_levels = 255;

/// \brief |x| as an integer that grows with it; infinity is above all numbers and NaN above that.
///        The largest magnitude of a group is a maximum of integers: the same in any order.
ATTN_HD inline std::uint32_t magnitude(float x) {
    return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
}
/// \brief The number of that magnitude.
ATTN_HD inline float magnitude_value(std::uint32_t magnitude) {
    return std::bit_cast<float>(magnitude);
}

/// \brief Bounds of what is quantized. With both operands below 2^40 no product of scales can
///        overflow; a group that stays below 2^-80 moves a score by less than 2^-40 a channel.
inline constexpr float quantizable_largest = 0x1p40f;
/// \brief The least: see `quantizable_largest`.
inline constexpr float quantizable_least = 0x1p-80f;

/// \brief False for NaN, infinity and numbers beyond 2^40: a row that holds one is computed in
///        floating point instead.
ATTN_HD inline bool quantizable(std::uint32_t magnitude) {
    return magnitude <= std::bit_cast<std::uint32_t>(quantizable_largest);
}

/// \brief The nearest integer, ties to even.
ATTN_HD inline int round_to_int(float x) {
#ifdef __CUDA_ARCH__
    return __float2int_rn(x);
#else
    return static_cast<int>(std::nearbyint(x));  // the rounding mode is to nearest
#endif
}

// [quantizer]
/// \brief The step of one group, and its use.
struct Quantizer {
    float scale = 0;    ///< the step: real = scale * integer
    float inverse = 0;  ///< 1 / scale

    /// \brief Step 0: every integer is 0.
    Quantizer() = default;
    /// \param largest  magnitude of the group's largest element, which must be `quantizable`.
    ///        Below 2^-80 (an empty group, or all zeros) the step is 0 and so is every integer.
    ATTN_HD explicit Quantizer(std::uint32_t largest) {
        const float amax = magnitude_value(largest);
        if (!(amax >= quantizable_least)) return;
        scale = amax / quantized_levels;
        inverse = quantized_levels / amax;
    }
    /// \brief In -127 .. 127 for every element of the group: amax * (127 / amax) is at most
    ///        127 (1 + 2^-23), which rounds to 127.
    ATTN_HD int operator()(float x) const { return round_to_int(x * inverse); }
    /// \brief The number that an integer stands for.
    ATTN_HD float real(int q) const { return scale * static_cast<float>(q); }
};
// [quantizer]

/// \brief Keys whose values share a step for each channel, and whose weights are rounded against
///        the largest among them: a key that outshines all others costs only its own block small
///        weights.
inline constexpr Index value_block = 64;

/// \brief A weight in 0 .. 1, exp(score - max), as an integer. The sum that divides the output must
///        be the sum of these integers: then quantized weights still are an average.
ATTN_HD inline int quantize_weight(float weight) {
    return round_to_int(weight * static_cast<float>(weight_levels));
}

// ---- groups -------------------------------------------------------------------------------------

/// \brief Which tokens share a step: `run` neighbours at a time, dealt in turn to the `groups`
///        groups of each block of `block` tokens.
struct Grouping {
    Index block;   ///< tokens
    Index groups;  ///< per block
    Index run;     ///< tokens

    /// \brief The group of a token, counted from 0.
    ATTN_HD Index group_of(Index token) const {
        return token / block * groups + token % block / run % groups;
    }
    /// \brief Number of groups of `tokens` tokens.
    ATTN_HD Index count(Index tokens) const { return (tokens + block - 1) / block * groups; }
};

/// \brief One step for all of a head's tokens.
ATTN_HD inline Grouping per_tensor(Index tokens) { return {tokens > 0 ? tokens : 1, 1, 1}; }
/// \brief One step for `block` neighbouring tokens.
ATTN_HD inline Grouping per_block(Index block) { return {block, 1, 1}; }
/// \brief One step for each token.
ATTN_HD inline Grouping per_token() { return {1, 1, 1}; }
/// \brief Queries whose scores one thread holds after an m16n8 product of a tensor core: rows r and
///        r + 8 of the 16 rows of a warp.
ATTN_HD inline Grouping per_thread_query(Index rows_of_a_warp = 16) {
    return {rows_of_a_warp, 8, 1};
}
/// \brief Keys whose scores one thread holds: 8n + 2t and 8n + 2t + 1 for thread t of four.
ATTN_HD inline Grouping per_thread_key(Index keys_of_a_tile = 64) { return {keys_of_a_tile, 4, 2}; }

// ---- smoothing ----------------------------------------------------------------------------------

/// \brief Tokens that are summed one after the other before their sum joins the total.
inline constexpr Index smoothing_block = 64;

/// \brief Most blocks that the mean is taken from. The mean of 512 tokens is off by a twentieth of
///        their deviation; left in k - c, that makes the step a thousandth wider. To read all of a
///        long K and know it better would cost more.
inline constexpr Index smoothing_samples = 8;

/// \brief Blocks from one that counts for the mean to the next; the first one counts.
ATTN_HD inline Index smoothing_stride(Index tokens) {
    const Index blocks = (tokens + smoothing_block - 1) / smoothing_block;
    return blocks == 0 ? 1 : (blocks + smoothing_samples - 1) / smoothing_samples;
}
/// \brief Does this of all `tokens` tokens count for the mean?
ATTN_HD inline bool counts_for_mean(Index token, Index tokens) {
    return token / smoothing_block % smoothing_stride(tokens) == 0;
}

// [smoothing]
/// \brief The mean of one channel of K over its tokens, the c of q . (k - c). Any constant gives
///        the same attention; the mean makes k - c small.
///
/// Tokens that count come in order. Those that no query may see, and those that are not
/// quantizable, are left out: what they hold must not matter.
struct ChannelMean {
    float block = 0;   ///< sum since the last end of a block
    float total = 0;   ///< sum of the blocks
    Index tokens = 0;  ///< that were added

    /// \brief The next token.
    ATTN_HD void add(float x) { block += x, ++tokens; }
    /// \brief After the tokens 64 n .. 64 n + 63 of a block that counts, whether they were added or
    ///        left out.
    ATTN_HD void end_block() { total += block, block = 0; }
    /// \brief 0 without tokens.
    ATTN_HD float mean() const { return tokens == 0 ? 0 : total / static_cast<float>(tokens); }
};

/// \brief What smoothing took from every score of a row, to be added to its logsumexp.
/// \param logsumexp       of the smoothed scores
/// \param scale           of the scores
/// \param query_dot_mean  q . c
ATTN_HD inline float smoothed_logsumexp(float logsumexp, float scale, float query_dot_mean) {
    return logsumexp + scale * query_dot_mean;
}
// [smoothing]

// ---- rotation -----------------------------------------------------------------------------------

/// \brief The two sides of a score, which are not scaled alike.
enum class Operand { query, key };

/// \brief A random but fixed sign for every channel: true is minus.
ATTN_HD inline bool rotation_flips(Index channel) {
    // The finalizer of MurmurHash3 (Appleby): every bit of the result depends on every bit of it.
    std::uint32_t x = static_cast<std::uint32_t>(channel) + 1;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return ((x ^ (x >> 16)) & 1u) != 0;
}

/// \brief The largest power of two that is not above E: channels of one Hadamard transform.
ATTN_HD inline Index rotation_width(Index E) {
    Index width = 1;
    while (2 * width <= E) width *= 2;
    return width;
}

/// \brief What the transform's result is multiplied by: powers of two, whose product is 1 / width,
///        as q . k = (H q) . (H k) / width demands.
ATTN_HD constexpr float rotation_factor(Index width, Operand operand) {
    int halvings = operand == Operand::key ? 1 : 0;  // the odd one goes to K
    for (; width > 1; width /= 2) ++halvings;
    float factor = 1;
    for (halvings /= 2; halvings > 0; --halvings) factor /= 2;
    return factor;
}

/// \brief The Walsh-Hadamard transform of `width` channels (a power of two), in place: stages of
///        butterflies (a, b) -> (a + b, a - b), neighbours first.
ATTN_HD inline void hadamard(float* channel, Index width, float factor) {
    for (Index half = 1; half < width; half *= 2)
        for (Index e = 0; e < width; ++e) {
            if ((e & half) != 0) continue;
            const float a = channel[e], b = channel[e + half];
            channel[e] = a + b;
            channel[e + half] = a - b;
        }
    for (Index e = 0; e < width; ++e) channel[e] *= factor;
}

/// \brief Flips the signs of `width` channels; `first` chooses them among all signs.
ATTN_HD inline void flip_signs(float* channel, Index width, Index first) {
    for (Index e = 0; e < width; ++e)
        if (rotation_flips(first + e)) channel[e] = -channel[e];
}

// [rotation]
/// \brief Rotates one query or key, in place: random signs, then a Hadamard transform. A loud
///        channel becomes a little of every channel. Where E is not a power of two, the same again
///        with the last channels, which overlap the first, so that all take part. (New signs: the
///        second transform would else undo much of the first.)
///
/// Scores do not change if queries and keys are both rotated, nor do masks, weights or logsumexp.
ATTN_HD inline void rotate(float* row, Index E, Operand operand) {
    if (E == 0) return;
    const Index width = rotation_width(E);
    const float factor = rotation_factor(width, operand);
    flip_signs(row, width, 0);
    hadamard(row, width, factor);
    if (width == E) return;
    flip_signs(row + E - width, width, E);
    hadamard(row + E - width, width, factor);
}
// [rotation]

// ---- scores -------------------------------------------------------------------------------------

/// \brief scale * log2(e): turns q . k into the exponent of 2 of its weight.
inline float folded_scale(double scale) {
    return static_cast<float>(scale * 1.44269504088896340736);
}

/// \brief The exponent of 2 that an integer product stands for.
/// \param product       q8 . k8
/// \param query_factor  scale_q * folded_scale, once for each query
/// \param scale_k       step of the key
ATTN_HD inline float exponent_of(int product, float query_factor, float scale_k) {
    // |product| <= 127 * 127 * E: exact in float32 up to E = 1040.
    return static_cast<float>(product) * (query_factor * scale_k);
}

/// \brief Variance of a score from rounding: each element of q and k is off by a uniform error of
///        up to half a step, independently (the rotation sees to that).
/// \param scale       of the scores
/// \param scale_q     step of the query
/// \param scale_k     step of the key
/// \param query_size  |q|^2
/// \param key_size    |k - c|^2
/// \param E           head dimension
ATTN_HD inline double score_variance(double scale, double scale_q, double scale_k,
                                     double query_size, double key_size, Index E) {
    const double q = scale_q * scale_q / 12, k = scale_k * scale_k / 12;
    return scale * scale * (q * key_size + k * query_size + static_cast<double>(E) * q * k);
}

}  // namespace attn
