/// \file
/// \brief The one API: scaled dot-product attention, its options, and its errors.
#pragma once

#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

/// \brief Which keys a query row may see by position.
enum class Causal {
    none,         ///< all S keys
    upper_left,   ///< key j if j <= i: the diagonal starts at (0, 0). PyTorch's `is_causal`.
    lower_right,  ///< key j if j <= i + S - L: the diagonal ends at (L-1, S-1). For a key cache.
};

/// \brief The mathematical options. Every field has PyTorch's meaning and default.
struct Options {
    /// Boolean (true = attend) or additive (float32 or query's dtype), broadcast to the shape of
    /// the scores, (..., Hq, L, S); axes are aligned at the right. A 3-D mask with 4-D tensors is
    /// (Hq, L, S). An additive -inf removes the key just as `false` does.
    TensorView mask{};
    /// Applied together with `mask` when both are given.
    Causal causal = Causal::none;
    /// Multiplies the scores before the mask. Absent: 1/sqrt(E). Finite; may be 0 or negative.
    std::optional<double> scale{};
};

/// \brief How and where to compute; nothing here changes the mathematics.
struct Execution {
    /// A name from `tiers()`, or "auto".
    std::string_view tier = "auto";
    /// A `cudaStream_t` for device tensors; ignored by CPU tiers. Null: the default stream.
    void* stream = nullptr;
    /// Threads a CPU tier may use; 0: as many as OpenMP would (OMP_NUM_THREADS).
    int threads = 0;
    /// Largest relative L2 error of a head, |out - exact| / |exact|, that tiers which round to 8
    /// bits may make: heads that would exceed it are computed in floating point. Measured on a
    /// sample of rows, so no guarantee for rows unlike all others. 0: no limit; then `auto` takes
    /// none of them.
    double max_relative_error = 0;
    /// If present, (..., Hq, L), float32 (float64 for float64 inputs): natural logarithm of the sum
    /// of exp(score), of scores after scale and mask. -inf for a row that may see no key.
    MutableTensorView logsumexp{};
    /// Working memory on the device of the tier, at least `scratch_bytes(...)` long and 64-byte
    /// aligned (256 on a GPU). Empty: the library finds its own.
    std::span<std::byte> scratch{};
};

/// \brief Scaled dot-product attention: each query row becomes a weighted mean of value rows.
///
/// \f[ O_i = \sum_j P_{ij} V_j, \quad P_{ij} = \exp(s_{ij} - \mathrm{lse}_i), \quad
///     s_{ij} = \sigma\, Q_i \cdot K_j + M_{ij}, \quad
///     \mathrm{lse}_i = \log \sum_j e^{s_{ij}} \f]
/// Sums run over the keys that row \f$ i \f$ may see.
///
/// | tensor  | shape             | meaning                                                  |
/// |---------|-------------------|----------------------------------------------------------|
/// | `query` | (..., Hq, L, E)   | read                                                     |
/// | `key`   | (..., H,  S, E)   | read; Hq is a multiple of H, head h reads h / (Hq / H)   |
/// | `value` | (..., H,  S, Ev)  | read                                                     |
/// | `out`   | (..., Hq, L, Ev)  | every element is written; may not overlap another tensor |
///
/// Ranks 2 (no heads), 3 (heads) and above (batch axes, equal in all four), the same rank and dtype
/// (float64, float32, float16, bfloat16) in all four. Any strides. Sums and the softmax are done in
/// float32, in float64 for float64 tensors.
///
/// - A masked key contributes nothing, whatever its key and value rows hold (NaN, infinity).
/// - A row that may see no key gets `out` = 0 and `logsumexp` = -inf; so does every row when S = 0,
///   and a row whose visible scores are all -inf. That is not an error.
/// - A NaN score, or one of +inf, in a visible key makes that row NaN, and no other.
/// - L, B or Hq = 0: `out` is empty. E = 0: every score is 0, so the mean of the visible values.
/// - The same binary on the same instruction set gives the same bits, whatever the thread count or
///   the batch neighbours.
/// \throws Error naming the values at fault; then nothing has been written.
/// \par Source
/// Vaswani et al. 2017, eq. 1; the logsumexp form: Dao 2023 (FlashAttention-2), section 3.1.
void scaled_dot_product_attention(const TensorView& query, const TensorView& key,
                                  const TensorView& value, const MutableTensorView& out,
                                  const Options& options = {}, const Execution& execution = {});

/// \brief The same, into a new contiguous tensor of shape (..., Hq, L, Ev). Host tensors.
Tensor scaled_dot_product_attention(const TensorView& query, const TensorView& key,
                                    const TensorView& value, const Options& options = {},
                                    const Execution& execution = {});

/// \brief Whether a call would be accepted.
struct Check {
    std::optional<ErrorCode> error{};  ///< empty: accepted
    std::string message{};             ///< what `Error::what()` would say
    /// \brief True if the call would be accepted.
    explicit operator bool() const noexcept { return !error; }
};

/// \brief Asks first: all that `scaled_dot_product_attention` would check, without running it.
Check check(const TensorView& query, const TensorView& key, const TensorView& value,
            const MutableTensorView& out, const Options& options = {},
            const Execution& execution = {}) noexcept;

/// \brief Working memory in bytes that the call would use besides its tensors.
/// \throws Error as the call itself would.
std::size_t scratch_bytes(const TensorView& query, const TensorView& key, const TensorView& value,
                          const MutableTensorView& out, const Options& options = {},
                          const Execution& execution = {});

/// \brief One line of `explain`: a tier and what `auto` thinks of it for this problem.
struct Candidate {
    std::string tier;               ///< its name
    bool able = false;              ///< it could run this problem here
    std::string reason;             ///< why it was taken, was not, or cannot run
    double estimated_seconds = 0;   ///< from recorded speeds; 0 when not able
    std::size_t scratch_bytes = 0;  ///< 0 when not able
};

/// \brief Which tier a call takes, and why each other was not taken.
struct Explanation {
    std::string tier;                   ///< the chosen one
    std::vector<Candidate> candidates;  ///< every tier, in the ladder's order
};

/// \brief Explains the choice without running it. Taught in \ref choosing.
/// \throws Error as the call itself would.
Explanation explain(const TensorView& query, const TensorView& key, const TensorView& value,
                    const MutableTensorView& out, const Options& options = {},
                    const Execution& execution = {});

}  // namespace attn
