// Broken: the polynomial of the exponential ends after the third power.
#include "exercise.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace attn::exercises {
namespace {

/// exp(x) for x <= 0 as 2^n * 2^r, n an integer: no branch and no table, so it fits into lanes.
float fast_exp(float x) {
    const float y = std::max(x * 1.44269504f, -127.0f);  // log2(e); below, nothing is left
    const float n = std::nearbyint(y);
    const float t = (y - n) * 0.69314718f;  // ln(2) r, in [-0.35, 0.35]
    const float polynomial = 1 + t * (1 + t * (1 / 2.0f + t * (1 / 6.0f)));
    const float power = std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);  // 2^n
    return polynomial * power;
}

}  // namespace

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
            weight[j] = weight[j] == minus_infinity ? 0 : fast_exp(weight[j] - max);
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
