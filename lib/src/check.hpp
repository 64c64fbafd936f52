/// \file
/// \brief From what a caller passes to what a tier runs: all validation, once, and the
///        normalisation to rank 4.
#pragma once

#include <attn/tier.hpp>

namespace attn {

/// \brief A validated call: rank-4 problems that differ only in where their tensors begin.
struct Call {
    Problem problem;     ///< the first one
    int outer_rank = 0;  ///< batch axes that could not be folded into `Problem::B`
    Index outer_shape[max_rank]{};
    /// Strides of the outer axes, in elements, of query, key, value, out, logsumexp, mask.
    Index outer_stride[6][max_rank]{};

    /// \brief Rows of `out`, or of `logsumexp`: 0 means that there is nothing to do.
    bool empty() const;
    /// \brief Calls `f(problem)` for every rank-4 problem.
    template <class F>
    void for_each(F&& f) const {
        Index at[max_rank]{};
        for (;;) {
            Problem here = problem;
            for (int axis = 0; axis < outer_rank; ++axis) shift(here, axis, at[axis]);
            f(here);
            int axis = outer_rank - 1;
            while (axis >= 0 && ++at[axis] == outer_shape[axis]) at[axis--] = 0;
            if (axis < 0) return;
        }
    }

  private:
    void shift(Problem& problem, int axis, Index steps) const;
};

/// \brief Checks everything that does not depend on the tier.
/// \throws Error
Call make_call(const TensorView& query, const TensorView& key, const TensorView& value,
               const MutableTensorView& out, const Options& options, const Execution& execution);

/// \brief Why `tier` cannot take this problem on this machine; accepted when it can.
Check check_tier(const Tier& tier, const Problem& problem);

}  // namespace attn
