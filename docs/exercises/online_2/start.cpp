// Broken: two halves are merged by their mean.
#include "exercise.hpp"

#include <algorithm>

namespace attn::exercises {
namespace {

/// Row i against keys first .. end - 1 alone. Given, and right.
/// \param out  (Ev)
/// \return logsumexp
float half(const Head& head, Index i, Index first, Index end, float* out) {
    float max = minus_infinity, sum = 0;
    for (Index j = first; j < end; ++j)
        if (head.visible(i, j)) max = std::max(max, head.score(i, j));
    std::fill_n(out, head.Ev, 0.0f);
    for (Index j = first; j < end; ++j) {
        if (!head.visible(i, j)) continue;
        const float weight = std::exp(head.score(i, j) - max);
        sum += weight;
        for (Index e = 0; e < head.Ev; ++e) out[e] += weight * head.value[j * head.Ev + e];
    }
    for (Index e = 0; e < head.Ev && sum != 0; ++e) out[e] /= sum;
    return sum == 0 ? minus_infinity : max + std::log(sum);
}

/// Merges two halves of a row into `out`, (Ev).
/// \return the logsumexp of both together
float merge(const float* out_a, float lse_a, const float* out_b, float lse_b, Index Ev,
            float* out) {
    for (Index e = 0; e < Ev; ++e) out[e] = (out_a[e] + out_b[e]) / 2;
    return (lse_a + lse_b) / 2;
}

}  // namespace

void attend(const Head& head) {
    float* a = head.scratch->take(head.Ev);  // (Ev)
    float* b = head.scratch->take(head.Ev);  // (Ev)
    for (Index i = 0; i < head.L; ++i) {
        const float lse_a = half(head, i, 0, head.S / 2, a);
        const float lse_b = half(head, i, head.S / 2, head.S, b);
        head.logsumexp[i] = merge(a, lse_a, b, lse_b, head.Ev, head.out + i * head.Ev);
    }
}

}  // namespace attn::exercises
