/// \file
/// \brief The tiers `int8_pv32` and `int8`: they are as accurate as they claim on the inputs that
///        are hard for 8 bits, and keep the error that a caller allows.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

TEST_CASE("the int8 tiers keep the accuracy they claim on every generator") {
    // The worst head counts: relative L1 <= 0.03 on each generator, and on gauss cosine >= 0.9999
    // and relative L2 <= 1.3e-2, which is what others reach with 16-bit weights and values.
    const Index L = small_scale() ? 128 : 512;
    for (const char* name : {"int8_pv32", "int8"}) {
        const Tier& tier = *find_tier(name);
        for (const Generator& g : generators()) {
            const Qkv x = generate(g.name, {1, 2, 2, L, L, 128, 128}, 5);
            const Reference want = reference(x.query, x.key, x.value);
            const Output got = run(tier, x.query, x.key, x.value);
            for (const Verdict& v : judge_heads(got.out.view, want, {tier, DType::float32})) {
                CAPTURE(std::string(g.name));
                CAPTURE(std::string(name));
                CHECK_MESSAGE(v.ok(), text_of(v));
                CHECK(v.relative_l1 <= 0.03);
                if (std::string(g.name) != "gauss") continue;
                CHECK(v.cosine >= 0.9999);
                CHECK(v.relative_l2 <= 1.3e-2);
            }
        }
    }
}

TEST_CASE("the int8 tiers come near to what rounding may change") {
    // The largest of so many errors is beyond four standard deviations, of the eight that are
    // allowed: the allowance is neither a guess nor generous. (Half steps of weights and values
    // are allowed as if none cancelled: keys may be equal.) Problems small enough for the judge to
    // compute covariances, which it otherwise bounds.
    for (const char* name : {"int8_pv32", "int8"}) {
        const Tier& tier = *find_tier(name);
        double closest = 0;  // to its bound, of all elements
        for (const Generator& g : generators()) {
            const Qkv x = generate(g.name, {1, 2, 2, 96, 96, 64, 64}, 5);
            const Output got = run(tier, x.query, x.key, x.value);
            const Verdict v =
                judge(got.out.view, reference(x.query, x.key, x.value), {tier, DType::float32});
            CHECK_MESSAGE(v.ok(), text_of(v));
            closest = std::max(closest, v.worst_ratio);
        }
        CAPTURE(std::string(name));
        CAPTURE(closest);
        CHECK(closest > (tier.accuracy.quantized_values ? 0.2 : 0.4));
    }
}

TEST_CASE("the int8 tiers keep small weights beside an attention sink") {
    // One key outshines each of 1000 others 600 times, which together still have the larger share:
    // weights rounded against the row's maximum would lose them all.
    const Index S = 1024;
    Qkv x = generate("gauss", {1, 1, 1, 1, S, 16, 4}, 6);
    for (Index i = 0; i < x.query.size(); ++i) x.query.set(i, 0.1 * x.query.get(i));
    Tensor mask({S}, DType::float32);
    mask.set(300, std::log(600.0));
    Options options;
    options.mask = mask;
    const Reference want = reference(x.query, x.key, x.value, options);
    for (const char* name : {"int8_pv32", "int8"}) {
        const Tier& tier = *find_tier(name);
        const Output got = run(tier, x.query, x.key, x.value, options);
        expect_right(tier, got, want);
        // 15 of 16 blocks are exact; the sink's own loses 63 weights of 1 / 600.
        CHECK(values(got.logsumexp.view)[0] == doctest::Approx(std::log(1623.0)).epsilon(0.007));
    }
}

TEST_CASE("the int8 tiers keep the error that the caller allows") {
    const Index L = small_scale() ? 96 : 256;
    for (const Generator& g : generators()) {
        const Qkv x = generate(g.name, {1, 4, 2, L, L, 64, 64}, 8);
        const Reference want = reference(x.query, x.key, x.value);
        for (const char* name : {"int8_pv32", "int8"})
            for (double limit : {0.004, 0.015, 0.03}) {
                Tensor out({1, 4, L, 64});
                Execution execution;
                execution.tier = name;
                execution.max_relative_error = limit;
                scaled_dot_product_attention(x.query, x.key, x.value, out, {}, execution);
                CAPTURE(std::string(g.name));
                CAPTURE(std::string(name));
                for (const Verdict& v : judge_heads(out.view(), want))
                    CHECK(v.relative_l2 <= limit);
            }
    }
}

TEST_CASE("the int8 tiers keep normal data in integers down to the limit they state") {
    for (Index E : {64, 128}) {
        const Qkv x = generate("gauss", {1, 1, 1, 256, 256, E, E}, 12);
        const auto compute = [&](const char* tier, double limit) {
            Tensor out({1, 1, 256, E});
            Execution execution;
            execution.tier = tier;
            execution.max_relative_error = limit;
            scaled_dot_product_attention(x.query, x.key, x.value, out, {}, execution);
            return out;
        };
        const Tensor exact = compute("simd", 0);
        for (const char* name : {"int8_pv32", "int8"}) {
            const double limit = find_tier(name)->limits.error_limit;
            CAPTURE(std::string(name));
            CAPTURE(E);
            CHECK(first_difference(compute(name, limit).view(), exact.view()) != -1);
            CHECK(first_difference(compute(name, 0.8 * limit).view(), exact.view()) == -1);
        }
    }
}

