/// \file
/// \brief Inputs of a real model: what its layer computed, every tier computes within its bound.
#include "harness.hpp"

#include "npy.hpp"

using namespace attn;
using namespace attn::testing;

TEST_CASE("every tier agrees on inputs captured from a real model") {
    const std::string folder = std::string(ATTN_SOURCE_DIR) + "/tests/data/";
    const Tensor query = read_npy(folder + "query.npy");  // (1, 12, 398, 32)
    const Tensor key = read_npy(folder + "key.npy");
    const Tensor value = read_npy(folder + "value.npy");
    REQUIRE(query.rank() == 4);
    for (Causal causal : {Causal::none, Causal::lower_right}) {
        Options options;
        options.causal = causal;
        for (DType dtype : {DType::float16, DType::float32}) {
            // Heads of a real model differ: all of them once.
            const bool as_stored = causal == Causal::none && dtype == DType::float16;
            const Index heads = small_scale() ? 1 : as_stored ? 12 : 4;
            const Tensor q = query.to(dtype), k = key.to(dtype), v = value.to(dtype);
            const auto first = [&](const Tensor& t) { return slice(t.view(), 1, 0, heads); };
            for (const Tier* tier : tiers_under_test()) {
                const std::string name = std::string(attn::name_of(dtype)) +
                                         (causal == Causal::none ? " all keys" : " causal");
                SUBCASE(subcase(tier, name).c_str()) {
                    if (!takes(*tier, first(q), first(k), first(v), options)) continue;
                    expect_right(*tier, run(*tier, first(q), first(k), first(v), options),
                                 reference(first(q), first(k), first(v), options));
                }
            }
        }
    }
}
