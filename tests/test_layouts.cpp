/// \file
/// \brief How tensors lie in memory changes nothing: strides, ranks, aliased inputs.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

const Sizes shapes[] = {
    // B  Hq H  L   S   E   Ev
    {2, 3, 3, 9, 33, 16, 16}, {2, 4, 2, 17, 20, 40, 24}, {1, 2, 1, 1, 70, 64, 64},
    {3, 2, 2, 5, 1, 7, 1},    {1, 1, 1, 34, 65, 72, 33},
};

}  // namespace

TEST_CASE("every tier computes strided views as it computes their contiguous copies") {
    for (const Tier* tier : tiers_under_test())
        for (Layout layout : layouts)
            for (DType dtype : dtypes) {
                const std::string name = std::string(name_of(layout)) + " " + attn::name_of(dtype);
                SUBCASE(subcase(tier, name).c_str()) {
                    for (const Sizes& sizes : shapes)
                        for (int kind = 0; kind < 3; ++kind) {
                            Case c;
                            c.sizes = sizes;
                            c.dtype = dtype;
                            c.layout = layout;
                            c.mask.kind = static_cast<MaskKind>(kind);
                            c.seed = 40;
                            Inputs in = make_inputs(c);
                            if (!takes(*tier, in)) continue;
                            const Output got = run(*tier, in, {.layout = layout});
                            in.query = laid_copy(in.query.view, Layout::contiguous);
                            in.key = laid_copy(in.key.view, Layout::contiguous);
                            in.value = laid_copy(in.value.view, Layout::contiguous);
                            if (kind) {
                                in.mask = laid_copy(in.mask.view, Layout::contiguous);
                                in.options.mask = in.mask.view;
                            }
                            CAPTURE(shape_text(in.query.view));
                            CAPTURE(kind);
                            expect_same_bits(*tier, got, run(*tier, in));
                        }
                }
            }
}

TEST_CASE("every tier ignores the stride of an axis of size 1") {
    for (const Tier* tier : tiers_under_test())
        for (Index stride : {Index{0}, Index{3331333}, Index{-5}, Index{1} << 60}) {
            SUBCASE(subcase(tier, std::to_string(stride)).c_str()) {
                // Each axis in turn has size 1: B, Hq and H, L, S, E, Ev.
                for (int axis = 0; axis < 6; ++axis) {
                    Sizes s{2, 2, 2, 3, 4, 5, 6};
                    Index* const size[] = {&s.B, &s.Hq, &s.L, &s.S, &s.E, &s.Ev};
                    *size[axis] = 1;
                    if (axis == 1) s.H = 1;
                    const Qkv x = generate("gauss", s, 41, DType::float32);
                    Tensor mask({s.B, s.Hq, s.L, s.S}, DType::boolean);
                    for (Index i = 0; i < mask.size(); ++i) mask.set(i, i % 5 != 2);
                    const auto odd = [&](TensorView view) {
                        for (int a = 0; a < 4; ++a)
                            if (view.shape[a] == 1) view.stride[a] = stride;
                        return view;
                    };
                    Options options, strange;
                    options.mask = mask, strange.mask = odd(mask);
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    CAPTURE(axis);
                    expect_same_bits(*tier, run(*tier, x.query, x.key, x.value, options),
                                     run(*tier, odd(x.query), odd(x.key), odd(x.value), strange));
                }
            }
        }
}

TEST_CASE("every tier takes one tensor as query and key and value") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Tensor x = random_normal({2, 2, 19, 24}, 42, dtype);
                const Tensor q = x.to(dtype), k = x.to(dtype), v = x.to(dtype);
                if (!takes(*tier, x, x, x)) continue;
                expect_same_bits(*tier, run(*tier, x, x, x), run(*tier, q, k, v));
            }
        }
}

