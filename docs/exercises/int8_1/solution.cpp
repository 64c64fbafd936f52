#include <cmath>

namespace attn::exercises {

/// \param weight  (S) from 0 to 1   \param value  (S)
double mean(const float* weight, const float* value, int S) {
    double sum = 0, total = 0;
    for (int j = 0; j < S; ++j) {
        const int q = static_cast<int>(std::nearbyint(weight[j] * 255));
        sum += q * static_cast<double>(value[j]);
        total += q;
    }
    return sum / total;
}

}  // namespace attn::exercises
