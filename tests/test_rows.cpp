/// \file
/// \brief What holds for every row by itself: weights are positive and sum to 1, the output lies
///        within the hull of the values, and more score means more weight.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

const Sizes shapes[] = {
    // B  Hq H  L   S    E   Ev
    {1, 1, 1, 1, 1, 8, 8},     {2, 2, 2, 5, 7, 8, 5},      {1, 4, 2, 17, 33, 16, 9},
    {1, 1, 1, 3, 63, 7, 4},    {1, 1, 1, 3, 64, 64, 64},   {1, 1, 1, 3, 65, 40, 3},
    {1, 2, 1, 2, 129, 72, 16}, {1, 1, 1, 65, 257, 32, 33},
};

const DType dtypes[] = {DType::float64, DType::float32, DType::float16, DType::bfloat16};

std::string text(const Sizes& s) {
    return "L=" + std::to_string(s.L) + " S=" + std::to_string(s.S) + " E=" + std::to_string(s.E) +
           " Ev=" + std::to_string(s.Ev);
}

double roundoff(DType dtype) { return dtype == DType::float64 ? 0x1p-53 : 0x1p-24; }

}  // namespace

TEST_CASE("every tier returns a constant for constant values") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "constant values").c_str()) {
            for (const Sizes& sizes : shapes)
                for (DType dtype : dtypes)
                    for (Causal causal : {Causal::none, Causal::upper_left, Causal::lower_right})
                        for (double constant : {1.0, -3.5}) {
                            Qkv x = generate("gauss", sizes, 5, dtype);
                            for (Index i = 0; i < x.value.size(); ++i) x.value.set(i, constant);
                            Options options;
                            options.causal = causal;
                            if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                            const Output got = run(*tier, x.query, x.key, x.value, options);
                            // Errors of the scores cancel: numerator and sum share their weights.
                            const double size = std::abs(constant);
                            const double bound =
                                static_cast<double>(half_ulp(constant, dtype)) +
                                (16 * roundoff(dtype) + weight_error_of(*tier, dtype)) * size;
                            const std::vector<double> out = values(got.out.view);
                            Index wrong = 0;
                            for (Index i = 0; i < static_cast<Index>(out.size()); ++i) {
                                const Index row = i / sizes.Ev % sizes.L;
                                const bool blind =
                                    causal == Causal::lower_right && row + sizes.S - sizes.L < 0;
                                if (blind ? out[i] != 0 : !(std::abs(out[i] - constant) <= bound))
                                    ++wrong;
                            }
                            CAPTURE(text(sizes));
                            CAPTURE(std::string(attn::name_of(dtype)));
                            CHECK(wrong == 0);
                        }
        }
    }
}

TEST_CASE("every tier weighs keys by the exponential of score minus logsumexp") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "identity values").c_str()) {
            for (Sizes sizes : shapes) {
                if (sizes.S > 129) continue;
                sizes.Ev = sizes.S;  // V = identity, so that out is the matrix of weights
                Qkv x = generate("gauss", sizes, 6, DType::float32);
                for (Index i = 0; i < x.value.size(); ++i)
                    x.value.set(i, i % sizes.Ev == i / sizes.Ev % sizes.S);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                const Output got = run(*tier, x.query, x.key, x.value);
                CAPTURE(text(sizes));
                expect_right(*tier, got, reference(x.query, x.key, x.value));
                const std::vector<double> weights = values(got.out.view);
                const double allowed =
                    0x1p-24 * (16 + static_cast<double>(sizes.S)) + tier->accuracy.weight_error;
                for (std::size_t row = 0; row < weights.size(); row += sizes.S) {
                    double sum = 0;
                    for (Index j = 0; j < sizes.S; ++j) {
                        sum += weights[row + j];
                        CHECK(weights[row + j] >= 0);
                    }
                    CHECK(std::abs(sum - 1) <= allowed);
                }
            }
        }
    }
}

