#include "../counting.hpp"

#include <cmath>

namespace attn::exercises {

double mean(const float* weight, const float* value, int S);

namespace {
Answer near(const std::string& name, float others) {
    constexpr int S = 1024;
    std::vector<float> weight(S, others), value(S, 1.0f);
    weight[300] = 1, value[300] = 0;
    const double rest = (S - 1) * static_cast<double>(others), want = rest / (rest + 1);
    const double got = mean(weight.data(), value.data(), S);
    // One in sixteen of the others may be lost: those in the block of the sink.
    return claim(name, std::abs(got - want) <= 0.05 * want,
                 "the mean is " + std::to_string(got) + " and should be " + std::to_string(want));
}
}  // namespace

std::vector<Answer> check() {
    return {near("normal inputs", 0.25f), near("a sink of 600", 1.0f / 600),
            near("a sink of 2000", 1.0f / 2000)};
}

}  // namespace attn::exercises
