/// \file
/// \brief Extreme numbers: NaN and infinity stay where they belong, finite results stay finite, and
///        denormals count.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

double largest(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return std::numeric_limits<double>::max();
        case DType::float16:
            return 65504;
        case DType::bfloat16:
            return static_cast<double>(0x1.fep127f);
        default:
            return std::numeric_limits<float>::max();
    }
}

double roundoff(DType dtype) { return dtype == DType::float64 ? 0x1p-53 : 0x1p-24; }

/// Positive queries and keys, so that the sign of an infinite score is known.
Qkv positive(const Sizes& sizes, DType dtype) {
    Qkv x = generate("gauss", sizes, 60, dtype);
    for (Tensor* t : {&x.query, &x.key})
        for (Index i = 0; i < t->size(); ++i) t->set(i, std::abs(t->get(i)) + 0.125);
    return x;
}

/// Values 0, 1, 2, ... of the rows of V, and their mean.
Qkv equal_scores(Index S, double q, double k, DType dtype) {
    Qkv x{Tensor({1, 1, 3, 8}, dtype), Tensor({1, 1, S, 8}, dtype), Tensor({1, 1, S, 2}, dtype)};
    for (Index i = 0; i < x.query.size(); ++i) x.query.set(i, q);
    for (Index i = 0; i < x.key.size(); ++i) x.key.set(i, k);
    for (Index i = 0; i < x.value.size(); ++i) x.value.set(i, static_cast<double>(i / 2 % 8));
    return x;
}

}  // namespace

TEST_CASE("every tier ignores what a masked key and value hold") {
    // Up to 64 columns, and more: kernels that repeat a block's work have tiles of their own for both.
    const Sizes sizes[] = {{1, 2, 1, 5, 70, 8, 6}, {1, 2, 1, 5, 70, 100, 72}};
    for (const Tier* tier : tiers_under_test())
        for (const Sizes& s : sizes)
            for (DType dtype : dtypes)
                for (double poison : {NaN, inf, -inf})
                    for (bool boolean : {true, false}) {
                        const std::string name =
                            "E=" + std::to_string(s.E) + " " + std::string(attn::name_of(dtype)) +
                            " " + std::to_string(poison) + (boolean ? " boolean" : " additive");
                        SUBCASE(subcase(tier, name).c_str()) {
                            const Qkv x = positive(s, dtype);
                            for (Index hidden : {0, 1, 33, 63, 64, 69}) {
                                Tensor mask({s.S}, boolean ? DType::boolean : DType::float32);
                                for (Index j = 0; j < s.S; ++j)
                                    mask.set(j, boolean ? j != hidden : 0);
                                if (!boolean) mask.set(hidden, -inf);
                                Options options;
                                options.mask = mask;
                                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                                Tensor key = x.key.to(dtype), value = x.value.to(dtype);
                                for (Index e = 0; e < s.E; ++e) key.set(hidden * s.E + e, poison);
                                for (Index e = 0; e < s.Ev; ++e)
                                    value.set(hidden * s.Ev + e, poison);
                                CAPTURE(hidden);
                                expect_same_bits(*tier,
                                                 run(*tier, x.query, x.key, x.value, options),
                                                 run(*tier, x.query, key, value, options));
                            }
                        }
                    }
}

TEST_CASE("every tier keeps a future NaN from earlier rows") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (Causal causal : {Causal::upper_left, Causal::lower_right}) {
                const std::string name = std::string(attn::name_of(dtype)) +
                                         (causal == Causal::upper_left ? " upper" : " lower");
                SUBCASE(subcase(tier, name).c_str()) {
                    const Sizes s{1, 1, 1, 70, 70, 8, 64};  // so many that no change of bits hides
                    const Qkv x = generate("gauss", s, 61, dtype);
                    Options options;
                    options.causal = causal;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    const Output clean = run(*tier, x.query, x.key, x.value, options);
                    for (Index j : {0, 1, 15, 16, 40, 64, 69})
                        for (bool in_key : {true, false}) {
                            Tensor key = x.key.to(dtype), value = x.value.to(dtype);
                            if (in_key)
                                key.set(j * s.E + 3, NaN);
                            else
                                value.set(j * s.Ev + 3, NaN);
                            const Output got = run(*tier, x.query, key, value, options);
                            const auto a = values(clean.out.view), b = values(got.out.view);
                            Index wrong = 0;
                            for (Index i = 0; i < static_cast<Index>(a.size()); ++i) {
                                const bool sees = i / s.Ev >= j;
                                // NaN in a key spoils its rows, in a value only its column.
                                const bool spoilt = sees && (in_key || i % s.Ev == 3);
                                // The steps of quantized tiers follow from the other numbers.
                                const bool same = !sees && !tier->accuracy.quantized;
                                if (spoilt ? !std::isnan(b[i])
                                    : same ? !(a[i] == b[i])
                                           : std::isnan(b[i]))
                                    ++wrong;
                            }
                            if (tier->accuracy.quantized)
                                expect_right(*tier, got, reference(x.query, key, value, options));
                            CAPTURE(j);
                            CAPTURE(in_key);
                            CHECK(wrong == 0);
                        }
                }
            }
}

