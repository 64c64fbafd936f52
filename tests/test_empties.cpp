/// \file
/// \brief Sizes of 0, alone and together: the right shape, the right value, nothing else written.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

TEST_CASE("every tier takes axes of size 0 in all combinations") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "empty axes").c_str()) {
            for (int empty = 0; empty < 64; ++empty)
                for (DType dtype : {DType::float32, DType::float16, DType::float64})
                    for (bool masked : {false, true}) {
                        Sizes s{2, 4, 2, 3, 5, 4, 6};
                        if (empty & 1) s.B = 0;
                        if (empty & 2) s.Hq = s.H = 0;
                        if (empty & 4) s.L = 0;
                        if (empty & 8) s.S = 0;
                        if (empty & 16) s.E = 0;
                        if (empty & 32) s.Ev = 0;
                        const Qkv x = generate("gauss", s, 9, dtype);
                        Options options;
                        Tensor mask({s.L, s.S}, DType::boolean);
                        for (Index i = 0; i < mask.size(); ++i) mask.set(i, i % 2);
                        if (masked) options.mask = mask;
                        if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                        CAPTURE(empty);
                        CAPTURE(masked);
                        const Output got = run(*tier, x.query, x.key, x.value, options);
                        CHECK(got.out.view.size() == s.B * s.Hq * s.L * s.Ev);
                        expect_right(*tier, got, reference(x.query, x.key, x.value, options));
                        if (s.S > 0) continue;
                        for (double o : values(got.out.view)) {
                            CHECK(o == 0);
                            CHECK_FALSE(std::signbit(o));
                        }
                        if (tier->limits.logsumexp)
                            for (double lse : values(got.logsumexp.view)) CHECK(lse == -INFINITY);
                    }
        }
    }
}

TEST_CASE("every tier returns the mean of visible values when E is 0") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "mean").c_str()) {
            const Sizes s{1, 1, 1, 4, 8, 0, 1};
            Qkv x = generate("gauss", s, 10, DType::float32);
            for (Index j = 0; j < 8; ++j) x.value.set(j, static_cast<double>(j));
            Options options;
            options.causal = Causal::lower_right;  // row i sees keys 0 .. i + 4
            if (!takes(*tier, x.query, x.key, x.value, options)) continue;
            const Output got = run(*tier, x.query, x.key, x.value, options);
            const std::vector<double> out = values(got.out.view), lse = values(got.logsumexp.view);
            for (int i = 0; i < 4; ++i) {
                CHECK(std::abs(out[i] - (i + 4) / 2.0) <= 1e-6 + half_value_step(*tier, x.value));
                if (tier->limits.logsumexp) CHECK(std::abs(lse[i] - std::log(i + 5)) <= 1e-6);
            }
        }
    }
}

TEST_CASE("every tier takes empty tensors without memory") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "null data").c_str()) {
            const TensorView query(nullptr, DType::float32, {2, 2, 0, 8});
            const TensorView key(nullptr, DType::float32, {2, 2, 0, 8});
            const MutableTensorView out(nullptr, DType::float32, {2, 2, 0, 8});
            Execution execution;
            execution.tier = tier->name;
            CHECK_NOTHROW(scaled_dot_product_attention(query, key, key, out, {}, execution));
            CHECK(scaled_dot_product_attention(query, key, key, {}, execution).size() == 0);
        }
    }
}
