// Left out: the maximum is not subtracted before exp.
#include "exercise.hpp"

namespace attn::exercises {

void attend(const Head& head) {
    float* weight = head.scratch->take(head.S);  // (S)
    for (Index i = 0; i < head.L; ++i) {
        float sum = 0;
        for (Index j = 0; j < head.S; ++j) {
            weight[j] = head.visible(i, j) ? std::exp(head.score(i, j)) : 0;
            sum += weight[j];
        }
        for (Index e = 0; e < head.Ev; ++e) {
            float mean = 0;
            for (Index j = 0; j < head.S; ++j)
                if (weight[j] != 0) mean += weight[j] * head.value[j * head.Ev + e];
            head.out[i * head.Ev + e] = sum == 0 ? 0 : mean / sum;
        }
        head.logsumexp[i] = std::log(sum);
    }
}

}  // namespace attn::exercises
