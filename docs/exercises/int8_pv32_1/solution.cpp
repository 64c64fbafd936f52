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
    for (int i = 0; i < count; ++i)
        q[i] = amax == 0 ? 0 : static_cast<int>(std::nearbyint(x[i] * (127 / amax)));
    return scale;
}

}  // namespace attn::exercises
