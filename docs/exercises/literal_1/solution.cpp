#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    float* weight = head.scratch->take(head.S);  // (S), first the scores
    for (Index i = 0; i < head.L; ++i) {
        float max = minus_infinity;
        for (Index j = 0; j < head.S; ++j) {
            weight[j] = head.visible(i, j) ? head.score(i, j) : minus_infinity;
            max = std::max(max, weight[j]);
        }
        float sum = 0;
        for (Index j = 0; j < head.S; ++j) {
            // A row without keys has max = -inf as well, and -inf - -inf would be NaN.
            weight[j] = weight[j] == minus_infinity ? 0 : std::exp(weight[j] - max);
            sum += weight[j];
        }
        for (Index e = 0; e < head.Ev; ++e) {
            float mean = 0;
            for (Index j = 0; j < head.S; ++j)
                if (weight[j] != 0) mean += weight[j] * head.value[j * head.Ev + e];
            head.out[i * head.Ev + e] = sum == 0 ? 0 : mean / sum;
        }
        head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
    }
}

}  // namespace attn::exercises
