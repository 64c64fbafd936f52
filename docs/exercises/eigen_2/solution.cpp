#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {

void attend(const Head& head) {
    constexpr Index panel = 16;
    const Index L = head.L, S = head.S, Ev = head.Ev;
    float* weight = head.scratch->take(panel * S);  // (panel, S)

    for (Index first = 0; first < L; first += panel) {
        const Index end = std::min(first + panel, L);
        for (Index i = first; i < end; ++i)
            for (Index j = 0; j < S; ++j)
                weight[(i - first) * S + j] =
                    head.visible(i, j) ? head.score(i, j) : minus_infinity;
        for (Index i = first; i < end; ++i) {
            float* row = weight + (i - first) * S;  // (S)
            const float max = *std::max_element(row, row + S);
            float sum = 0;
            for (Index j = 0; j < S; ++j) {
                row[j] = row[j] == minus_infinity ? 0 : std::exp(row[j] - max);
                sum += row[j];
            }
            for (Index j = 0; j < S; ++j) row[j] = sum == 0 ? 0 : row[j] / sum;
            head.logsumexp[i] = sum == 0 ? minus_infinity : max + std::log(sum);
        }
        for (Index i = first; i < end; ++i)
            for (Index e = 0; e < Ev; ++e) {
                const float* row = weight + (i - first) * S;  // (S)
                float mean = 0;
                for (Index j = 0; j < S; ++j)
                    if (row[j] != 0) mean += row[j] * head.value[j * Ev + e];
                head.out[i * Ev + e] = mean;
            }
    }
}

}  // namespace attn::exercises
