/// \file
/// \brief Masks: the ways to say the same thing agree, every broadcast equals its expansion, and
///        rows that see nothing are exactly 0 and disturb nobody.
#include "harness.hpp"

#include <limits>

using namespace attn;
using namespace attn::testing;

namespace {

const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

Options masked(const TensorView& mask) {
    Options options;
    options.mask = mask;
    return options;
}

Options causal(Causal rule) {
    Options options;
    options.causal = rule;
    return options;
}

/// 0 where a boolean mask is true, -inf where it is false.
Tensor additive(const Tensor& mask, DType dtype) {
    Tensor bias(mask.shape(), dtype);
    for (Index i = 0; i < mask.size(); ++i) bias.set(i, mask.get(i) ? 0 : -inf);
    return bias;
}

}  // namespace

TEST_CASE("every tier takes the causal rule and its two masks for the same") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (const auto& [L, S] : {std::pair<Index, Index>{33, 33}, {9, 66}, {66, 9}})
                for (Causal rule : {Causal::upper_left, Causal::lower_right}) {
                    const std::string name = std::string(attn::name_of(dtype)) +
                                             " L=" + std::to_string(L) + " S=" + std::to_string(S) +
                                             (rule == Causal::upper_left ? " upper" : " lower");
                    SUBCASE(subcase(tier, name).c_str()) {
                        const Qkv x = generate("gauss", {1, 2, 2, L, S, 16, 10}, 31, dtype);
                        Tensor mask({L, S}, DType::boolean);
                        const Index shift = rule == Causal::upper_left ? 0 : S - L;
                        for (Index i = 0; i < L; ++i)
                            for (Index j = 0; j < S; ++j) mask.set(i * S + j, j <= i + shift);
                        const Tensor bias = additive(mask, DType::float32);
                        const Reference want = reference(x.query, x.key, x.value, masked(mask));
                        for (const Options& options : {causal(rule), masked(mask), masked(bias)})
                            if (takes(*tier, x.query, x.key, x.value, options))
                                expect_right(*tier, run(*tier, x.query, x.key, x.value, options),
                                             want);
                    }
                }
}

TEST_CASE("every tier takes a mask that hides nothing for none") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Qkv x = generate("gauss", {2, 2, 2, 13, 41, 16, 16}, 32, dtype);
                Tensor all({13, 41}, DType::boolean);
                for (Index i = 0; i < all.size(); ++i) all.set(i, 1);
                const Tensor zero({41}, dtype), zero32({1, 1}, DType::float32);
                const Reference want = reference(x.query, x.key, x.value);
                for (const TensorView& mask : {TensorView(all.view()), zero.view(), zero32.view()})
                    if (takes(*tier, x.query, x.key, x.value, masked(mask)))
                        expect_right(*tier, run(*tier, x.query, x.key, x.value, masked(mask)),
                                     want);
            }
        }
}

TEST_CASE("every tier takes false and minus infinity for the same and for a missing key") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (Index hidden : {0, 1, 31, 32, 63, 64, 65, 127, 128}) {
                const std::string name =
                    std::string(attn::name_of(dtype)) + " first " + std::to_string(hidden);
                SUBCASE(subcase(tier, name).c_str()) {
                    // Keys 0 .. hidden - 1 are masked, and some later ones.
                    const Sizes s{1, 2, 1, 5, 133, 16, 9};
                    const Qkv x = generate("gauss", s, 33, dtype);
                    Tensor mask({s.S}, DType::boolean);
                    std::vector<Index> kept;
                    for (Index j = 0; j < s.S; ++j)
                        if (j >= hidden && j % 4 != 3) mask.set(j, 1), kept.push_back(j);
                    const auto keep = [&](const Tensor& t) {
                        Tensor rows({1, 1, static_cast<Index>(kept.size()), t.shape()[3]}, dtype);
                        for (Index i = 0; i < rows.size(); ++i)
                            rows.set(
                                i, t.get(kept[i / t.shape()[3]] * t.shape()[3] + i % t.shape()[3]));
                        return rows;
                    };
                    const Reference want = reference(x.query, keep(x.key), keep(x.value));
                    const Tensor bias = additive(mask, dtype);
                    for (const Options& options : {masked(mask), masked(bias)})
                        if (takes(*tier, x.query, x.key, x.value, options))
                            expect_right(*tier, run(*tier, x.query, x.key, x.value, options), want);
                }
            }
}

