#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    constexpr Index tile = 16;
    float* score = head.scratch->take(tile);   // (tile)
    float* acc = head.scratch->take(head.Ev);  // (Ev): sum of weight * value
    for (Index i = 0; i < head.L; ++i) {
        float max = minus_infinity, sum = 0;
        std::fill_n(acc, head.Ev, 0.0f);
        for (Index first = 0; first < head.S; first += tile) {
            const Index count = std::min(tile, head.S - first);
            float grown = max;
            for (Index j = 0; j < count; ++j) {
                const bool visible = head.visible(i, first + j);
                score[j] = visible ? head.score(i, first + j) : minus_infinity;
                grown = std::max(grown, score[j]);
            }
            if (grown == minus_infinity) continue;  // nothing visible yet

            const float shrink = std::exp(max - grown);  // 0 on the first visible tile
            max = grown;
            sum *= shrink;
            for (Index e = 0; e < head.Ev; ++e) acc[e] *= shrink;
            for (Index j = 0; j < count; ++j) {
                const float weight = std::exp(score[j] - max);
                if (weight == 0) continue;
                sum += weight;
                for (Index e = 0; e < head.Ev; ++e)
                    acc[e] += weight * head.value[(first + j) * head.Ev + e];
            }
        }
        for (Index e = 0; e < head.Ev; ++e) head.out[i * head.Ev + e] = sum == 0 ? 0 : acc[e] / sum;
        head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
    }
}

}  // namespace attn::exercises
