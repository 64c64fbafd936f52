/// \file
/// \brief What a tier is: data. A name, the idea it adds, its limits, and one function that runs.
#pragma once

#include <attn/attention.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace attn {

/// \brief Where a tier computes.
enum class DeviceKind : std::uint8_t {
    cpu,  ///< host memory
    gpu,  ///< device memory; host tensors are copied there and back
};

/// \brief How a row's mask is given to a tier.
enum class MaskKind : std::uint8_t {
    none,      ///< no mask
    boolean,   ///< bytes; nonzero = attend
    additive,  ///< added to the score; -inf removes the key
};

/// \brief A validated problem of rank 4: what a tier runs. All checks have been made.
///
/// Every axis is present (missing ones have size 1), a mask is expanded to (B, Hq, L, S) with
/// stride 0 where it was broadcast, and `diagonal` says the causal rule as one number.
struct Problem {
    Index B = 1;                   ///< batch size: the product of all batch axes of the call, or 1
    Index Hq = 1;                  ///< query heads, a multiple of H
    Index H = 1;                   ///< key heads
    Index L = 0;                   ///< query rows
    Index S = 0;                   ///< key rows
    Index E = 0;                   ///< channels of a query or key row
    Index Ev = 0;                  ///< channels of a value or out row
    DType dtype = DType::float32;  ///< of query, key, value and out
    double scale = 1;              ///< multiplies the scores
    TensorView query;              ///< (B, Hq, L, E)
    TensorView key;                ///< (B, H, S, E)
    TensorView value;              ///< (B, H, S, Ev)
    MutableTensorView out;         ///< (B, Hq, L, Ev)
    MutableTensorView logsumexp;   ///< (B, Hq, L), float32 or float64; absent: not wanted
    TensorView mask;               ///< (B, Hq, L, S); absent: none
    MaskKind mask_kind = MaskKind::none;  ///< how `mask` is to be read
    /// Row i may see key j only if j <= i + diagonal. S without a causal rule, 0 for upper_left,
    /// S - L for lower_right.
    Index diagonal = 0;
    int threads = 0;                ///< 0: the tier's default
    double max_relative_error = 0;  ///< of quantized tiers; 0: no limit
    void* stream = nullptr;         ///< cudaStream_t
    DeviceId device = host;         ///< where all tensors live
    std::span<std::byte> scratch;   ///< at least `Tier::scratch_bytes(problem)`, contents undefined

    /// \brief The key head that a query head reads: groups are contiguous.
    ATTN_HD Index key_head(Index query_head) const { return query_head / (Hq / H); }
    /// \brief Keys that causality leaves to row i: 0 .. visible(i) - 1.
    ATTN_HD Index visible(Index i) const {
        const Index end = i + diagonal + 1;
        return end < 0 ? 0 : (end > S ? S : end);
    }
    /// \brief Scores of one head that causality leaves: the sum of visible(i) over its L rows.
    ///        In double, because L x S may overflow.
    double visible_scores() const {
        const auto clamp = [](Index x, Index low, Index high) {
            return x < low ? low : (x > high ? high : x);
        };
        const Index begin = clamp(-diagonal, 0, L);        // rows before it see nothing
        const Index full = clamp(S - diagonal, begin, L);  // rows from here on see all S keys
        const double ramp = static_cast<double>(full - begin);
        const double first = static_cast<double>(begin + diagonal + 1);
        return ramp * first + ramp * (ramp - 1) / 2 +
               static_cast<double>(L - full) * static_cast<double>(S);
    }
    /// \brief Multiplications and additions of both products: 2 (E + Ev) for each visible score.
    double flops() const {
        return 2 * static_cast<double>(B) * static_cast<double>(Hq) * visible_scores() *
               static_cast<double>(E + Ev);
    }
};

