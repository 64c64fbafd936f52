/// \file
/// \brief Changes of the input that must not change the output, or must change it in a known way.
///        Where rounding may differ, the changed run is held to the reference of the unchanged
///        problem; where nothing may differ, bits are compared.
#include "harness.hpp"

#include <attn/row_state.hpp>

#include <numeric>

using namespace attn;
using namespace attn::testing;

namespace {

const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

/// A (1, 1, S, columns) tensor's rows in the order of `from`, in every head.
Tensor rows_taken(const Tensor& t, const std::vector<Index>& from) {
    const Index S = t.shape()[2], columns = t.shape()[3], heads = t.shape()[0] * t.shape()[1];
    const Index count = static_cast<Index>(from.size());
    Tensor taken({t.shape()[0], t.shape()[1], count, columns}, t.dtype());
    for (Index head = 0; head < heads; ++head)
        for (Index j = 0; j < count; ++j)
            for (Index c = 0; c < columns; ++c)
                taken.set((head * count + j) * columns + c,
                          t.get((head * S + from[j]) * columns + c));
    return taken;
}

Tensor times(const Tensor& t, double factor) {
    Tensor product(t.shape(), t.dtype());
    for (Index i = 0; i < t.size(); ++i) product.set(i, t.get(i) * factor);
    return product;
}

Options with_scale(double scale) {
    Options options;
    options.scale = scale;
    return options;
}

}  // namespace

TEST_CASE("every tier ignores the order of the keys") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Sizes s{1, 2, 1, 9, 131, 24, 17};
                const Qkv x = generate("gauss", s, 21, dtype);
                Tensor mask({s.S}, DType::float32);
                for (Index j = 0; j < s.S; ++j)
                    mask.set(j, j % 5 ? static_cast<double>(j % 7) / 4 : -INFINITY);
                Options options;
                options.mask = mask;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                const Reference want = reference(x.query, x.key, x.value, options);

                std::vector<Index> order(static_cast<std::size_t>(s.S));
                std::iota(order.begin(), order.end(), 0);
                for (std::size_t j = 0; j < order.size(); ++j)
                    std::swap(order[j], order[j * 7919 % order.size()]);
                Tensor moved({s.S}, DType::float32);
                for (Index j = 0; j < s.S; ++j) moved.set(j, mask.get(order[j]));
                options.mask = moved;
                expect_right(*tier,
                             run(*tier, x.query, rows_taken(x.key, order),
                                 rows_taken(x.value, order), options),
                             want);
            }
        }
}

TEST_CASE("every tier ignores a constant added to all keys") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "shifted keys").c_str()) {
            const Sizes s{1, 4, 2, 9, 70, 16, 16};
            Qkv x = generate("gauss", s, 22, DType::float32);
            for (Index i = 0; i < x.key.size(); ++i)  // multiples of 1/64, so that sums are exact
                x.key.set(i, std::round(x.key.get(i) * 64) / 64);
            if (!takes(*tier, x.query, x.key, x.value)) continue;
            Tensor shifted = x.key.to(DType::float32);
            for (Index i = 0; i < shifted.size(); ++i)
                shifted.set(i, shifted.get(i) + static_cast<double>(i % s.E) - 7);
            Reference want = reference(x.query, x.key, x.value);
            const Reference larger = reference(x.query, shifted, x.value);
            want.score_size = larger.score_size;  // larger scores round more
            const Verdict v = judge(run(*tier, x.query, shifted, x.value).out.view, want,
                                    {*tier, DType::float32});
            CHECK_MESSAGE(v.ok(), text_of(v));
        }
    }
}

TEST_CASE("every tier takes the scale as a factor of the query") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Qkv x = generate("gauss", {1, 2, 2, 17, 66, 20, 12}, 23, dtype);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                const Output plain = run(*tier, x.query, x.key, x.value);
                const double scale = 1 / std::sqrt(20.0);
                expect_same_bits(*tier, plain,
                                 run(*tier, x.query, x.key, x.value, with_scale(scale)));
                const Output twice = run(*tier, x.query, x.key, x.value, with_scale(2 * scale));
                expect_same_bits(*tier, twice, run(*tier, times(x.query, 2), x.key, x.value));
                CHECK(first_difference(plain.out.view, twice.out.view) != -1);  // scale matters
                expect_same_bits(*tier, run(*tier, x.query, x.key, x.value, with_scale(-scale)),
                                 run(*tier, times(x.query, -1), x.key, x.value, with_scale(scale)));
            }
        }
}

