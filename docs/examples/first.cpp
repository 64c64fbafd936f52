#include <attn/attn.hpp>

#include <cstdio>

int main() {
    const attn::Tensor query = attn::random_normal({2, 8, 64, 32}, 1);   // (B, Hq, L, E)
    const attn::Tensor key = attn::random_normal({2, 8, 100, 32}, 2);    // (B, H, S, E)
    const attn::Tensor value = attn::random_normal({2, 8, 100, 16}, 3);  // (B, H, S, Ev)
    for (const char* tier : {"literal", "eigen", "online", "auto"}) {
        const attn::Tensor out =  // (B, Hq, L, Ev)
            attn::scaled_dot_product_attention(query, key, value, {}, {.tier = tier});
        std::printf("%-8s out[0] = %+.8f\n", tier, out.get(0));
    }
}
