/// \file
/// \brief float16 and bfloat16, exhaustively: every value, and every neighbourhood of a midpoint.
#include <attn/tensor.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>

using namespace attn;

namespace {

/// A 16-bit format, by its definition: sign, exponent, fraction.
struct Format {
    int fraction_bits, bias;
};

double defined_value(std::uint16_t bits, Format f) {
    const int exponent_bits = 15 - f.fraction_bits;
    const int fraction = bits & ((1 << f.fraction_bits) - 1);
    const int exponent = (bits & 0x7fff) >> f.fraction_bits;
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction ? std::numeric_limits<double>::quiet_NaN()
                        : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - f.bias - f.fraction_bits);
    return sign *
           std::ldexp(fraction + (1 << f.fraction_bits), exponent - f.bias - f.fraction_bits);
}

template <class Half>
void check_widening(Format f) {
    int wrong = 0;
    for (int b = 0; b < 65536; ++b) {
        Half half;
        half.bits = static_cast<std::uint16_t>(b);
        const double want = defined_value(half.bits, f), got = static_cast<float>(half);
        if (std::isnan(want) ? !std::isnan(got)
                             : !(got == want && std::signbit(got) == std::signbit(want)))
            ++wrong;
    }
    CHECK(wrong == 0);
}

/// For every two neighbours a < b of the format: a, b, their midpoint and the floats on both sides
/// of each must round to the nearer of the two, and to the even one from the midpoint.
template <class Half>
void check_rounding(Format f, std::uint16_t infinity) {
    int wrong = 0;
    const auto expect = [&](float x, std::uint16_t want) {
        if (Half(x).bits != want) ++wrong;
        if (Half(-x).bits != (want | 0x8000)) ++wrong;
    };
    for (std::uint16_t a = 0; a < infinity; ++a) {
        const auto b = static_cast<std::uint16_t>(a + 1);
        const double low = defined_value(a, f);
        // Beyond the largest finite value the format goes on as if it had one more binade.
        const double high =
            b == infinity ? low + (low - defined_value(a - 1, f)) : defined_value(b, f);
        const float middle = static_cast<float>((low + high) / 2);
        CAPTURE(a);
        if (static_cast<double>(middle) != (low + high) / 2) {
            ++wrong;  // a float holds one bit more than either format, so this is exact
            continue;
        }
        expect(static_cast<float>(low), a);
        expect(std::nextafter(static_cast<float>(low), INFINITY), a);
        expect(std::nextafter(middle, 0.0f), a);
        expect(middle, a % 2 == 0 ? a : b);
        expect(std::nextafter(middle, INFINITY), b);
        if (std::isfinite(static_cast<float>(high)))
            expect(std::nextafter(static_cast<float>(high), 0.0f), b);
    }
    CHECK(wrong == 0);
    CHECK(Half(std::numeric_limits<float>::infinity()).bits == infinity);
    CHECK(Half(-std::numeric_limits<float>::infinity()).bits == (infinity | 0x8000));
    CHECK(Half(std::numeric_limits<float>::max()).bits == infinity);
    CHECK(Half(std::numeric_limits<float>::denorm_min()).bits == 0);
    CHECK(Half(-0.0f).bits == 0x8000);
}

template <class Half>
void check_nan() {
    int wrong = 0;
    for (std::uint32_t sign : {0u, 0x80000000u})
        for (std::uint32_t fraction = 1; fraction < 0x800000u; fraction += 997)  // also small ones
            if (!std::isnan(
                    static_cast<float>(Half(std::bit_cast<float>(sign | 0x7f800000u | fraction)))))
                ++wrong;
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("the 16-bit formats widen every value exactly") {
    check_widening<float16>({10, 15});
    check_widening<bfloat16>({7, 127});
}

TEST_CASE("the 16-bit formats round to nearest with ties to even") {
    check_rounding<float16>({10, 15}, 0x7c00);
    check_rounding<bfloat16>({7, 127}, 0x7f80);
}

TEST_CASE("the 16-bit formats keep NaN") {
    check_nan<float16>();
    check_nan<bfloat16>();
}

TEST_CASE("the 16-bit formats convert at compile time") {
    static_assert(float16(1.0f).bits == 0x3c00);
    static_assert(static_cast<float>(bfloat16(-2.0f)) == -2.0f);
}

TEST_CASE("the tensor reads back what was set and rounds once to its dtype") {
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
        CAPTURE(std::string(name_of(dtype)));
        Tensor t({2, 3}, dtype);
        t.set(4, -1.5);
        CHECK(t.get(4) == -1.5);
        CHECK(t.get(5) == 0);
        CHECK(t.bytes() == 6 * size_of(dtype));
        // Just above the midpoint of 1 and its successor: through float it would look like a tie.
        const double ulp = dtype == DType::float16    ? 0x1p-10
                           : dtype == DType::bfloat16 ? 0x1p-7
                                                      : 0;
        if (ulp == 0) continue;
        t.set(0, 1 + ulp / 2 + 0x1p-40);
        CHECK(t.get(0) == 1 + ulp);
        t.set(0, 1 + ulp / 2 + ulp - 0x1p-40);
        CHECK(t.get(0) == 1 + ulp);
        t.set(0, 1 + ulp / 2);
        CHECK(t.get(0) == 1);
    }
}