/// \brief A set of element types, one bit each.
struct DTypeSet {
    std::uint8_t bits = 0;  ///< bit n: the type with number n
    constexpr DTypeSet() = default;
    /// \brief The types in braces.
    constexpr DTypeSet(std::initializer_list<DType> list) {
        for (DType dtype : list) bits |= static_cast<std::uint8_t>(1u << static_cast<int>(dtype));
    }
    /// \brief Whether the set holds `dtype`.
    constexpr bool has(DType dtype) const { return bits >> static_cast<int>(dtype) & 1u; }
};

/// \brief The four floating-point types.
inline constexpr DTypeSet all_floats{DType::float64, DType::float32, DType::float16,
                                     DType::bfloat16};

/// \brief What a tier takes. Validation, skipped tests, `attn tiers`, `explain` and the tables of
///        limits in the docs all read these fields.
struct Limits {
    DTypeSet dtypes{};          ///< of query, key, value and out
    bool boolean_mask = true;   ///< takes a boolean mask
    bool additive_mask = true;  ///< takes an additive mask
    bool causal = true;         ///< takes a causal rule
    bool grouped_heads = true;  ///< takes Hq > H
    bool logsumexp = true;      ///< can write the logsumexp
    /// Of a quantized tier: the smallest `Execution::max_relative_error` that heads of normal data
    /// keep; with less, most go to floating point. 0: takes no limit.
    double error_limit = 0;
    Index max_head_dim = 0;      ///< of E and Ev; 0: any
    const char* requires_ = "";  ///< "sm_90a", "AVX2", ...; empty: nothing special
};

/// \brief Rounding steps that a tier adds to exact arithmetic in its compute type, relative to the
///        weights: the judge widens its bound by `weight_error * sum_j p_j |v_j|`.
struct Accuracy {
    double weight_error = 0;        ///< float32 and float64 inputs: fast exp, split operands
    double weight_error_f16 = 0;    ///< float16 inputs: plus weights rounded to 16 bits
    double weight_error_bf16 = 0;   ///< bfloat16 inputs
    bool quantized = false;         ///< scores from 8-bit queries and keys: `Allowance`
    bool quantized_values = false;  ///< 8-bit weights and values as well
    /// Takes float32 numbers below 2^-126 for 0, in tensors and in between: an absolute error of
    /// that size, for which speed does not depend on the data.
    bool flushes_denormals = false;
};

/// \brief Can this tier run on this machine?
struct Availability {
    bool ok = true;        ///< it can
    std::string reason{};  ///< why not
};

/// \brief One rung of the ladder. A tier's own file gives limits and functions; name, place and
///        idea come from its line in lib/tiers.def. Adding one: \ref contributing.
struct Tier {
    const char* name = "";                ///< as in lib/tiers.def
    const char* builds_on = "";           ///< name of an earlier tier, or "nothing"
    const char* idea = "";                ///< the one idea this step adds
    DeviceKind device = DeviceKind::cpu;  ///< where it computes
    bool parallel = false;                ///< uses `Problem::threads`
    Limits limits{};                      ///< what it takes
    Accuracy accuracy{};                  ///< rounding steps it adds
    /// \brief Whether it can run on this machine, and why not.
    Availability (*available)() = nullptr;
    /// \brief Bytes of working memory that `run` uses. May not depend on the contents of tensors.
    std::size_t (*scratch_bytes)(const Problem&) = nullptr;
    /// \brief Computes. Writes every element of `out` and `logsumexp`, and nothing else but
    /// scratch.
    void (*run)(const Problem&) = nullptr;
    /// \brief Where the choice among kernels inside the tier shows (instruction set, split keys,
    ///        ...): a short text, for `explain` and the tests. May be null.
    std::string (*variant)(const Problem&) = nullptr;
};

/// \brief Every tier of the ladder, simplest first, also those that cannot run here.
std::span<const Tier* const> tiers();

/// \brief The tier of that name, or null.
const Tier* find_tier(std::string_view name);

/// \brief `available()` of a tier that always runs.
Availability always_available();

}  // namespace attn
