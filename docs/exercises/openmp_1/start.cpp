// Broken: working memory for every row.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {
namespace {

constexpr Index tile = 16, workers = 3;

/// Row i, tile by tile. Given, and right.
/// \param score  (tile)
/// \param acc    (Ev)
void attend_row(const Head& head, Index i, float* score, float* acc) {
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
        if (grown == minus_infinity) continue;
        const float shrink = std::exp(max - grown);
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

}  // namespace

void attend(const Head& head) {
    const Index floats = tile + head.Ev;
    float* scratch = head.scratch->take(head.L * floats);  // (L, tile + Ev)
#pragma omp parallel for num_threads(workers)
    for (Index worker = 0; worker < workers; ++worker)
        for (Index i = worker; i < head.L; i += workers) {
            float* own = scratch + i * floats;
            attend_row(head, i, own, own + tile);
        }
}

}  // namespace attn::exercises
