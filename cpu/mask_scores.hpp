/// \file
/// \brief Masks a tile of one row of scores: shared by the CPU tiers that hold scores in float or
///        double.
#pragma once

#include <attn/tier.hpp>

#include <cstdint>
#include <limits>

namespace attn {
namespace {  // every instruction set includes this: the linker must not share one copy

/// \brief Adds the mask to the scores of row (b, h, i) against keys first .. first + count - 1, and
///        gives every key that the row may not see the score -inf, whatever it was before (a NaN
///        from a masked key must not survive).
/// \param score  this row's scores after scaling, (count)
template <class Real>
[[gnu::always_inline]] inline void mask_scores(const Problem& p, Index b, Index h, Index i,
                                               Index first, Index count, Real* score) {
    //! [select]
    constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
    const Index visible = p.visible(i) - first;  // may be negative, or beyond the tile
    for (Index j = visible < 0 ? 0 : visible; j < count; ++j) score[j] = minus_infinity;
    if (p.mask_kind == MaskKind::none) return;

    const Index stride = p.mask.stride[3];
    const Index begin =
        b * p.mask.stride[0] + h * p.mask.stride[1] + i * p.mask.stride[2] + first * stride;
    const Index end = visible < count ? visible : count;
    if (p.mask_kind == MaskKind::boolean) {
        const auto* attend = static_cast<const std::uint8_t*>(p.mask.data) + begin;
        for (Index j = 0; j < end; ++j)
            if (!attend[j * stride]) score[j] = minus_infinity;
        return;
    }
    //! [select]
    visit_float(p.mask.dtype, [&]<class M>(M) {
        const M* add = static_cast<const M*>(p.mask.data) + begin;
        for (Index j = 0; j < end; ++j) {
            const Real bias = static_cast<Real>(static_cast<Compute<M>>(add[j * stride]));
            score[j] = bias == minus_infinity ? minus_infinity : score[j] + bias;
        }
    });
}

}  // namespace
}  // namespace attn
