/// \file
/// \brief How a result is judged: a reference, a bound derived for each element, and a verdict.
///        The one comparison of tests, benches and the command line. The derivation: \ref trusting.
///
/// \par The bound
/// A correct tier whose unit roundoff is \f$ u \f$ (2^-24 when it computes in float32, 2^-53 in
/// float64) may differ from the reference \f$ r \f$ in one element of `out` by
/// \f[ |o - r| \le \tfrac12 \mathrm{ulp}(o, r) + u\,(16 + 2C + 8A)\,W + \epsilon_w W \f]
/// - Half a unit in the last place of the output type, in the binade of max(|o|, |r|): the final
///   rounding. (The binade of the rounded reference alone would fail correct code just above a
///   power of two.)
/// - \f$ W = \sum_j p_j |v_j| \f$ is what a relative error of every weight is worth. Exponential,
///   products with values, rescaling and the division make a few roundings each: 16.
/// - \f$ C \f$ is the number of additions that one weight goes through, at most one rounding each,
///   in the sum of the weights and again in the sum of weighted values: `longest_sum`. Mostly these
///   errors cancel; where many weights are equal they do not.
/// - \f$ A = \max_j (|\sigma| \sum_e |q_e k_{je}| + |m_j|) \f$ over the visible keys bounds the
///   terms that a score is summed from. Its rounding errors are at most a few times
///   \f$ u A \f$; they sit in an exponent, so they become relative errors of the weight: 4A for
///   the weight and 4A for its share in the sum. Keys too far below the maximum to weigh anything
///   do not count.
/// - \f$ \epsilon_w \f$ is the stated error of a tier's weights (`Tier::accuracy`): a fast
///   exponential, weights rounded to 16 bits.
///
/// The logsumexp moves by a score's error once, and by the relative error of the sum:
/// \f[ |\Delta| \le \tfrac12 \mathrm{ulp} + u\,(16 + C + 8A) + \epsilon_w \f]
/// In an experiment with half these constants, correct code stayed below 0.71 of the bound, and
/// each of eight injected bugs exceeded it at least five times, on four kinds of input.
///
/// \par Quantized tiers
/// Each element of the quantized tensors is off by up to half of its step, which follows from the
/// inputs (quantize.hpp). A quantized tier is allowed, on top, eight standard deviations of what
/// that makes of a score and so of the output; if its weights and values are quantized too, half a
/// step of each. Nothing of it is a free number. How accurate such a tier is, is another question:
/// see `judge_heads`.
///
/// NaN where the reference is not NaN fails, and so does a number where it is NaN. Infinities of
/// the same sign are equal.
#pragma once

#include <attn/attention.hpp>
#include <attn/tier.hpp>

#include <future>
#include <string>
#include <vector>

