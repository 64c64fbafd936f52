#include "../counting.hpp"

#include <cmath>

namespace attn::exercises {

double mean(const float* weight, const float* value, int S);

namespace {
Answer constant(const std::string& name, float step, float value) {
    std::vector<float> weight(100), values(100, value);
    for (int j = 0; j < 100; ++j) weight[j] = j == 7 ? 1.0f : step * static_cast<float>(1 + j % 3);
    const double got = mean(weight.data(), values.data(), 100);
    return claim(name, std::abs(got - static_cast<double>(value)) <= 1e-6,
                 "the mean of a constant " + std::to_string(value) + " is " + std::to_string(got));
}
}  // namespace

std::vector<Answer> check() {
    return {constant("normal inputs", 0.1037f, 1.0f), constant("small weights", 0.0013f, -3.5f)};
}

}  // namespace attn::exercises
