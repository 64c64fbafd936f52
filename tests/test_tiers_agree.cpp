/// \file
/// \brief Swap the tier, keep the test: each one is held to the same reference and the same derived
///        bound, on the whole list of cases.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

/// The reference of the case that was asked for last: tiers follow each other on the same case.
const Reference& reference_of(const Case& c, const Inputs& in) {
    static std::string name;
    static Reference kept;
    if (name != c.name) {
        kept = reference(in.query.view, in.key.view, in.value.view, in.options);
        name = c.name;
    }
    return kept;
}

}  // namespace

TEST_CASE("every tier agrees with the reference") {
    const std::vector<const Tier*> list = tiers_under_test();
    for (const Case& c : cases()) {
        if (!c.quick) continue;
        for (const Tier* tier : list) {
            SUBCASE(subcase(tier, c.name).c_str()) {
                const Inputs in = make_inputs(c);
                if (!takes(*tier, in)) continue;
                CAPTURE(shape_text(in.query.view));
                CAPTURE(shape_text(in.key.view));
                CAPTURE(std::string(attn::name_of(c.dtype)));
                CAPTURE(std::string(name_of(c.layout)));
                expect_right(*tier, run(*tier, in, {.layout = c.layout}), reference_of(c, in));
            }
        }
    }
}

TEST_CASE("the list of cases covers every size and layout and mask and dtype") {
    if (small_scale()) return;  // the short list promises less
    std::vector<Index> L, S, E, Ev;
    int with[5][7][3][3] = {};  // dtype, layout, mask kind, causal
    for (const Case& c : cases()) {
        if (!c.quick) continue;
        L.push_back(c.sizes.L), S.push_back(c.sizes.S);
        E.push_back(c.sizes.E), Ev.push_back(c.sizes.Ev);
        ++with[static_cast<int>(c.dtype)][static_cast<int>(c.layout)][static_cast<int>(c.mask.kind)]
              [static_cast<int>(c.causal)];
    }
    const auto has = [](const std::vector<Index>& sizes, Index size) {
        return std::find(sizes.begin(), sizes.end(), size) != sizes.end();
    };
    for (Index size : detail::edges) CHECK((has(L, size) && has(S, size)));
    for (Index size : detail::head_dims) CHECK((has(E, size) && has(Ev, size)));
    for (int layout = 0; layout < 7; ++layout)
        for (int kind = 0; kind < 3; ++kind) {
            int count = 0;
            for (int dtype = 0; dtype < 4; ++dtype)
                for (int causal = 0; causal < 3; ++causal)
                    count += with[dtype][layout][kind][causal];
            CAPTURE(layout);
            CAPTURE(kind);
            CHECK(count > 0);
        }
    for (int dtype = 0; dtype < 4; ++dtype)
        for (int causal = 0; causal < 3; ++causal) {
            int count = 0;
            for (int layout = 0; layout < 7; ++layout)
                for (int kind = 0; kind < 3; ++kind) count += with[dtype][layout][kind][causal];
            CAPTURE(dtype);
            CAPTURE(causal);
            CHECK(count > 0);
        }
}
