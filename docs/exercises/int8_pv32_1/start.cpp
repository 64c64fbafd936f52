// Broken: cuts the fraction off, and divides by zero.
#include <algorithm>
#include <cmath>

namespace attn::exercises {

/// \param x  (count)
/// \param q  (count) from -127 to 127
/// \return the step
float quantize(const float* x, int count, int* q) {
    float amax = 0;
    for (int i = 0; i < count; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float scale = amax / 127;
    for (int i = 0; i < count; ++i) q[i] = static_cast<int>(x[i] / scale);
    return scale;
}

}  // namespace attn::exercises