TEST_CASE("every tier takes any nonzero byte of a boolean mask for true") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "bytes").c_str()) {
            const Qkv x = generate("gauss", {1, 1, 1, 7, 50, 8, 8}, 34, DType::float32);
            Tensor ones({7, 50}, DType::boolean), bytes({7, 50}, DType::boolean);
            for (Index i = 0; i < ones.size(); ++i) {
                ones.set(i, i % 3);
                static_cast<unsigned char*>(bytes.data())[i] =
                    i % 3 ? static_cast<unsigned char>(1u << i % 8) : 0;
            }
            if (!takes(*tier, x.query, x.key, x.value, masked(ones))) continue;
            expect_same_bits(*tier, run(*tier, x.query, x.key, x.value, masked(ones)),
                             run(*tier, x.query, x.key, x.value, masked(bytes)));
        }
    }
}

TEST_CASE("every tier takes every broadcast of a mask for its expansion") {
    for (const Tier* tier : tiers_under_test())
        for (MaskKind kind : {MaskKind::boolean, MaskKind::additive}) {
            const std::string name = kind == MaskKind::boolean ? "boolean" : "additive";
            SUBCASE(subcase(tier, name).c_str()) {
                Case c;
                c.sizes = {2, 4, 2, 7, 37, 8, 6};
                c.dtype = DType::float16;
                const Index full[4] = {2, 4, 7, 37};
                const Qkv x = generate("gauss", c.sizes, 35, c.dtype);
                for (int rank = 0; rank <= 4; ++rank)
                    for (int axes = 0; axes < 1 << rank; ++axes)
                        for (Layout layout :
                             {Layout::contiguous, Layout::step2, Layout::reversed}) {
                            c.mask.kind = kind;
                            c.mask.rank = rank;
                            for (int a = 0; a < 4; ++a)
                                c.mask.full[a] = a >= 4 - rank && (axes >> (3 - a) & 1);
                            c.layout = layout;
                            c.seed = static_cast<std::uint64_t>(35 + axes);
                            const Laid mask = make_mask(c);
                            Tensor expanded({2, 4, 7, 37}, mask.view.dtype);
                            for (Index i = 0; i < expanded.size(); ++i) {
                                const Index at[4] = {i / 37 / 7 / 4, i / 37 / 7 % 4, i / 37 % 7,
                                                     i % 37};
                                Index offset = 0;
                                for (int a = 4 - rank; a < 4; ++a)
                                    if (c.mask.full[a] && full[a] > 1)
                                        offset += at[a] * mask.view.stride[a - 4 + rank];
                                const std::size_t bytes = size_of(mask.view.dtype);
                                std::memcpy(static_cast<char*>(expanded.data()) +
                                                i * static_cast<Index>(bytes),
                                            static_cast<char*>(mask.view.data) +
                                                offset * static_cast<Index>(bytes),
                                            bytes);
                            }
                            if (!takes(*tier, x.query, x.key, x.value, masked(expanded))) continue;
                            CAPTURE(rank);
                            CAPTURE(axes);
                            CAPTURE(std::string(name_of(layout)));
                            const Output want =
                                run(*tier, x.query, x.key, x.value, masked(expanded));
                            expect_same_bits(*tier,
                                             run(*tier, x.query, x.key, x.value, masked(mask.view)),
                                             want);
                            if (axes == 15 && layout == Layout::contiguous)
                                expect_right(*tier, want,
                                             reference(x.query, x.key, x.value, masked(mask.view)));
                        }
            }
        }
}

