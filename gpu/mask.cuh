/// \file
/// \brief One element of the mask, for the kernels that read it where it lies.
#pragma once

#include "mma.cuh"

#include <attn/tier.hpp>

#include <math_constants.h>

#include <cstdint>

namespace attn::gpu {

/// \brief What masks add to the scores of row (b, h, i).
struct MaskRow {
    const char* data;  ///< of key 0
    Index stride;      ///< bytes from key to key
    Index visible;     ///< keys that causality leaves
    DType dtype;
    bool present;

    __device__ MaskRow(const Problem& p, Index b, Index h, Index i)
        : visible(p.visible(i)), dtype(p.mask.dtype), present(p.mask_kind != MaskKind::none) {
        const Index bytes = static_cast<Index>(size_of(dtype));
        stride = p.mask.stride[3] * bytes;
        data = static_cast<const char*>(p.mask.data) +
               (b * p.mask.stride[0] + h * p.mask.stride[1] + i * p.mask.stride[2]) * bytes;
    }
    /// \brief -inf for a key that the row may not see, by the causal rule or by the mask.
    template <class Real>
    __device__ Real at(Index j) const {
        constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
        if (j >= visible) return minus_infinity;
        if (!present) return 0;
        const char* element = data + j * stride;
        switch (dtype) {
            case DType::boolean:
                return *element != 0 ? 0 : minus_infinity;
            case DType::float16:
                return to_float(*reinterpret_cast<const float16*>(element));
            case DType::bfloat16:
                return to_float(*reinterpret_cast<const bfloat16*>(element));
            case DType::float32:
                return *reinterpret_cast<const float*>(element);
            default:
                return static_cast<Real>(*reinterpret_cast<const double*>(element));
        }
    }
};

/// \brief What an element of a mask adds to a score; a boolean one is a byte.
__device__ inline float mask_value(std::uint8_t x) { return x != 0 ? 0.0f : -CUDART_INF_F; }
template <class T>
__device__ inline float mask_value(T x) {
    return to_float(x);
}
/// \brief Returns f(T{}) with the element type of `dtype`: a loop behind the choice reads many elements at
///        once, one that chooses for each of them does not.
template <class F>
__device__ inline auto visit_element(DType dtype, F&& f) {
    if (dtype == DType::float32) return f(float{});
    if (dtype == DType::float16) return f(float16{});
    return f(bfloat16{});
}
/// \brief The same for masks, of which the boolean ones are bytes.
template <class F>
__device__ inline auto visit_mask_element(DType dtype, F&& f) {
    if (dtype == DType::boolean) return f(std::uint8_t{});
    return visit_element(dtype, f);
}

/// \brief What masks add to one score.
template <class Real>
__device__ inline Real mask_at(const Problem& p, Index b, Index h, Index i, Index j) {
    return MaskRow(p, b, h, i).at<Real>(j);
}

}  // namespace attn::gpu
