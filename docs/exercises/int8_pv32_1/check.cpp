#include "../counting.hpp"

#include <algorithm>
#include <cmath>
#include <random>

namespace attn::exercises {

float quantize(const float* x, int count, int* q);

namespace {
Answer within_half_a_step(const std::string& name, const std::vector<float>& x) {
    std::vector<int> q(x.size(), 1000);
    const double scale =
        static_cast<double>(quantize(x.data(), static_cast<int>(x.size()), q.data()));
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (q[i] < -127 || q[i] > 127) return claim(name, false, "an integer is beyond 127");
        worst = std::max(worst, std::abs(scale * q[i] - static_cast<double>(x[i])));
    }
    return claim(name, worst <= 0.50001 * scale,
                 "off by " + std::to_string(worst / scale) + " steps");
}
}  // namespace

std::vector<Answer> check() {
    std::mt19937 random(1);
    std::vector<float> many(1000);
    for (float& x : many) x = static_cast<float>(random() % 20001) / 1000 - 10;
    return {within_half_a_step("normal inputs", many),
            within_half_a_step("a constant", {-3.5f, -3.5f, -3.5f}),
            within_half_a_step("all zero", {0.0f, 0.0f, 0.0f, 0.0f})};
}

}  // namespace attn::exercises