TEST_CASE("every tier reads a mask of rank 3 as one for each query head") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "rank 3 with B = Hq").c_str()) {
            const Qkv x = generate("gauss", {4, 4, 2, 5, 12, 8, 8}, 36, DType::float32);
            Tensor mask({4, 5, 12}, DType::boolean);
            for (Index i = 0; i < mask.size(); ++i) mask.set(i, i * 7 % 5 < 3);
            if (!takes(*tier, x.query, x.key, x.value, masked(mask))) continue;
            const Output got = run(*tier, x.query, x.key, x.value, masked(mask));
            for (Index h = 0; h < 4; ++h) {
                const auto head = [&](auto view, Index at) { return slice(view, 1, at, at + 1); };
                const Output alone =
                    run(*tier, head(x.query.view(), h), head(x.key.view(), h / 2),
                        head(x.value.view(), h / 2), masked(slice(mask.view(), 0, h, h + 1)));
                const Output part = {{Tensor(), head(got.out.view, h)},
                                     {Tensor(), head(got.logsumexp.view, h)}};
                expect_same_bits(*tier, alone, part);
            }
        }
    }
}

TEST_CASE("every tier returns exactly 0 for a row that may see no key") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes)
            for (bool boolean : {true, false}) {
                const std::string name =
                    std::string(attn::name_of(dtype)) + (boolean ? " boolean" : " additive");
                SUBCASE(subcase(tier, name).c_str()) {
                    const Sizes s{2, 2, 2, 40, 70, 16, 8};
                    const Qkv x = generate("gauss", s, 37, dtype);
                    // Blind: rows 0, 7, 16, 31, 32, 39 of every head, head 1 of batch 0, batch 1.
                    const auto blind = [&](Index b, Index h, Index i) {
                        return b == 1 || h == 1 || i == 0 || i == 7 || i == 16 || i == 31 ||
                               i == 32 || i == 39;
                    };
                    Tensor mask({s.B, s.Hq, s.L, s.S}, DType::boolean),
                        open = mask.to(mask.dtype());
                    for (Index i = 0; i < mask.size(); ++i) {
                        const Index row = i / s.S;
                        const bool hidden = i % 3 == 0;
                        open.set(i, !hidden);
                        mask.set(i,
                                 !hidden && !blind(row / s.L / s.Hq, row / s.L % s.Hq, row % s.L));
                    }
                    const Tensor mask_bias = additive(mask, dtype),
                                 open_bias = additive(open, dtype);
                    const Options with = masked(boolean ? mask.view() : mask_bias.view());
                    const Options without = masked(boolean ? open.view() : open_bias.view());
                    if (!takes(*tier, x.query, x.key, x.value, with)) continue;
                    const Output got = run(*tier, x.query, x.key, x.value, with);
                    const auto out = values(got.out.view), lse = values(got.logsumexp.view);
                    const Output seeing = run(*tier, x.query, x.key, x.value, without);
                    const auto free_out = values(seeing.out.view);
                    Index wrong = 0, disturbed = 0;
                    for (Index i = 0; i < static_cast<Index>(out.size()); ++i) {
                        const Index row = i / s.Ev;
                        if (!blind(row / s.L / s.Hq, row / s.L % s.Hq, row % s.L))
                            disturbed += out[i] != free_out[i];
                        else if (!(out[i] == 0 && !std::signbit(out[i]) &&
                                   (!tier->limits.logsumexp || lse[row] == -inf)))
                            ++wrong;
                    }
                    CHECK(wrong == 0);
                    CHECK(disturbed == 0);
                }
            }
}