namespace attn {

/// \brief What 8 bits may change in the results of one problem; all empty for float64.
struct QuantizedRounding {
    std::vector<double> score;      ///< (N, Hq, L, Ev): in out, by quantized scores
    std::vector<double> value;      ///< (N, Hq, L, Ev): in out, by quantized weights and values
    std::vector<double> logsumexp;  ///< (N, Hq, L): by both
};

/// \brief What the results of one problem are compared with, row-major. N is the product of the
///        batch axes.
///
/// From the `literal` tier in float64, on exactly widened inputs. For float64 inputs, whose tiers
/// are as exact as `literal`, from an independent function in `long double`; so `literal` is
/// judged too.
struct Reference {
    DType dtype = DType::float32;        ///< of query, key, value and out
    Index N = 1;                         ///< batch size: the product of all batch axes
    Index Hq = 1;                        ///< query heads
    Index L = 0;                         ///< query rows
    Index S = 0;                         ///< key rows
    Index Ev = 0;                        ///< channels of an out row
    std::vector<long double> out;        ///< (N, Hq, L, Ev)
    std::vector<long double> logsumexp;  ///< (N, Hq, L)
    std::vector<double> value_size;      ///< (N, Hq, L, Ev): W
    std::vector<double> score_size;      ///< (N, Hq, L): A
    /// What 8 bits may change. Worked out when first asked for: exact tiers never ask.
    std::shared_future<QuantizedRounding> rounding;
};

/// \brief What a tier may be off besides rounding in its compute type.
struct Allowance {
    double weight_error = 0;        ///< \f$ \epsilon_w \f$
    bool quantized_scores = false;  ///< by the rounding of queries and keys
    bool quantized_values = false;  ///< by the rounding of weights and values
    /// \brief Of an exact tier.
    Allowance(double weight_error_ = 0) : weight_error(weight_error_) {}
    /// \brief What the tier states for inputs of `dtype`.
    Allowance(const Tier& tier, DType dtype);
    /// \brief What rounding to 8 bits may change in element i of `out`.
    double rounding(const Reference& reference, Index i) const;
    /// \brief The same for element i of logsumexp.
    double logsumexp_rounding(const Reference& reference, Index i) const;
};

/// \brief Computes the reference of host tensors. Costs about three runs of `literal`.
/// \throws Error as `scaled_dot_product_attention` would.
Reference reference(const TensorView& query, const TensorView& key, const TensorView& value,
                    const Options& options = {});

/// \brief How far a result is from its reference.
struct Verdict {
    double worst_error = 0;  ///< largest |got - reference|; infinite where NaN or infinity differ
    double bound = 0;        ///< the bound where `worst_ratio` was found
    double worst_ratio = 0;  ///< largest error / bound; accepted up to 1
    Index index = -1;        ///< row-major index of the element with the worst ratio; -1 if empty
    double got = 0;          ///< that element
    double want = 0;         ///< its reference
    double rms = 0;          ///< root of the mean squared error
    double cosine = 1;       ///< of got and reference as vectors
    double relative_l1 = 0;  ///< sum |got - reference| / sum |reference|
    double relative_l2 = 0;  ///< |got - reference| / |reference|
    Index count = 0;         ///< elements compared
    Index nans = 0;          ///< elements that are NaN where the reference is not

    /// \brief Accepted; false for NaN.
    bool ok() const { return worst_ratio <= 1; }
};

/// \brief Compares `out`, of any strides, with its reference.
/// \param out        what a tier wrote
/// \param reference  of the same problem
/// \param allowance  the tier's \f$ \epsilon_w \f$, or all that it states: `{tier, dtype}`
/// \throws Error `bad_shape` or `bad_dtype` when `out` does not fit the reference.
Verdict judge(const TensorView& out, const Reference& reference, const Allowance& allowance = {});

/// \brief Compares logsumexp, float32 or float64, of any strides.
Verdict judge_logsumexp(const TensorView& logsumexp, const Reference& reference,
                        const Allowance& allowance = {});

/// \brief One verdict for each (batch, query head), row-major: quantized tiers are judged by their
///        worst head.
std::vector<Verdict> judge_heads(const TensorView& out, const Reference& reference,
                                 const Allowance& allowance = {});

/// \brief The stated weight error of a tier for inputs of `dtype`.
double weight_error_of(const Tier& tier, DType dtype);

/// \brief One line: "worst 1.2e-07, 0.31 of its bound 3.9e-07, at 17: got 0.25, want ...".
std::string text_of(const Verdict& verdict);

/// \brief Additions that one of S terms goes through: S in float64; 64 and S / 64 in float32,
///        where a tier should add tile by tile (sums of 64 terms, then those sums).
double longest_sum(Index S, DType dtype);

/// \brief Half a unit in the last place of `dtype` in the binade of `value`; of the smallest
///        subnormal below that.
long double half_ulp(long double value, DType dtype);

/// \brief A contiguous copy of a host view of any strides: float64, exactly widened. A boolean
///        stays boolean.
Tensor widened(const TensorView& view);

}  // namespace attn
