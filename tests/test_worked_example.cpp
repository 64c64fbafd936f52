/// \file
/// \brief A problem whose every score is the logarithm of a whole number, so that weights and
///        outputs are fractions that a hand can check.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

/// Two queries, three keys, E = 1, Ev = 2. With scale 1 the scores are q * ln(2, 3, 1), so the
/// weights of query 1 are 2 : 3 : 1 of 6 and those of query 2 are 4 : 9 : 1 of 14.
struct Example {
    Tensor query{{1, 1, 2, 1}, DType::float64}, key{{1, 1, 3, 1}, DType::float64},
        value{{1, 1, 3, 2}, DType::float64};
    Options options;

    Example() {
        query.set(0, 1), query.set(1, 2);
        key.set(0, std::log(2.0)), key.set(1, std::log(3.0)), key.set(2, 0);
        const double v[] = {6, 1, 12, 0, -6, 7};  // rows (6, 1), (12, 0), (-6, 7)
        for (Index i = 0; i < 6; ++i) value.set(i, v[i]);
        options.scale = 1;
    }

    void expect(const Tier& tier, std::vector<double> out, std::vector<double> exp_logsumexp) {
        for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
            const Tensor q = query.to(dtype), k = key.to(dtype), v = value.to(dtype);
            if (!takes(tier, q, k, v, options)) continue;
            CAPTURE(std::string(name_of(dtype)));
            // Rounding ln 2 and ln 3 to the dtype moves a score by half an ulp of 1.1, doubled by
            // query 2, and an output by at most that times the spread of the values, 18.
            const double ulp = static_cast<double>(half_ulp(1.1, dtype));
            const double unit = dtype == DType::float64 ? 0x1p-53 : 0x1p-24;
            const Output got = run(tier, q, k, v, options);
            const std::vector<double> o = values(got.out.view), lse = values(got.logsumexp.view);
            REQUIRE(o.size() == out.size());
            const Reference want = reference(q, k, v, options);
            const Allowance allowed(tier, dtype);
            for (std::size_t i = 0; i < out.size(); ++i) {
                CAPTURE(i);
                const double bound = 2 * ulp * 18 + 64 * unit * 12 +
                                     weight_error_of(tier, dtype) * 12 +
                                     static_cast<double>(half_ulp(out[i], dtype)) * 2 +
                                     allowed.rounding(want, static_cast<Index>(i));
                CHECK(std::abs(o[i] - out[i]) <= bound);
            }
            for (std::size_t i = 0; tier.limits.logsumexp && i < lse.size(); ++i)
                CHECK(std::abs(lse[i] - std::log(exp_logsumexp[i])) <=
                      2 * ulp + 64 * unit + weight_error_of(tier, dtype) +
                          allowed.logsumexp_rounding(want, static_cast<Index>(i)));
        }
    }
};

}  // namespace

TEST_CASE("every tier solves the worked example") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "all keys").c_str()) {
            // (2*6 + 3*12 - 6)/6, (2*1 + 7)/6; (4*6 + 9*12 - 6)/14, (4*1 + 7)/14
            Example().expect(*tier, {7, 1.5, 9, 11.0 / 14}, {6, 14});
        }
        SUBCASE(subcase(tier, "causal upper left").c_str()) {
            Example e;  // query 1 sees key 1, query 2 sees keys 1 and 2: 4 : 9 of 13
            e.options.causal = Causal::upper_left;
            e.expect(*tier, {6, 1, 132.0 / 13, 4.0 / 13}, {2, 13});
        }
        SUBCASE(subcase(tier, "causal lower right").c_str()) {
            Example e;  // query 1 sees keys 1 and 2: 2 : 3 of 5, query 2 sees all
            e.options.causal = Causal::lower_right;
            e.expect(*tier, {48.0 / 5, 2.0 / 5, 9, 11.0 / 14}, {5, 14});
        }
        SUBCASE(subcase(tier, "boolean mask").c_str()) {
            Example e;  // key 2 hidden: 2 : 1 of 3 and 4 : 1 of 5
            Tensor mask({1, 3}, DType::boolean);
            mask.set(0, 1), mask.set(2, 1);
            e.options.mask = mask;
            e.expect(*tier, {2, 3, 18.0 / 5, 11.0 / 5}, {3, 5});
        }
        SUBCASE(subcase(tier, "additive mask").c_str()) {
            Example e;  // ln 5 on key 3 and -inf on key 2: 2 : 5 of 7 and 4 : 5 of 9
            Tensor mask({3}, DType::float32);
            mask.set(1, -INFINITY), mask.set(2, std::log(5.0));
            e.options.mask = mask;
            if (!takes(*tier, e.query, e.key, e.value, e.options)) continue;
            // float32 masks: ln 5 is off by half a float32 ulp also for float64 inputs.
            const Output got = run(*tier, e.query.to(DType::float32), e.key.to(DType::float32),
                                   e.value.to(DType::float32), e.options);
            const double want[] = {-18.0 / 7, 37.0 / 7, -6.0 / 9, 39.0 / 9};
            const std::vector<double> o = values(got.out.view);
            for (int i = 0; i < 4; ++i) CHECK(std::abs(o[i] - want[i]) <= 2e-5);
        }
        SUBCASE(subcase(tier, "scale of one half").c_str()) {
            Example e;  // query 2 now weighs as query 1 did
            e.options.scale = 0.5;
            e.query.set(0, 0);  // and query 1 sees equal scores
            e.expect(*tier, {4, 8.0 / 3, 7, 1.5}, {3, 6});
        }
    }
}