TEST_CASE("every tier stays within the hull of the visible values") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "hull").c_str()) {
            for (const Sizes& s : shapes)
                for (DType dtype : dtypes) {
                    const Qkv x = generate("gauss", s, 7, dtype);
                    Tensor mask({s.L, s.S}, DType::boolean);
                    for (Index i = 0; i < mask.size(); ++i) mask.set(i, i % 3 != 1);
                    Options options;
                    options.mask = mask;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    const std::vector<double> out =
                        values(run(*tier, x.query, x.key, x.value, options).out.view);
                    Index wrong = 0;
                    for (Index i = 0; i < static_cast<Index>(out.size()); ++i) {
                        const Index column = i % s.Ev, row = i / s.Ev % s.L;
                        const Index head = i / s.Ev / s.L;
                        const Index key_head = head / s.Hq * s.H + head % s.Hq / (s.Hq / s.H);
                        double low = INFINITY, high = -INFINITY;
                        for (Index j = 0; j < s.S; ++j)
                            if (mask.get(row * s.S + j)) {
                                const double v = x.value.get((key_head * s.S + j) * s.Ev + column);
                                low = std::min(low, v), high = std::max(high, v);
                            }
                        if (low > high) low = high = 0;
                        const double size = std::max(std::abs(low), std::abs(high));
                        const double slack =
                            2 * static_cast<double>(half_ulp(size, dtype)) +
                            (16 * roundoff(dtype) + weight_error_of(*tier, dtype)) * size +
                            half_value_step(*tier, x.value);
                        if (!(out[i] >= low - slack && out[i] <= high + slack)) ++wrong;
                    }
                    CAPTURE(text(s));
                    CAPTURE(std::string(attn::name_of(dtype)));
                    CHECK(wrong == 0);
                }
        }
    }
}

TEST_CASE("every tier moves towards a value whose score is raised") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "monotone").c_str()) {
            const Sizes sizes{1, 1, 1, 4, 70, 16, 1};
            for (Index raised : {0, 1, 31, 63, 64, 69}) {
                Qkv x = generate("gauss", sizes, 8, DType::float32);
                for (Index j = 0; j < sizes.S; ++j) x.value.set(j, j == raised);
                Options options;
                Tensor mask({sizes.S}, DType::float32);
                options.mask = mask;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                std::vector<double> before(static_cast<std::size_t>(sizes.L), -1);
                for (double bias : {-2.0, -1.0, 0.0, 1.0, 2.0, 8.0}) {
                    mask.set(raised, bias);
                    const auto out = values(run(*tier, x.query, x.key, x.value, options).out.view);
                    for (std::size_t i = 0; i < out.size(); ++i) {
                        // A weight below half of its step is 0, however much it is raised.
                        if (tier->accuracy.quantized_values)
                            CHECK(out[i] >= before[i]);
                        else
                            CHECK(out[i] > before[i]);
                        CHECK(out[i] <= 1.000001);
                    }
                    before = out;
                }
            }
        }
    }
}

TEST_CASE("every tier adds many equal weights without drifting") {
    // Rounding errors of a sum point either way and mostly cancel, unless all terms are the same:
    // each addition within a binade then rounds the same way. A first key, the sink, keeps the
    // other weights from being 1, whose sums are exact.
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "equal weights").c_str()) {
            for (Index S : {1024, 8193})
                for (DType dtype : dtypes)
                    for (double sink : {0.3, 1.2, 4.7}) {
                        // 2 rows or 18: tiers take few queries another way than many.
                        const Index L = sink > 1 ? 18 : 2;
                        Qkv x{Tensor({1, 1, L, 8}, dtype), Tensor({1, 1, S, 8}, dtype),
                              Tensor({1, 1, S, 3}, dtype)};
                        for (Index i = 0; i < x.query.size(); ++i) x.query.set(i, i % 8 == 0);
                        for (Index i = 0; i < x.key.size(); ++i) x.key.set(i, i == 0 ? sink : 0);
                        const double row[] = {0.7, 1, -0.3};
                        for (Index i = 0; i < x.value.size(); ++i)
                            x.value.set(i, i < 3 ? 0 : row[i % 3]);
                        Options options;
                        options.scale = 1;
                        if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                        CAPTURE(S);
                        CAPTURE(sink);
                        CAPTURE(std::string(attn::name_of(dtype)));
                        expect_right(*tier, run(*tier, x.query, x.key, x.value, options),
                                     reference(x.query, x.key, x.value, options));
                    }
        }
    }
}