TEST_CASE("every tier follows the truth table of NaN and infinity") {
    // One special element, in a row that a query sees; what the contract says about it is what
    // the reference does, and that is checked by hand below.
    const Sizes s{1, 2, 2, 6, 70, 8, 6};
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (double special : {NaN, inf, -inf}) {
                const std::string name =
                    std::string(attn::name_of(dtype)) + " " + std::to_string(special);
                SUBCASE(subcase(tier, name).c_str()) {
                    const Qkv x = positive(s, dtype);
                    if (!takes(*tier, x.query, x.key, x.value)) continue;
                    const Output clean = run(*tier, x.query, x.key, x.value);
                    const auto before = values(clean.out.view);
                    for (Index at : {0, 20, 64, 69})  // which key, or (mod L) which query
                        for (int where = 0; where < 3; ++where) {
                            Tensor q = x.query.to(dtype), k = x.key.to(dtype),
                                   v = x.value.to(dtype);
                            const Index row = at % s.L;
                            if (where == 0) q.set(row * s.E + 2, special);
                            if (where == 1) k.set(at * s.E + 2, special);
                            if (where == 2) v.set(at * s.Ev + 2, special);
                            const Output got = run(*tier, q, k, v);
                            CAPTURE(at);
                            CAPTURE(where);
                            expect_right(*tier, got, reference(q, k, v));
                            const auto out = values(got.out.view);
                            Index wrong = 0;
                            for (Index i = 0; i < static_cast<Index>(out.size()); ++i) {
                                const Index column = i % s.Ev, query = i / s.Ev % s.L;
                                const Index head = i / s.Ev / s.L;
                                bool ok = out[i] == before[i];  // untouched
                                if (head == 0 && where == 0 && query == row) {
                                    // All scores are special: NaN, +inf, or hidden by -inf.
                                    ok = special == -inf ? out[i] == 0 : std::isnan(out[i]);
                                } else if (head == 0 && where == 1) {
                                    // One score of every row; at -inf the key is hidden.
                                    ok = special == -inf ? std::isfinite(out[i])
                                                         : std::isnan(out[i]);
                                } else if (head == 0 && where == 2) {
                                    ok = column != 2           ? std::isfinite(out[i])
                                         : std::isnan(special) ? std::isnan(out[i])
                                                               : out[i] == special;
                                }
                                if (!ok) ++wrong;
                            }
                            CHECK(wrong == 0);
                        }
                }
            }
}

TEST_CASE("every tier turns opposite infinities into NaN") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                Qkv x = positive({1, 1, 1, 4, 70, 8, 6}, dtype);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                x.value.set(5 * 6 + 1, inf), x.value.set(66 * 6 + 1, -inf);  // one column
                x.key.set(7 * 8, -inf);  // a score of -inf hides key 7
                x.query.set(2 * 8 + 1, inf), x.query.set(2 * 8 + 2, -inf);  // a row of inf - inf
                expect_right(*tier, run(*tier, x.query, x.key, x.value),
                             reference(x.query, x.key, x.value));
                const auto out = values(run(*tier, x.query, x.key, x.value).out.view);
                for (int i = 0; i < 24; ++i)
                    CHECK(std::isnan(out[i]) == (i / 6 == 2 || i % 6 == 1));
            }
        }
}

TEST_CASE("every tier takes NaN and plus infinity in an additive mask for scores") {
    for (const Tier* tier : tiers_under_test())
        for (double special : {NaN, inf}) {
            SUBCASE(subcase(tier, std::to_string(special)).c_str()) {
                const Qkv x = positive({1, 1, 1, 5, 70, 8, 6}, DType::float32);
                for (Index j : {0, 40, 69}) {
                    Tensor mask({5, 70}, DType::float32);
                    for (Index k = 0; k < 70; ++k) mask.set(3 * 70 + k, -inf);  // row 3: only that
                    mask.set(1 * 70 + j, special), mask.set(3 * 70 + j, special);
                    Options options;
                    options.mask = mask;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    const Output got = run(*tier, x.query, x.key, x.value, options);
                    expect_right(*tier, got, reference(x.query, x.key, x.value, options));
                    const auto out = values(got.out.view);
                    for (int i = 0; i < 30; ++i)
                        CHECK(std::isnan(out[i]) == (i / 6 == 1 || i / 6 == 3));
                }
            }
        }
}

