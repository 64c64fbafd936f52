// Broken: masks by adding a large number instead of selecting.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    float* weight = head.scratch->take(head.S);  // (S), first the scores
    for (Index i = 0; i < head.L; ++i) {
        float max = minus_infinity;
        for (Index j = 0; j < head.S; ++j) {
            weight[j] = head.score(i, j) + (head.visible(i, j) ? 0 : -1e9f);
            max = std::max(max, weight[j]);
        }
        float sum = 0;
        for (Index j = 0; j < head.S; ++j) {
            weight[j] = std::exp(weight[j] - max);
            sum += weight[j];
        }
        for (Index e = 0; e < head.Ev; ++e) {
            float mean = 0;
            for (Index j = 0; j < head.S; ++j) mean += weight[j] * head.value[j * head.Ev + e];
            head.out[i * head.Ev + e] = mean / sum;
        }
        head.logsumexp[i] = max + std::log(sum);
    }
}

}  // namespace attn::exercises