TEST_CASE("every tier returns the mean of visible values for scale 0") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Sizes s{1, 1, 1, 6, 40, 8, 5};
                const Qkv x = generate("gauss", s, 24, dtype);
                Options options = with_scale(0);
                options.causal = Causal::upper_left;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                const Output got = run(*tier, x.query, x.key, x.value, options);
                const std::vector<double> out = values(got.out.view);
                for (Index i = 0; i < s.L; ++i)
                    for (Index c = 0; c < s.Ev; ++c) {
                        double mean = 0, size = 0;
                        for (Index j = 0; j <= i; ++j) {
                            mean += x.value.get(j * s.Ev + c) / static_cast<double>(i + 1);
                            size +=
                                std::abs(x.value.get(j * s.Ev + c)) / static_cast<double>(i + 1);
                        }
                        const double unit = dtype == DType::float64 ? 0x1p-52 : 0x1p-24;
                        const double bound = static_cast<double>(half_ulp(mean, dtype)) +
                                             (16 * unit + weight_error_of(*tier, dtype)) * size +
                                             half_value_step(*tier, x.value);
                        CHECK(std::abs(out[i * s.Ev + c] - mean) <= bound);
                    }
            }
        }
}

TEST_CASE("every tier computes a causal row as if the hidden keys were not there") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (const auto& [L, S] :
                 {std::pair<Index, Index>{20, 20}, {13, 70}, {70, 13}, {65, 65}})
                for (Causal causal : {Causal::upper_left, Causal::lower_right}) {
                    const std::string name = std::string(attn::name_of(dtype)) +
                                             " L=" + std::to_string(L) + " S=" + std::to_string(S) +
                                             (causal == Causal::upper_left ? " upper" : " lower");
                    SUBCASE(subcase(tier, name).c_str()) {
                        const Qkv x = generate("gauss", {1, 2, 1, L, S, 12, 9}, 25, dtype);
                        Options options;
                        options.causal = causal;
                        if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                        const Output got = run(*tier, x.query, x.key, x.value, options);
                        const Reference whole = tier->accuracy.quantized
                                                    ? reference(x.query, x.key, x.value, options)
                                                    : Reference();
                        for (Index i = 0; i < L; ++i) {
                            const Index seen = std::clamp<Index>(
                                causal == Causal::upper_left ? i + 1 : i + 1 + S - L, 0, S);
                            Output row = {{Tensor(), slice(got.out.view, 2, i, i + 1)},
                                          {Tensor(), slice(got.logsumexp.view, 2, i, i + 1)}};
                            CAPTURE(i);
                            Reference want = reference(slice(x.query.view(), 2, i, i + 1),
                                                       slice(x.key.view(), 2, 0, seen),
                                                       slice(x.value.view(), 2, 0, seen));
                            take_rounding(want, whole, i);
                            expect_right(*tier, row, want);
                        }
                    }
                }
}

TEST_CASE("every tier repeats each key head for neighbouring query heads") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Sizes s{2, 6, 2, 11, 37, 16, 8};
                const Qkv x = generate("gauss", s, 26, dtype);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                // Head h of `repeated` is key head h / 3; of `tiled`, h % 2.
                const auto expand = [&](const Tensor& t, bool repeated) {
                    const Index head = t.shape()[2] * t.shape()[3];
                    Tensor all({s.B, s.Hq, t.shape()[2], t.shape()[3]}, dtype);
                    for (Index i = 0; i < all.size(); ++i) {
                        const Index b = i / head / s.Hq, h = i / head % s.Hq;
                        const Index from = repeated ? h / 3 : h % 2;
                        all.set(i, t.get((b * s.H + from) * head + i % head));
                    }
                    return all;
                };
                const Output got = run(*tier, x.query, x.key, x.value);
                expect_same_bits(*tier, got,
                                 run(*tier, x.query, expand(x.key, true), expand(x.value, true)));
                const Output tiled =
                    run(*tier, x.query, expand(x.key, false), expand(x.value, false));
                CHECK(first_difference(got.out.view, tiled.out.view) != -1);
            }
        }
}

TEST_CASE("every tier computes each batch and head as if it were alone") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (Index L : {1, 19}) {
                SUBCASE(subcase(tier, std::string(attn::name_of(dtype)) + " L=" + std::to_string(L))
                            .c_str()) {
                    const Sizes s{7, 4, 2, L, L == 1 ? 1300 : 150, 24, 24};
                    const Qkv x = generate("gauss", s, 27, dtype);
                    Tensor mask({s.B, s.Hq, s.L, s.S}, DType::boolean);
                    for (Index i = 0; i < mask.size(); ++i) mask.set(i, i * 37 % 11 > 2);
                    Options options;
                    options.mask = mask;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    const Output all = run(*tier, x.query, x.key, x.value, options);
                    for (Index b : {0, 3, 6})
                        for (Index h = 0; h < s.Hq; ++h) {
                            const auto one = [&](auto view, Index head) {
                                return slice(slice(view, 0, b, b + 1), 1, head, head + 1);
                            };
                            Options alone;
                            alone.mask = one(mask.view(), h);
                            const Output single =
                                run(*tier, one(x.query.view(), h), one(x.key.view(), h / 2),
                                    one(x.value.view(), h / 2), alone);
                            const Output part = {{Tensor(), one(all.out.view, h)},
                                                 {Tensor(), one(all.logsumexp.view, h)}};
                            CAPTURE(b);
                            CAPTURE(h);
                            expect_same_bits(*tier, single, part);
                        }
                }
            }
}

