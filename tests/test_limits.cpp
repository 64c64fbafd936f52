/// \file
/// \brief What a tier says it does not take is refused, with the tier, the limit and the value; all
///        else is taken.
#include "harness.hpp"

using namespace attn;
using namespace attn::testing;

TEST_CASE("the limits of a tier are refused with the limit and the value") {
    for (const Tier* tier : tiers()) {
        if (!tier->available().ok) continue;
        CAPTURE(std::string(tier->name));
        const Limits& can = tier->limits;
        const auto refusal = [&](const Sizes& s, DType dtype, const Options& options) {
            const Qkv x = generate("gauss", s, 90, dtype);
            Tensor out({s.B, s.Hq, s.L, s.Ev}, dtype);
            Execution execution;
            execution.tier = tier->name;
            return check(x.query, x.key, x.value, out, options, execution);
        };
        const Sizes small{1, 2, 2, 3, 5, 8, 8};
        DType taken = DType::float32;
        for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
            const Check asked = refusal(small, dtype, {});
            CHECK(static_cast<bool>(asked) == can.dtypes.has(dtype));
            if (asked)
                taken = dtype;
            else
                CHECK(asked.message.find(attn::name_of(dtype)) != std::string::npos);
        }
        const auto expect = [&](const Check& asked, bool able, const char* word) {
            CHECK(static_cast<bool>(asked) == able);
            if (able) return;
            CHECK(asked.error == ErrorCode::unsupported);
            CHECK(asked.message.find(tier->name) != std::string::npos);
            CHECK(asked.message.find(word) != std::string::npos);
        };
        Options options;
        options.causal = Causal::upper_left;
        expect(refusal(small, taken, options), can.causal, "causal");
        options = {};
        const Tensor boolean({3, 5}, DType::boolean), bias({3, 5}, DType::float32);
        options.mask = boolean;
        expect(refusal(small, taken, options), can.boolean_mask, "boolean");
        options.mask = bias;
        expect(refusal(small, taken, options), can.additive_mask, "additive");
        expect(refusal({1, 4, 2, 3, 5, 8, 8}, taken, {}), can.grouped_heads, "Hq=4");
        if (can.max_head_dim == 0) continue;
        const Index most = can.max_head_dim;
        expect(refusal({1, 1, 1, 3, 5, most, most}, taken, {}), true, "");
        expect(refusal({1, 1, 1, 3, 5, most + 1, 8}, taken, {}), false,
               std::to_string(most + 1).c_str());
        expect(refusal({1, 1, 1, 3, 5, 8, most + 1}, taken, {}), false,
               std::to_string(most).c_str());
    }
}
