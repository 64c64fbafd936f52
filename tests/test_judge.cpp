/// \file
/// \brief The judge itself: what it accepts, what it must not, and what it reports.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

/// A reference of one head with L rows of Ev = 1, and A = W = 0, so that only half an ulp is left.
Reference only_rounding(DType dtype, std::vector<long double> out) {
    Reference r;
    r.dtype = dtype;
    r.L = static_cast<Index>(out.size());
    r.Ev = 1;
    r.value_size.assign(out.size(), 0);
    r.score_size.assign(out.size(), 0);
    r.logsumexp.assign(out.size(), 0);
    r.out = std::move(out);
    return r;
}

Tensor one(DType dtype, double value) {
    Tensor t({1, 1, 1, 1}, dtype);
    t.set(0, value);
    return t;
}

bool accepts(DType dtype, double got, long double want) {
    return judge(one(dtype, got).view(), only_rounding(dtype, {want})).ok();
}

}  // namespace

TEST_CASE("the half ulp is that of the binade down to the subnormals") {
    CHECK(half_ulp(1, DType::float32) == 0x1p-24L);
    CHECK(half_ulp(-1.999L, DType::float32) == 0x1p-24L);
    CHECK(half_ulp(2, DType::float32) == 0x1p-23L);
    CHECK(half_ulp(0.999L, DType::float32) == 0x1p-25L);
    CHECK(half_ulp(1, DType::float16) == 0x1p-11L);
    CHECK(half_ulp(1, DType::bfloat16) == 0x1p-8L);
    CHECK(half_ulp(1, DType::float64) == 0x1p-53L);
    CHECK(half_ulp(65504, DType::float16) == 16);
    for (long double tiny : {0.0L, 0x1p-24L, 0x1p-15L, 0x1p-14L})
        CHECK(half_ulp(tiny, DType::float16) == 0x1p-25L);
    CHECK(half_ulp(0x1p-13L, DType::float16) == 0x1p-24L);
    CHECK(half_ulp(0x1p-140L, DType::float32) == 0x1p-150L);
    CHECK(half_ulp(0x1p-130L, DType::bfloat16) == 0x1p-134L);
    CHECK(half_ulp(0x1p-1060L, DType::float64) == 0x1p-1075L);
}

TEST_CASE("the judge accepts the nearest value and not the one after it") {
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
        CAPTURE(std::string(name_of(dtype)));
        for (long double want : {1.0L, 1.2345L, 0.99999L, -3.75e-3L, 1e-5L, 700.1L}) {
            const double got = [&] {  // rounded to dtype
                Tensor t = one(dtype, static_cast<double>(want));
                return t.get(0);
            }();
            const double step = static_cast<double>(2 * half_ulp(got, dtype));
            CHECK(accepts(dtype, got, want));
            CHECK_FALSE(accepts(dtype, got + 2 * step, want));
            CHECK_FALSE(accepts(dtype, got - 2 * step, want));
        }
    }
}

TEST_CASE("the judge takes the ulp from the larger of result and reference") {
    // Just below 1 the reference rounds up to 1: half an ulp of its own binade would be too little
    // for a result that was rounded in the next.
    CHECK(accepts(DType::float16, 1, 1 - 0x1p-12L));
    CHECK(accepts(DType::float16, 1, 1 + 0x1p-11L));
    CHECK_FALSE(accepts(DType::float16, 1, 1 + 0x1.1p-11L));
}

TEST_CASE("the judge refuses NaN and misplaced infinities") {
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
        CHECK_FALSE(accepts(dtype, NaN, 1));
        CHECK_FALSE(accepts(dtype, 1, NaN));
        CHECK_FALSE(accepts(dtype, inf, 1));
        CHECK_FALSE(accepts(dtype, 1, inf));
        CHECK_FALSE(accepts(dtype, inf, -inf));
        CHECK_FALSE(accepts(dtype, NaN, inf));
        CHECK_FALSE(accepts(dtype, inf, NaN));
        CHECK(accepts(dtype, inf, inf));
        CHECK(accepts(dtype, -inf, -inf));
        CHECK(accepts(dtype, NaN, NaN));
    }
    Reference wide = only_rounding(DType::float32, {1});
    for (double& w : wide.value_size) w = inf;  // no bound, however wide, lets NaN through
    CHECK_FALSE(judge(one(DType::float32, NaN).view(), wide).ok());
}

TEST_CASE("the judge finds NaN wherever it stands") {
    Reference want = only_rounding(DType::float32, std::vector<long double>(9, 1));
    for (Index at = 0; at < 9; ++at) {
        Tensor got({1, 1, 9, 1});
        for (Index i = 0; i < 9; ++i) got.set(i, 1);
        got.set(3, 1.5);
        got.set(at, NaN);
        const Verdict verdict = judge(got.view(), want);
        CHECK_FALSE(verdict.ok());
        CHECK(verdict.nans == 1);
        CHECK(verdict.worst_error == inf);
        CHECK(verdict.worst_ratio == inf);
    }
}