TEST_CASE("every tier adds large negative biases instead of taking them for a mask") {
    for (const Tier* tier : tiers_under_test())
        for (double large : {-65504.0, -1e9, -3.4028234663852886e38, -120.0}) {
            SUBCASE(subcase(tier, std::to_string(large)).c_str()) {
                const Sizes s{1, 1, 1, 4, 70, 16, 8};
                const Qkv x = generate("gauss", s, 38, DType::float32);
                Tensor some({s.S}, DType::float32), all({s.S}, DType::float32);
                for (Index j = 0; j < s.S; ++j) all.set(j, large), some.set(j, j % 3 ? 0 : large);
                if (!takes(*tier, x.query, x.key, x.value, masked(some))) continue;
                // Some keys far below the others: as good as hidden, unless only 120 below.
                expect_right(*tier, run(*tier, x.query, x.key, x.value, masked(some)),
                             reference(x.query, x.key, x.value, masked(some)));
                // All keys equally low: the row sees them all. At -1e9 and below a float32 score
                // no longer feels Q K, so that the row is near some mean; never 0, never NaN.
                const Output low = run(*tier, x.query, x.key, x.value, masked(all));
                if (large > -1e6)
                    expect_right(*tier, low, reference(x.query, x.key, x.value, masked(all)));
                Options none;
                none.scale = 0;  // no scores at all: exactly equal, so exactly the mean
                none.mask = all;
                Options plain;
                plain.scale = 0;
                Reference mean = reference(x.query, x.key, x.value, plain);
                const Verdict v = judge(run(*tier, x.query, x.key, x.value, none).out.view, mean,
                                        {*tier, DType::float32});
                CHECK_MESSAGE(v.ok(), text_of(v));
                for (double o : values(low.out.view)) CHECK((std::isfinite(o) && o != 0));
            }
        }
}

TEST_CASE("every tier applies a mask and the causal rule together") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "both").c_str()) {
            const Sizes s{1, 2, 2, 20, 30, 16, 8};
            const Qkv x = generate("gauss", s, 39, DType::float32);
            Tensor mask({s.L, s.S}, DType::boolean), both({s.L, s.S}, DType::boolean);
            for (Index i = 0; i < mask.size(); ++i) {
                mask.set(i, i % 4 != 0);
                both.set(i, i % 4 != 0 && i % s.S <= i / s.S + 10);
            }
            Options options = masked(mask);
            options.causal = Causal::lower_right;
            if (!takes(*tier, x.query, x.key, x.value, options)) continue;
            const Output got = run(*tier, x.query, x.key, x.value, options);
            expect_right(*tier, got, reference(x.query, x.key, x.value, masked(both)));
            // Neither alone gives this: dropping one cannot pass.
            for (const Options& half : {masked(mask), causal(Causal::lower_right)})
                CHECK_FALSE(judge(got.out.view, reference(x.query, x.key, x.value, half),
                                  {*tier, DType::float32})
                                .ok());
        }
    }
}

TEST_CASE("every tier reads the mask of each batch and of each call anew") {
    // Tiles of 64 x 64 that are hidden, visible and mixed, others in each batch. A tier may keep what
    // it found for the next head, but not for the next batch or call: `poison` fills its memory.
    const Sizes s{2, 4, 2, 150, 200, 16, 10};
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
            for (bool boolean : {true, false})
                for (Causal rule : {Causal::none, Causal::lower_right}) {
                    const std::string name = std::string(attn::name_of(dtype)) +
                                             (boolean ? " boolean" : " additive") +
                                             (rule == Causal::none ? "" : " causal");
                    SUBCASE(subcase(tier, name).c_str()) {
                        const Qkv x = generate("gauss", s, 40, dtype);
                        Tensor mask({s.B, 1, s.L, s.S}, DType::boolean);
                        for (Index n = 0; n < mask.size(); ++n) {
                            const Index b = n / (s.L * s.S), i = n / s.S % s.L, j = n % s.S;
                            const Index kind = (i / 64 + 2 * (j / 64) + b) % 3;
                            mask.set(n, kind == 0 ? 0 : kind == 1 ? 1 : (i + j) % 3 != 0);
                        }
                        const Tensor bias = additive(mask, DType::float32);
                        Options options = masked(boolean ? mask.view() : bias.view());
                        options.causal = rule;
                        if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                        const Output got = run(*tier, x.query, x.key, x.value, options);
                        expect_right(*tier, got, reference(x.query, x.key, x.value, options));
                        for (unsigned char byte : {0, 1, 2, 3}) {
                            // Cover::none and Cover::all of `simd`: what is believed without a look.
                            if (small_scale() && byte != 1 && byte != 2) continue;
                            expect_same_bits(
                                *tier, got,
                                run(*tier, x.query, x.key, x.value, options, {.poison = byte}));
                        }
                    }
                }
}