TEST_CASE("every tier returns 0 where all visible scores are minus infinity") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                Qkv x = positive({1, 1, 1, 4, 70, 8, 6}, dtype);
                for (Index j = 0; j < 70; ++j) x.key.set(j * 8 + j % 8, -inf);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                const Output got = run(*tier, x.query, x.key, x.value);
                for (double o : values(got.out.view)) CHECK((o == 0 && !std::signbit(o)));
                if (tier->limits.logsumexp)
                    for (double lse : values(got.logsumexp.view)) CHECK(lse == -inf);
            }
        }
}

TEST_CASE("every tier returns the mean for equal scores of any size") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                struct Pair {
                    double q, k;
                };
                // Powers of two have exact products; 133120 is PyTorch's own regression case.
                for (const Pair& p : {Pair{0, 0}, Pair{1, -128}, Pair{1, 128}, Pair{1, -16384},
                                      Pair{16384, 16384}, Pair{-16384, 16384}, Pair{133120, 133120},
                                      Pair{0x1p60, 0x1p60}, Pair{-0x1p60, 0x1p60}})
                    for (Index S : {1, 8, 64, 72, 200}) {
                        if (std::abs(p.q) > largest(dtype)) continue;
                        const Qkv x = equal_scores(S, p.q, p.k, dtype);
                        if (!takes(*tier, x.query, x.key, x.value)) continue;
                        double mean = 0;
                        for (Index j = 0; j < S; ++j) mean += static_cast<double>(j % 8) / S;
                        const Output got = run(*tier, x.query, x.key, x.value);
                        const double bound =
                            static_cast<double>(half_ulp(mean, dtype)) +
                            (16 * roundoff(dtype) + weight_error_of(*tier, dtype)) * mean +
                            half_value_step(*tier, x.value);
                        CAPTURE(p.q);
                        CAPTURE(p.k);
                        CAPTURE(S);
                        for (double o : values(got.out.view)) CHECK(std::abs(o - mean) <= bound);
                        if (!tier->limits.logsumexp) continue;
                        const double score = 8 * p.q * p.k / std::sqrt(8.0);
                        const double want = score + std::log(static_cast<double>(S));
                        for (double lse : values(got.logsumexp.view))
                            CHECK(std::abs(lse - want) <=
                                  (16 + weight_error_of(*tier, dtype) / roundoff(dtype)) *
                                          roundoff(dtype) +
                                      8 * roundoff(dtype) * std::abs(score));
                    }
            }
        }
}

TEST_CASE("every tier picks the one value whose score towers over the others") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                // Only channel 0 is not 0, so scores are single products and exact enough.
                for (double size : {1e3, 65504.0, 0x1p40, 1e18})
                    for (Index needle : {0, 1, 31, 63, 64, 65, 128, 129}) {
                        if (size > largest(dtype)) continue;
                        const Sizes s{1, 1, 1, 3, 130, 16, 9};
                        Qkv x = generate("gauss", s, 62, dtype);
                        for (Index i = 0; i < x.query.size(); ++i)
                            x.query.set(i, i % 16 ? 0 : size);
                        for (Index i = 0; i < x.key.size(); ++i)
                            x.key.set(i, i % 16 ? 0 : i / 16 == needle ? size : -size / 2);
                        if (!takes(*tier, x.query, x.key, x.value)) continue;
                        const auto out = values(run(*tier, x.query, x.key, x.value).out.view);
                        CAPTURE(size);
                        CAPTURE(needle);
                        for (std::size_t i = 0; i < out.size(); ++i) {
                            const double want =
                                x.value.get(needle * s.Ev + static_cast<Index>(i) % s.Ev);
                            CHECK(std::abs(out[i] - want) <=
                                  (4 * roundoff(dtype) + weight_error_of(*tier, dtype)) *
                                          std::abs(want) +
                                      half_value_step(*tier, x.value));
                        }
                    }
            }
        }
}