TEST_CASE("every tier takes ranks 2 and 3 and 5 for the rank 4 they are") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "ranks").c_str()) {
            const Qkv x = generate("gauss", {6, 4, 2, 5, 11, 8, 7}, 43, DType::float32);
            Tensor mask({6, 4, 5, 11}, DType::boolean);
            for (Index i = 0; i < mask.size(); ++i) mask.set(i, i % 7 != 3);
            Options options;
            options.mask = mask;
            options.causal = Causal::lower_right;
            if (!takes(*tier, x.query, x.key, x.value, options)) continue;
            const Output want = run(*tier, x.query, x.key, x.value, options);
            Execution execution;
            execution.tier = tier->name;

            // The last `rank` axes of batch 4, and for rank 2 of a query head and its key head.
            const auto last = [](auto view, int rank, Index head) {
                view = slice(view, 0, 4, 5);
                if (rank == 2) view = slice(view, 1, head, head + 1);
                auto less = view;
                less.rank = rank;
                for (int a = 0; a < rank; ++a) {
                    less.shape[a] = view.shape[view.rank - rank + a];
                    less.stride[a] = view.stride[view.rank - rank + a];
                }
                return less;
            };
            for (int rank : {2, 3}) {
                Options here = options;
                here.mask = last(mask.view(), rank, 3);
                const Tensor got = scaled_dot_product_attention(
                    last(x.query.view(), rank, 3), last(x.key.view(), rank, 1),
                    last(x.value.view(), rank, 1), here, execution);
                CAPTURE(rank);
                CHECK(got.rank() == rank);
                CHECK(first_difference(got, last(want.out.view, rank, 3)) == -1);
            }

            // B = 6 as (2, 3): once contiguous, once with the two axes in the wrong order in
            // memory, (3, 2) transposed, so that they cannot be one axis.
            const auto two_batch_axes = [](auto view, bool transposed) {
                auto more = view;
                more.rank = 5;
                more.shape[0] = 2, more.shape[1] = 3;
                more.stride[0] = view.stride[0] * (transposed ? 1 : 3);
                more.stride[1] = view.stride[0] * (transposed ? 2 : 1);
                for (int a = 1; a < 4; ++a)
                    more.shape[a + 1] = view.shape[a], more.stride[a + 1] = view.stride[a];
                return more;
            };
            for (bool transposed : {false, true}) {
                Options here = options;
                here.mask = two_batch_axes(mask.view(), transposed);
                Tensor lse({2, 3, 4, 5});
                Execution with = execution;
                if (tier->limits.logsumexp) with.logsumexp = lse;
                const Tensor got = scaled_dot_product_attention(
                    two_batch_axes(x.query.view(), transposed),
                    two_batch_axes(x.key.view(), transposed),
                    two_batch_axes(x.value.view(), transposed), here, with);
                CAPTURE(transposed);
                REQUIRE(got.rank() == 5);
                CHECK(first_difference(got, two_batch_axes(want.out.view, transposed)) == -1);
                for (Index b = 0; tier->limits.logsumexp && b < 6; ++b)
                    for (Index row = 0; row < 20; ++row) {
                        const Index at = transposed ? b % 3 * 2 + b / 3 : b;
                        const auto whole = values(want.logsumexp.view);
                        CHECK(static_cast<float>(lse.get(b * 20 + row)) ==
                              static_cast<float>(whole[at * 20 + row]));
                    }
                expect_right(
                    *tier,
                    {{Tensor(),
                      MutableTensorView(const_cast<void*>(got.data()), got.dtype(), got.shape())},
                     {Tensor(), tier->limits.logsumexp ? lse.view() : MutableTensorView()}},
                    reference(two_batch_axes(x.query.view(), transposed),
                              two_batch_axes(x.key.view(), transposed),
                              two_batch_axes(x.value.view(), transposed), here));
            }

            // A mask of rank 5 that repeats over one batch axis, and one of rank 3.
            for (int rank : {5, 3}) {
                Options here = options;
                TensorView m = two_batch_axes(mask.view(), false);
                m.stride[0] = 0;
                if (rank == 3) m = last(mask.view(), 3, 0);
                here.mask = m;
                const TensorView q = two_batch_axes(x.query.view(), true),
                                 k = two_batch_axes(x.key.view(), true),
                                 v = two_batch_axes(x.value.view(), true);
                Tensor got = scaled_dot_product_attention(q, k, v, here, execution);
                const Verdict verdict =
                    judge(got.view(), reference(q, k, v, here), {*tier, DType::float32});
                CHECK_MESSAGE(verdict.ok(), text_of(verdict));
            }
        }
    }
}
