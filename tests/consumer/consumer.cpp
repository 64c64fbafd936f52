// Uses the installed library: two keys with equal scores, so each output is the mean of two values.
#include <attn/attn.hpp>
#include <cstdio>

int main() {
    const float query[] = {1, 2};            // (1, 2)
    const float key[] = {3, 4, 3, 4};        // (2, 2)
    const float value[] = {10, 20, 30, 60};  // (2, 2)
    float out[2];                            // (1, 2)
    attn::scaled_dot_product_attention(
        {query, attn::DType::float32, {1, 2}}, {key, attn::DType::float32, {2, 2}},
        {value, attn::DType::float32, {2, 2}}, {out, attn::DType::float32, {1, 2}});
    std::printf("%zu tiers, out = %g %g\n", attn::tiers().size(), out[0], out[1]);
    return attn::tiers().size() >= 3 && out[0] == 20 && out[1] == 40 ? 0 : 1;
}