TEST_CASE("every tier follows a maximum that rises and falls along the keys") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (double step : {0.0625, 1.0, 40.0, -0.0625, -1.0, -40.0}) {
                const std::string name =
                    std::string(attn::name_of(dtype)) + " step " + std::to_string(step);
                SUBCASE(subcase(tier, name).c_str()) {
                    const Sizes s{1, 1, 1, 5, 260, 8, 6};
                    const Qkv x = generate("gauss", s, 63, dtype);
                    Tensor ramp({s.S}, DType::float32);
                    for (Index j = 0; j < s.S; ++j) ramp.set(j, step * static_cast<double>(j));
                    Options options;
                    options.mask = ramp;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    expect_right(*tier, run(*tier, x.query, x.key, x.value, options),
                                 reference(x.query, x.key, x.value, options));
                }
            }
}

TEST_CASE("every tier follows scores that rise as far as norms let them") {
    // Queries and keys near one line: hardly a score could be larger than the last ones are. A tier
    // that trusts norms in the place of maxima has weights of up to e^(2 most), or must not trust them.
    // The noise keeps the rounding of queries apart from that of keys, as the bound of 8 bits supposes.
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (double most : {3.0, 5.0, 7.0, 12.0, 40.0}) {
                const std::string name =
                    std::string(attn::name_of(dtype)) + " most " + std::to_string(most);
                SUBCASE(subcase(tier, name).c_str()) {
                    const Sizes s{1, 1, 1, 5, 260, 64, 6};
                    Qkv x = generate("gauss", s, 65, DType::float32);
                    const double side = std::sqrt(most), width = std::sqrt(s.E);
                    const auto line = [&](Index e) { return e % 3 == 0 ? side : -side; };
                    for (Index i = 0; i < x.query.size(); ++i)
                        x.query.set(i, line(i % s.E) + side / 4 * x.query.get(i));
                    for (Index i = 0; i < x.key.size(); ++i) {
                        const double rise = 2.0 * static_cast<double>(i / s.E) / (s.S - 1) - 1;
                        x.key.set(i, (line(i % s.E) * rise + side / 4 * x.key.get(i)) / width);
                    }
                    const Tensor query = x.query.to(dtype), key = x.key.to(dtype),
                                 value = x.value.to(dtype);
                    if (!takes(*tier, query, key, value)) continue;
                    expect_right(*tier, run(*tier, query, key, value),
                                 reference(query, key, value));
                }
            }
}

TEST_CASE("every tier keeps the largest values finite") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                // 100 values of float16's maximum; beyond it, of 2^120, whose sum still fits.
                const double v = dtype == DType::float16 ? 65504 : 0x1p120;
                Qkv x = generate("gauss", {1, 1, 1, 4, 100, 8, 6}, 64, dtype);
                for (Index i = 0; i < x.value.size(); ++i) x.value.set(i, i % 6 % 2 ? v : -v);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                const auto out = values(run(*tier, x.query, x.key, x.value).out.view);
                for (std::size_t i = 0; i < out.size(); ++i) {
                    const double want = i % 6 % 2 ? v : -v;
                    CHECK(std::isfinite(out[i]));
                    CHECK(std::abs(out[i] - want) <=
                          static_cast<double>(half_ulp(v, dtype)) +
                              (16 * roundoff(dtype) + weight_error_of(*tier, dtype)) * v);
                }
            }
        }
}

TEST_CASE("every tier computes with denormals") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const double tiny = dtype == DType::float16   ? 0x1p-24
                                    : dtype == DType::float64 ? 0x1p-1070
                                                              : 0x1p-133;
                Qkv x = generate("gauss", {1, 1, 1, 4, 9, 8, 6}, 65, dtype);
                if (!takes(*tier, x.query, x.key, x.value)) continue;
                // Denormal values: 16 of the smallest units, so that losing them shows.
                for (Index i = 0; i < x.value.size(); ++i) x.value.set(i, 16 * tiny);
                const double slack = dtype == DType::float16 ? 0.5 * tiny : 0.01 * 16 * tiny;
                // float16's denormals are normal numbers in float32, so that nobody may flush them.
                const bool may_flush = tier->accuracy.flushes_denormals && dtype != DType::float16;
                for (double o : values(run(*tier, x.query, x.key, x.value).out.view))
                    CHECK((std::abs(o - 16 * tiny) <= slack || (may_flush && o == 0)));
                // Denormal keys, large queries: scores of about 1.
                if (may_flush || dtype == DType::float64 || dtype == DType::float16) continue;
                for (Index i = 0; i < x.value.size(); ++i) x.value.set(i, static_cast<double>(i));
                for (Index i = 0; i < x.key.size(); ++i) x.key.set(i, (i % 5) * 0x1p-130);
                for (Index i = 0; i < x.query.size(); ++i) x.query.set(i, (i % 3) * 0x1p126);
                expect_right(*tier, run(*tier, x.query, x.key, x.value),
                             reference(x.query, x.key, x.value));
            }
        }
}
