/// \file
/// \brief The algebra of the online softmax: a row's running maximum and sum, how they grow by a
///        tile of scores, and how two halves merge. Host and device; used by every tier that
///        never holds a whole row of scores.
///
/// \par Source
/// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3;
/// Dao et al. 2022 (FlashAttention), section 3.1.
#pragma once

#include <attn/dtype.hpp>

#include <cmath>
#include <limits>

namespace attn {

/// \brief The larger of two scores; NaN if either is NaN, so that a NaN score is never lost.
template <class Real>
ATTN_HD inline Real larger(Real a, Real b) {
    return (b > a || b != b) ? b : a;
}

/// \brief Running maximum and running sum of weights, exp(score - max), of one query row. Taught in
///        \ref tier_online.
template <class Real>
struct RowState {
    Real max = -std::numeric_limits<Real>::infinity();  ///< largest score so far
    Real sum = 0;                                       ///< of weights under that maximum

    /// \brief Raises the maximum to cover scores up to `largest`.
    /// \return `shrink` = exp(old max - new max), by which all that was summed under the old
    ///         maximum must be multiplied (`sum` has been). 1 when nothing grew; 0 on the first
    ///         visible score.
    // [grow]
    ATTN_HD Real grow(Real largest) {
        const Real grown = larger(max, largest);
        if (grown == max) return 1;  // also -inf == -inf, where the subtraction would give NaN
        const Real shrink = std::exp(max - grown);
        max = grown;
        sum *= shrink;
        return shrink;
    }
    // [grow]

    /// \brief Weight of a score under the current maximum: exp(score - max), 0 for a score of -inf.
    ///        `grow` must have seen the score.
    ATTN_HD Real weight(Real score) const {
        if (score == -std::numeric_limits<Real>::infinity()) return 0;  // max may be -inf as well
        return std::exp(score - max);
    }

    /// \brief 1 / sum; 0 for a row that saw no key, so that its output is 0.
    ATTN_HD Real normalizer() const { return sum == 0 ? Real(0) : 1 / sum; }

    /// \brief Natural log of the sum of exp(score): max + log(sum); -inf for a row that saw no key.
    ATTN_HD Real logsumexp() const {
        if (sum == 0) return -std::numeric_limits<Real>::infinity();
        return max + std::log(sum);
    }
};

/// \brief Factors for the unnormalised outputs of two halves that have seen different keys.
template <class Real>
struct Merge {
    RowState<Real> state;  ///< of both halves together
    Real factor_a = 1;     ///< multiplies the first half's accumulators
    Real factor_b = 1;     ///< multiplies the second half's accumulators
};

/// \brief Merges two halves: commutative, and associative up to rounding. An empty half is neutral.
template <class Real>
ATTN_HD inline Merge<Real> merge(const RowState<Real>& a, const RowState<Real>& b) {
    // [merge]
    Merge<Real> m;
    RowState<Real> left = a, right = b;
    m.factor_a = left.grow(b.max);
    m.factor_b = right.grow(a.max);
    m.state.max = left.max;
    m.state.sum = left.sum + right.sum;
    return m;
    // [merge]
}

}  // namespace attn