TEST_CASE("every tier follows a mask over tens of thousands of keys") {
    // More than 512 tiles of 64 keys, few of them visible: what a tier remembers of tiles that lie
    // ahead, it must forget in time.
    const Sizes s{1, 2, 2, 70, small_scale() ? 3000 : 36000, 16, 8};
    for (const Tier* tier : tiers_under_test()) SUBCASE(subcase(tier, "boolean").c_str()) {
            const Qkv x = generate("gauss", s, 41, DType::float16);
            Tensor mask({s.L, s.S}, DType::boolean);
            for (Index n = 0; n < mask.size(); ++n) {
                const Index i = n / s.S, j = n % s.S;
                mask.set(n, (j / 64 + i / 64) % 37 == 5 && (i + j) % 3 != 0);
            }
            const Options options = masked(mask);
            if (!takes(*tier, x.query, x.key, x.value, options)) continue;
            expect_right(*tier, run(*tier, x.query, x.key, x.value, options),
                         reference(x.query, x.key, x.value, options));
        }
}

TEST_CASE("every tier follows a mask whose tiles differ from one 64 rows to the next") {
    // What some rows of a block must visit, others must pass: more tiles in turn than a kernel keeps at
    // once, none at all, or with a gap. And a value that is not finite, of which only some may know.
    struct Kind {
        Index E;
        DType dtype;
        Causal rule;
    };
    const bool small = small_scale();
    const auto sees = [](Index i, Index j) {
        const Index rows = i / 64 % 5, tile = j / 64;
        return rows == 0   ? tile % 9 == 4
               : rows == 1 ? (i + j) % 3 != 0
               : rows == 3 ? tile < 3 || tile >= 9
                           : rows == 4;
    };
    for (const Tier* tier : tiers_under_test())
        for (const auto& [E, dtype, rule] :
             {Kind{small ? 8 : 64, DType::float16, Causal::none},
              {small ? 16 : 128, DType::bfloat16, Causal::lower_right}}) {
            const std::string name =
                "E=" + std::to_string(E) + " " + std::string(attn::name_of(dtype));
            SUBCASE(subcase(tier, name).c_str()) {
                const Sizes s{1, 2, 1, small ? 330 : 400, small ? 700 : 1700, E, E};
                Qkv x = generate("gauss", s, 43, dtype);
                Tensor mask({s.L, s.S}, DType::boolean);
                for (Index n = 0; n < mask.size(); ++n) mask.set(n, sees(n / s.S, n % s.S));
                Options options = masked(mask);
                options.causal = rule;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                const Output clean = run(*tier, x.query, x.key, x.value, options);
                expect_right(*tier, clean, reference(x.query, x.key, x.value, options));
                // Hidden from rows 128 to 255, seen by rows 0 to 63 and by others.
                x.value.set((4 * 64 + 1) * s.Ev, std::numeric_limits<double>::quiet_NaN());
                const Output got = run(*tier, x.query, x.key, x.value, options);
                const auto rows_of = [](const Output& from, Index first, Index count) {
                    TensorView view = from.out.view;
                    view.data = static_cast<const char*>(view.data) +
                                first * view.stride[2] * static_cast<Index>(size_of(view.dtype));
                    view.shape[2] = count;
                    return view;
                };
                CHECK(first_difference(rows_of(clean, 128, 128), rows_of(got, 128, 128)) == -1);
                CHECK(first_difference(rows_of(clean, 0, 1), rows_of(got, 0, 1)) != -1);
            }
        }
}
