// Broken: rounds against the largest weight of the row.
#include <algorithm>
#include <cmath>

namespace attn::exercises {

constexpr int block = 64;

/// \param weight  (S) above 0   \param value  (S)
double mean(const float* weight, const float* value, int S) {
    double sum = 0, total = 0;
    for (int first = 0; first < S; first += block) {
        const int end = std::min(first + block, S);
        const float largest = *std::max_element(weight, weight + S);
        double block_sum = 0, block_total = 0;
        for (int j = first; j < end; ++j) {
            const int q = static_cast<int>(std::nearbyint(weight[j] / largest * 255));
            block_sum += q * static_cast<double>(value[j]);
            block_total += q;
        }
        sum += block_sum;
        total += block_total;
    }
    return sum / total;
}

}  // namespace attn::exercises
