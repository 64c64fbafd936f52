// Broken: holds all L rows of scores at once.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    const Index L = head.L, S = head.S, Ev = head.Ev;
    float* weight = head.scratch->take(L * S);  // (L, S): scores, then weights, then probabilities

    for (Index i = 0; i < L; ++i)
        for (Index j = 0; j < S; ++j)
            weight[i * S + j] = head.visible(i, j) ? head.score(i, j) : minus_infinity;
    for (Index i = 0; i < L; ++i) {
        float* row = weight + i * S;  // (S)
        const float max = *std::max_element(row, row + S);
        float sum = 0;
        for (Index j = 0; j < S; ++j) {
            row[j] = row[j] == minus_infinity ? 0 : std::exp(row[j] - max);
            sum += row[j];
        }
        for (Index j = 0; j < S; ++j) row[j] = sum == 0 ? 0 : row[j] / sum;
        head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
    }
    for (Index i = 0; i < L; ++i)
        for (Index e = 0; e < Ev; ++e) {
            float mean = 0;
            for (Index j = 0; j < S; ++j)
                if (weight[i * S + j] != 0) mean += weight[i * S + j] * head.value[j * Ev + e];
            head.out[i * Ev + e] = mean;
        }
}

}  // namespace attn::exercises
