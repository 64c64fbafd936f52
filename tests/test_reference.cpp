/// \file
/// \brief Who judges the judge: `literal` in double against an independent function in long double,
///        on every case, and against values that PyTorch computed.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

struct Golden {
    const char* name;
    Sizes sizes;
    bool causal;
    double scale;  ///< 0: the default
    std::vector<double> boolean, additive, query, key, value, out;
};

const Golden goldens[] = {
#include "goldens.inc"
};

Tensor tensor(std::initializer_list<Index> shape, const std::vector<double>& values) {
    Tensor t(shape, DType::float64);
    REQUIRE(t.size() == static_cast<Index>(values.size()));
    for (Index i = 0; i < t.size(); ++i) t.set(i, values[static_cast<std::size_t>(i)]);
    return t;
}

}  // namespace

TEST_CASE("the literal tier agrees with an independent long double function on every case") {
    const Tier& literal = *find_tier("literal");
    for (Case c : cases()) {
        if (!c.quick || flops(c.sizes) > 6e6) continue;
        SUBCASE(c.name.c_str()) {
            c.dtype = DType::float64;
            const Inputs in = make_inputs(c);
            expect_right(literal, run(literal, in, {.layout = c.layout}),
                         reference(in.query.view, in.key.view, in.value.view, in.options));
        }
    }
}

TEST_CASE("the reference of float32 inputs is that of their widened copies") {
    for (const Case& c : cases()) {
        if (!c.quick || c.dtype == DType::float64 || flops(c.sizes) > 1e6) continue;
        SUBCASE(c.name.c_str()) {
            const Inputs in = make_inputs(c);
            const Reference narrow =
                reference(in.query.view, in.key.view, in.value.view, in.options);
            const Tensor mask = c.mask.kind == MaskKind::none ? Tensor() : widened(in.mask.view);
            Options options = in.options;
            if (c.mask.kind != MaskKind::none) options.mask = mask;
            const Reference wide = reference(widened(in.query.view), widened(in.key.view),
                                             widened(in.value.view), options);
            REQUIRE(narrow.out.size() == wide.out.size());
            Index wrong = 0;
            for (std::size_t i = 0; i < wide.out.size(); ++i) {
                // literal's own double errors, far below what any float32 tier may make
                const double A = wide.score_size[i / wide.Ev], W = wide.value_size[i];
                if (!(std::abs(narrow.out[i] - wide.out[i]) <=
                      0x1p-53 * (16 + 8 * A) * W + 1e-300L))
                    ++wrong;
                // A and W are sums of positive numbers: equal up to rounding.
                if (!(std::abs(narrow.value_size[i] - W) <= 1e-9 * W)) ++wrong;
                if (!(std::abs(narrow.score_size[i / wide.Ev] - A) <= 1e-12 * A)) ++wrong;
            }
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE("every tier agrees with values that PyTorch computed") {
    for (const Tier* tier : tiers_under_test())
        for (const Golden& g : goldens) {
            SUBCASE(subcase(tier, g.name).c_str()) {
                const Sizes& s = g.sizes;
                // The inputs are exact in float32 and float16 as well.
                for (DType dtype : {DType::float64, DType::float32, DType::float16}) {
                    const Tensor query = tensor({s.B, s.Hq, s.L, s.E}, g.query).to(dtype);
                    const Tensor key = tensor({s.B, s.H, s.S, s.E}, g.key).to(dtype);
                    const Tensor value = tensor({s.B, s.H, s.S, s.Ev}, g.value).to(dtype);
                    Options options;
                    if (g.causal) options.causal = Causal::upper_left;
                    if (g.scale != 0) options.scale = g.scale;
                    Tensor mask;
                    if (!g.boolean.empty()) mask = tensor({s.L, s.S}, g.boolean).to(DType::boolean);
                    if (!g.additive.empty()) mask = tensor({s.L, s.S}, g.additive).to(dtype);
                    if (!g.boolean.empty() || !g.additive.empty()) options.mask = mask;
                    if (!takes(*tier, query, key, value, options)) continue;
                    Reference want = reference(query, key, value, options);
                    want.out.assign(g.out.begin(), g.out.end());  // PyTorch's, with our bound
                    const Output got = run(*tier, query, key, value, options);
                    // Twice the bound: PyTorch's float64 has an error of its own.
                    const double twice = dtype == DType::float64 ? 0x1p-53 * 200 : 0;
                    Allowance allowance(*tier, dtype);
                    allowance.weight_error += twice;
                    const Verdict v = judge(got.out.view, want, allowance);
                    CAPTURE(std::string(attn::name_of(dtype)));
                    CHECK_MESSAGE(v.ok(), text_of(v));
                }
            }
        }
}