TEST_CASE("every tier computes one row as it computes many") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Qkv x = generate("gauss", {1, 2, 2, 33, 200, 32, 32}, 28, dtype);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                for (Index i : {0, 1, 16, 32}) {
                    const TensorView row = slice(x.query.view(), 2, i, i + 1);
                    expect_right(*tier, run(*tier, row, x.key, x.value),
                                 reference(row, x.key, x.value));
                }
            }
        }
}

TEST_CASE("every tier can be split along the keys and merged by logsumexp") {
    for (const Tier* tier : tiers_under_test()) {
        if (!tier->limits.logsumexp) continue;
        for (Index parts : {2, 3, 7}) {
            SUBCASE(subcase(tier, std::to_string(parts) + " parts").c_str()) {
                const Sizes s{1, 2, 2, 10, 130, 16, 11};
                const Qkv x = generate("gauss", s, 29, DType::float32);
                Tensor mask({s.L, s.S}, DType::boolean);
                for (Index i = 0; i < mask.size(); ++i)  // row 3 sees nothing, row 4 the last part
                    mask.set(i, i / s.S != 3 && (i / s.S != 4 || i % s.S > 120));
                Options options;
                options.mask = mask;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                const Reference want = reference(x.query, x.key, x.value, options);
                std::vector<RowState<double>> rows(static_cast<std::size_t>(s.Hq * s.L));
                std::vector<double> sums(rows.size() * static_cast<std::size_t>(s.Ev));
                for (Index part = 0; part < parts; ++part) {
                    const Index begin = s.S * part / parts, end = s.S * (part + 1) / parts;
                    Options here;
                    here.mask = slice(mask.view(), 1, begin, end);
                    const Output got = run(*tier, x.query, slice(x.key.view(), 2, begin, end),
                                           slice(x.value.view(), 2, begin, end), here);
                    const auto out = values(got.out.view), lse = values(got.logsumexp.view);
                    for (std::size_t row = 0; row < rows.size(); ++row) {
                        RowState<double> other;  // a part counts as one score, its logsumexp
                        other.grow(lse[row]);
                        other.sum = other.weight(lse[row]);
                        const Merge<double> m = merge(rows[row], other);
                        rows[row] = m.state;
                        for (Index c = 0; c < s.Ev; ++c) {
                            double& sum = sums[row * s.Ev + c];
                            sum = sum * m.factor_a + out[row * s.Ev + c] * other.sum * m.factor_b;
                        }
                    }
                }
                Tensor merged({1, s.Hq, s.L, s.Ev});
                for (Index i = 0; i < merged.size(); ++i)
                    merged.set(i, sums[i] * rows[i / s.Ev].normalizer());
                // Once more the same errors: a part's logsumexp has those of a weight.
                const double A = *std::max_element(want.score_size.begin(), want.score_size.end());
                Allowance allowance(*tier, DType::float32);
                allowance.weight_error *= 2;
                allowance.weight_error += 0x1p-24 * (16 + 8 * A);
                if (allowance.quantized_scores) {
                    const std::vector<double>& rounding = want.rounding.get().logsumexp;
                    allowance.weight_error +=
                        2 * *std::max_element(rounding.begin(), rounding.end());
                }
                const Verdict v = judge(merged.view(), want, allowance);
                CHECK_MESSAGE(v.ok(), text_of(v));
            }
        }
    }
}

TEST_CASE("every tier computes 16-bit inputs as it computes them widened to float32") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : {DType::float16, DType::bfloat16}) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Qkv x = generate("gauss", {1, 2, 1, 21, 75, 64, 33}, 30, dtype);
                const Tensor q = x.query.to(DType::float32), k = x.key.to(DType::float32),
                             v = x.value.to(DType::float32);
                if (!takes(*tier, x.query, x.key, x.value) || !takes(*tier, q, k, v)) continue;
                Reference want = reference(q, k, v);
                const Output wide = run(*tier, q, k, v),
                             narrow = run(*tier, x.query, x.key, x.value);
                expect_right(*tier, wide, want);
                want.dtype = dtype;
                expect_right(*tier, narrow, want);
            }
        }
}
