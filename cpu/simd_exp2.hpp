/// \file
/// \brief 2^x in every lane, for x <= 0: the exponential of the tier `simd`.
///
/// x = n + r with n an integer: 2^n is put together from its exponent bits, 2^r is a polynomial.
/// Weights are exp(score - max) = exp2((score - max) * log2(e)), so x is never much above 0.
///
/// - 2^0 is exactly 1: a tile that does not raise a row's maximum leaves its output untouched.
/// - Below 2^-126 the result is exactly 0: a denormal weight would cost 100 times a normal one.
/// - exp2(-inf) = 0 and exp2(NaN) = NaN.
///
/// The polynomials are least-maximum fits of 2^r with the constant term fixed to 1; their own
/// relative error is below 1e-7, and `test_simd` measures the whole function.
#pragma once

#include "simd_lanes.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief 1 + r * (c1 + r * (c2 + ...)), by Horner's rule.
[[gnu::always_inline]] inline Lanes polynomial(Lanes r, float c1, float c2, float c3, float c4,
                                               float c5) {
    Lanes p = fma(Lanes(c5), r, Lanes(c4));
    p = fma(p, r, Lanes(c3));
    p = fma(p, r, Lanes(c2));
    p = fma(p, r, Lanes(c1));
    return fma(p, r, Lanes(1.0f));
}

//! [exp2]
[[gnu::always_inline]] inline Lanes exp2(Lanes x) {
#if defined(__AVX512DQ__)
    // r = x - floor(x) in [0, 1), and a multiplication by 2^floor(x), are one instruction each;
    // the second flushes denormal results under the flag that `FlushDenormals` sets.
    const Lanes r(_mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    const Lanes p =
        polynomial(r, 0.69315130f, 0.24016444f, 0.055799913f, 0.0090170307f, 0.0018671300f);
    return Lanes(_mm512_scalef_ps(p, x));
#else
    // Below -127 nothing is left. The constant stands first: the x86 maximum returns its second
    // operand when one is NaN, and NaN must survive.
    x = lanes_of(bits_of(larger(Lanes(-127.0f), x)));
    // Adding 1.5 * 2^23 rounds x to an integer n, held in the low bits of the sum.
    const Lanes shifted = x + Lanes(0x1.8p23f);
    const Lanes r = x - (shifted - Lanes(0x1.8p23f));  // [-0.5, 0.5]
    const Lanes p =
        polynomial(r, 0.69314700f, 0.24022242f, 0.055507336f, 0.0096715130f, 0.0013264727f);
    const Lanes power = lanes_of((bits_of(shifted) + 127) << 23);  // 2^n; 0 for n = -127
    return p * power;                                              // a product, not a sum of exponents: NaN stays NaN
#endif
}
//! [exp2]

}  // namespace
}  // namespace attn::ATTN_ISA
