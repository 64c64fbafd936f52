// Broken: forms the transposed K and keeps scores, weights and probabilities apart.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    const Index L = head.L, S = head.S, E = head.E, Ev = head.Ev;
    float* transposed = head.scratch->take(E * S);   // (E, S)
    float* score = head.scratch->take(L * S);        // (L, S)
    float* weight = head.scratch->take(L * S);       // (L, S)
    float* probability = head.scratch->take(L * S);  // (L, S)

    for (Index j = 0; j < S; ++j)
        for (Index e = 0; e < E; ++e) transposed[e * S + j] = head.key[j * E + e];
    for (Index i = 0; i < L; ++i)
        for (Index j = 0; j < S; ++j) {
            float dot = 0;
            for (Index e = 0; e < E; ++e) dot += head.query[i * E + e] * transposed[e * S + j];
            score[i * S + j] = head.visible(i, j) ? head.scale * dot : minus_infinity;
        }
    for (Index i = 0; i < L; ++i) {
        const float max = *std::max_element(score + i * S, score + (i + 1) * S);
        float sum = 0;
        for (Index j = 0; j < S; ++j) {
            const bool none = score[i * S + j] == minus_infinity;
            weight[i * S + j] = none ? 0 : std::exp(score[i * S + j] - max);
            sum += weight[i * S + j];
        }
        for (Index j = 0; j < S; ++j)
            probability[i * S + j] = sum == 0 ? 0 : weight[i * S + j] / sum;
        head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
    }
    for (Index i = 0; i < L; ++i)
        for (Index e = 0; e < Ev; ++e) {
            float mean = 0;
            for (Index j = 0; j < S; ++j)
                if (probability[i * S + j] != 0)
                    mean += probability[i * S + j] * head.value[j * Ev + e];
            head.out[i * Ev + e] = mean;
        }
}

}  // namespace attn::exercises
