/// \file
/// \brief One element of the mask, for the kernels that read it where it lies.
#pragma once

#include <attn/tier.hpp>

#include <math_constants.h>

#include <cstdint>

namespace attn::gpu {

/// \brief What masks add to score (b, h, i, j): -inf for a key that row i may not see, by the
///        causal rule or by the mask.
template <class Real>
__device__ inline Real mask_at(const Problem& p, Index b, Index h, Index i, Index j) {
    constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
    if (j >= p.visible(i)) return minus_infinity;
    if (p.mask_kind == MaskKind::none) return 0;
    switch (p.mask.dtype) {
        case DType::boolean:
            return as<const std::uint8_t, 4>(p.mask)(b, h, i, j) != 0 ? 0 : minus_infinity;
        case DType::float64:
            return static_cast<Real>(as<const double, 4>(p.mask)(b, h, i, j));
        case DType::float16:
            return static_cast<float>(as<const float16, 4>(p.mask)(b, h, i, j));
        case DType::bfloat16:
            return static_cast<float>(as<const bfloat16, 4>(p.mask)(b, h, i, j));
        default:
            return as<const float, 4>(p.mask)(b, h, i, j);
    }
}

}  // namespace attn::gpu