TEST_CASE("the int8 tiers may lose values that have no step, and the judge knows") {
    // A channel of a block of values below 2^-80 becomes 0, as quantize.hpp says; the next is kept.
    for (const char* name : {"int8_pv32", "int8"})
        for (double size : {0x1p-90, 0x1p-70}) {
            Qkv x = generate("gauss", {1, 1, 1, 5, 70, 16, 8}, 9);
            for (Index i = 0; i < x.value.size(); i += 8) x.value.set(i, size * x.value.get(i));
            CAPTURE(size);
            expect_right(*find_tier(name), run(*find_tier(name), x.query, x.key, x.value),
                         reference(x.query, x.key, x.value));
        }
}

TEST_CASE("the int8 tiers are taken by auto only where the caller allows an error") {
    const Tensor x({1, 8, 1024, 128});
    Tensor out({1, 8, 1024, 128});
    const auto reason = [&](double limit, std::string_view name, std::string& taken) {
        Execution execution;
        execution.max_relative_error = limit;
        const Explanation why = explain(x, x, x, out, {}, execution);
        taken = why.tier;
        for (const Candidate& c : why.candidates)
            if (c.tier == name) return c.reason;
        return std::string();
    };
    const auto holds = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    for (const char* name : {"int8_pv32", "int8"}) {
        std::string taken;
        CHECK(holds(reason(0, name, taken), "say max_relative_error"));
        CHECK_FALSE(find_tier(taken)->accuracy.quantized);
        CHECK(holds(reason(1e-3, name, taken), "most heads would be computed twice"));
        CHECK_FALSE(find_tier(taken)->accuracy.quantized);
        CHECK(holds(reason(0.05, name, taken), "a larger relative error than 0.05"));
    }
}

TEST_CASE("the int8 tiers measure the error of very large and very small values as well") {
    // Squares of these overflow or vanish in float32; the values of `int8_pv32` may be as they
    // like.
    const Qkv x = generate("key_bias_sharp", {1, 1, 1, 128, 128, 64, 8}, 10);
    for (double size : {1e-25, 1e25}) {
        Tensor value({1, 1, 128, 8});
        for (Index i = 0; i < value.size(); ++i) value.set(i, size * x.value.get(i));
        const Reference want = reference(x.query, x.key, value);
        for (const char* name : {"int8_pv32", "int8"}) {
            Tensor out({1, 1, 128, 8});
            Execution execution;
            execution.tier = name;
            execution.max_relative_error = 1e-4;
            scaled_dot_product_attention(x.query, x.key, value, out, {}, execution);
            CAPTURE(size);
            CAPTURE(std::string(name));
            CHECK(judge_heads(out.view(), want)[0].relative_l2 <= 1e-4);
        }
    }
}

TEST_CASE("the int8 tiers decide head by head which may stay in integers") {
    // Head 0 is easy, head 1 is not: only the second one falls back, to the bits of `simd`.
    const Sizes s{1, 1, 1, 256, 256, 64, 64};
    const Qkv easy = generate("gauss", s, 9), hard = generate("key_bias_sharp", s, 9);
    const auto both = [&](const Tensor& a, const Tensor& b) {
        Tensor t({1, 2, 256, 64});
        for (Index i = 0; i < a.size(); ++i) t.set(i, a.get(i)), t.set(a.size() + i, b.get(i));
        return t;
    };
    const Tensor query = both(easy.query, hard.query), key = both(easy.key, hard.key),
                 value = both(easy.value, hard.value);
    const auto compute = [&](const char* tier, double limit) {
        Tensor out({1, 2, 256, 64});
        Execution execution;
        execution.tier = tier;
        execution.max_relative_error = limit;
        scaled_dot_product_attention(query, key, value, out, {}, execution);
        return out;
    };
    const Tensor exact = compute("simd", 0), rounded = compute("int8", 0);
    const auto same = [](const Tensor& a, const Tensor& b, Index h) {
        return first_difference(slice(a.view(), 1, h, h + 1), slice(b.view(), 1, h, h + 1)) == -1;
    };
    const Tensor mixed = compute("int8", 0.022), none = compute("int8", 1e-4),
                 all = compute("int8", 1);
    CHECK((same(mixed, rounded, 0) && same(mixed, exact, 1)));
    CHECK((same(none, exact, 0) && same(none, exact, 1)));
    CHECK((same(all, rounded, 0) && same(all, rounded, 1)));
    CHECK_FALSE(same(exact, rounded, 0));

    Tensor out({1, 2, 256, 64});
    for (double bad : {-0.1, static_cast<double>(NAN)}) {
        Execution execution;
        execution.max_relative_error = bad;
        CHECK(check(query, key, value, out, {}, execution).error == ErrorCode::bad_option);
    }
}