TEST_CASE("the bound adds up from ulp and scores and weights") {
    Reference r = only_rounding(DType::float32, {1});
    r.value_size = {3};
    r.score_size = {5};
    const double bound = 0x1p-24 + 0x1p-24 * (16 + 8 * 5) * 3;
    CHECK(judge(one(DType::float32, 1).view(), r).bound == doctest::Approx(bound).epsilon(1e-12));
    CHECK(judge(one(DType::float32, 1).view(), r, 0.25).bound ==
          doctest::Approx(bound + 0.75).epsilon(1e-12));
    CHECK(judge(one(DType::float32, 1 + bound * 0.99).view(), r).ok());
    CHECK_FALSE(judge(one(DType::float32, 1 + bound * 1.05).view(), r).ok());
    const double lse_bound = 0x1p-150 + 0x1p-24 * (16 + 8 * 5);
    CHECK(judge_logsumexp(Tensor({1, 1, 1}).view(), r).bound ==
          doctest::Approx(lse_bound).epsilon(1e-12));
    // The sum of values, of which each went through 64 + 10 additions, and that of the weights.
    r.S = 640;
    CHECK(judge(one(DType::float32, 1).view(), r).bound ==
          doctest::Approx(bound + 0x1p-24 * 2 * 74 * 3).epsilon(1e-12));
    CHECK(judge_logsumexp(Tensor({1, 1, 1}).view(), r).bound ==
          doctest::Approx(lse_bound + 0x1p-24 * 74).epsilon(1e-12));
    r.dtype = DType::float64;
    CHECK(judge(one(DType::float64, 1).view(), r).bound ==
          doctest::Approx(0x1p-53 + 0x1p-53 * (16 + 2 * 640 + 8 * 5) * 3).epsilon(1e-12));
}

TEST_CASE("the longest sum has as many additions as its blocks") {
    CHECK(longest_sum(0, DType::float32) == 0);
    CHECK(longest_sum(63, DType::bfloat16) == 63);
    CHECK(longest_sum(64, DType::float32) == 65);
    CHECK(longest_sum(8193, DType::float16) == 64 + 128);
    CHECK(longest_sum(8193, DType::float64) == 8193);
}

TEST_CASE("the verdict measures the whole as well as the worst element") {
    const Reference want = only_rounding(DType::float32, {1, 2, -2});
    Tensor got({1, 1, 3, 1});
    got.set(0, 1), got.set(1, 2.5), got.set(2, -2);
    const Verdict v = judge(got.view(), want);
    CHECK(v.worst_error == 0.5);
    CHECK(v.index == 1);
    CHECK(v.got == 2.5);
    CHECK(v.want == 2);
    CHECK(v.count == 3);
    CHECK(v.nans == 0);
    CHECK(v.rms == doctest::Approx(std::sqrt(0.25 / 3)));
    CHECK(v.relative_l1 == doctest::Approx(0.1));
    CHECK(v.relative_l2 == doctest::Approx(0.5 / 3));
    CHECK(v.cosine == doctest::Approx((1 + 5 + 4) / (3 * std::sqrt(1 + 6.25 + 4))));
    CHECK_FALSE(v.ok());
}

TEST_CASE("the judge reads views of any strides and refuses what does not fit") {
    const Reference want = only_rounding(DType::float32, {1, 2, 3});
    Tensor got({1, 1, 3, 1});
    got.set(0, 3), got.set(1, 2), got.set(2, 1);
    MutableTensorView reversed = got.view();
    reversed.data = static_cast<float*>(reversed.data) + 2;
    reversed.stride[2] = -1;
    CHECK_FALSE(judge(got.view(), want).ok());
    CHECK(judge(reversed, want).ok());
    CHECK_THROWS_AS(judge(Tensor({1, 1, 2, 1}).view(), want), Error);
    CHECK_THROWS_AS(judge(Tensor({1, 1, 3, 1}, DType::float16).view(), want), Error);
}

TEST_CASE("the judge gives each head its own verdict") {
    Reference want = only_rounding(DType::float32, {1, 1, 1, 1});
    want.Hq = 2, want.L = 2;
    Tensor got({1, 2, 2, 1});
    for (Index i = 0; i < 4; ++i) got.set(i, i == 3 ? 1.5 : 1);
    const std::vector<Verdict> heads = judge_heads(got.view(), want);
    REQUIRE(heads.size() == 2);
    CHECK(heads[0].ok());
    CHECK_FALSE(heads[1].ok());
    CHECK(heads[1].index == 3);
}
