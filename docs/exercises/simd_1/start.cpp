// Broken: lanes beyond the last key weigh as if their score were 0.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

/// Keys lie across lanes: `score` holds one register of them at a time, and every loop over `lanes`
/// below is one instruction once a compiler has seen it.
void attend(const Head& head) {
    constexpr Index lanes = 8;
    float* acc = head.scratch->take(head.Ev);  // (Ev): sum of weight * value
    for (Index i = 0; i < head.L; ++i) {
        float max = minus_infinity, sum = 0;
        std::fill_n(acc, head.Ev, 0.0f);
        for (Index first = 0; first < head.S; first += lanes) {
            const Index count = std::min(lanes, head.S - first);
            float score[lanes] = {};
            for (Index n = 0; n < count; ++n)
                score[n] = head.visible(i, first + n) ? head.score(i, first + n) : minus_infinity;

            const float grown = std::max(max, *std::max_element(score, score + lanes));
            if (grown == minus_infinity) continue;
            const float shrink = std::exp(max - grown);
            max = grown;
            float weight[lanes];
            for (Index n = 0; n < lanes; ++n) weight[n] = std::exp(score[n] - max);
            sum *= shrink;
            for (Index n = 0; n < lanes; ++n) sum += weight[n];
            for (Index e = 0; e < head.Ev; ++e) acc[e] *= shrink;
            for (Index n = 0; n < count; ++n)
                for (Index e = 0; weight[n] != 0 && e < head.Ev; ++e)
                    acc[e] += weight[n] * head.value[(first + n) * head.Ev + e];
        }
        for (Index e = 0; e < head.Ev; ++e) head.out[i * head.Ev + e] = sum == 0 ? 0 : acc[e] / sum;
        head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
    }
}

}  // namespace attn::exercises
