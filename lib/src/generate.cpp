/// \file
/// \brief The seeded generators. The random numbers are made here and not by <random>'s
///        distributions, whose results differ between standard libraries.
#include <attn/error.hpp>
#include <attn/generate.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <string>
#include <vector>

namespace attn {
namespace {

/// N(0, 1) by Box and Muller's method from a Mersenne Twister, whose output the standard fixes.
class Normal {
  public:
    explicit Normal(std::uint64_t seed) : bits_(seed) {}
    double operator()() {
        if (has_spare_) {
            has_spare_ = false;
            return spare_;
        }
        const double radius = std::sqrt(-2 * std::log(1 - uniform()));  // 1 - u is never 0
        const double angle = 2 * std::numbers::pi * uniform();
        spare_ = radius * std::sin(angle);
        has_spare_ = true;
        return radius * std::cos(angle);
    }
    /// In [0, 1), a multiple of 2^-53.
    double uniform() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }

  private:
    std::mt19937_64 bits_;
    double spare_ = 0;
    bool has_spare_ = false;
};

void fill_normal(Tensor& tensor, Normal& normal) {
    for (Index i = 0; i < tensor.size(); ++i) tensor.set(i, normal());
}

/// Calls `f(row, head)` for the row-major index of each row of a (B, H, rows, E) tensor.
template <class F>
void for_each_row(const Tensor& tensor, F&& f) {
    const Index heads = tensor.shape()[1], rows = tensor.shape()[2];
    for (Index row = 0; row < tensor.shape()[0] * heads * rows; ++row) f(row, row / rows % heads);
}

/// Adds to each row of every head the same vector, non-zero in `count` channels, of size `low` to
/// `high` standard deviations and of random sign. Channels are spread over the head dimension.
void add_bias(Tensor& tensor, Index count, double low, double high, Normal& normal) {
    const Index E = tensor.shape()[3];
    if (E == 0) return;
    std::vector<double> bias(static_cast<std::size_t>(tensor.shape()[1] * E));
    for (Index head = 0; head < tensor.shape()[1]; ++head)
        for (Index n = 0; n < std::min(count, E); ++n) {
            const double size = low + (high - low) * normal.uniform();
            const Index channel = (n * E / std::min(count, E) + head) % E;
            bias[static_cast<std::size_t>(head * E + channel)] =
                normal.uniform() < 0.5 ? -size : size;
        }
    for_each_row(tensor, [&](Index row, Index head) {
        for (Index e = 0; e < E; ++e)
            tensor.set(row * E + e,
                       tensor.get(row * E + e) + bias[static_cast<std::size_t>(head * E + e)]);
    });
}

void multiply(Tensor& tensor, double factor) {
    for (Index i = 0; i < tensor.size(); ++i) tensor.set(i, tensor.get(i) * factor);
}

/// Multiplies `count` channels: outliers without a mean, which no shift of K removes.
void widen_channels(Tensor& tensor, Index count, double factor) {
    const Index E = tensor.shape()[3];
    for_each_row(tensor, [&](Index row, Index) {
        for (Index n = 0; n < std::min(count, E); ++n) {
            const Index at = row * E + n * E / std::min(count, E);
            tensor.set(at, tensor.get(at) * factor);
        }
    });
}

/// Rotates the pairs of channels (e, e + E/2) of each row by the angle position * 10000^(-2e/E):
/// rotary position embedding (Su et al. 2021). A bias before it becomes a wave along the keys.
void rotate(Tensor& tensor) {
    const Index E = tensor.shape()[3], rows = tensor.shape()[2], half = E / 2;
    for_each_row(tensor, [&](Index row, Index) {
        const double position = static_cast<double>(row % rows);
        for (Index e = 0; e < half; ++e) {
            const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(e) /
                                                                  static_cast<double>(E));
            const double x = tensor.get(row * E + e), y = tensor.get(row * E + e + half);
            tensor.set(row * E + e, x * std::cos(angle) - y * std::sin(angle));
            tensor.set(row * E + e + half, x * std::sin(angle) + y * std::cos(angle));
        }
    });
}

constexpr Generator table[] = {
    {"gauss", "independent N(0, 1)"},
    {"uniform", "independent in [0, 1): hides most errors, never judge on it alone"},
    {"key_bias", "a constant of 6 to 12 standard deviations in 6 channels of K"},
    {"key_bias_large", "a constant of 20 to 40 standard deviations in 4 channels of K"},
    {"key_bias_sharp", "key_bias_large with Q three times as large"},
    {"key_outliers", "6 channels of K with standard deviation 15 and no mean"},
    {"rope_bias", "a bias of 6 to 12 in 6 channels of K, then rotary position embedding"},
    {"sink", "the first key twelve times as large: an attention sink"},
    {"query_key_bias", "a constant of 6 to 12 in the same 6 channels of Q and K"},
    {"value_bias", "a constant of 4 in half of the channels of V"},
};

}  // namespace

Tensor random_normal(std::span<const Index> shape, std::uint64_t seed, DType dtype) {
    Tensor tensor(shape, dtype);
    Normal normal(seed);
    fill_normal(tensor, normal);
    return tensor;
}

std::span<const Generator> generators() { return table; }

Qkv generate(std::string_view generator, const Sizes& sizes, std::uint64_t seed, DType dtype) {
    bool known = false;
    std::string names;
    for (const Generator& g : table) {
        known |= generator == g.name;
        names += (names.empty() ? "" : ", ") + std::string(g.name);
    }
    if (!known)
        throw Error(ErrorCode::bad_option,
                    "there is no generator '" + std::string(generator) + "'; there are " + names);

    // Drawn in float32 and rounded once at the end, so that all dtypes see the same numbers.
    Qkv x{Tensor({sizes.B, sizes.Hq, sizes.L, sizes.E}),
          Tensor({sizes.B, sizes.H, sizes.S, sizes.E}),
          Tensor({sizes.B, sizes.H, sizes.S, sizes.Ev})};
    Normal normal(seed);
    fill_normal(x.query, normal);
    fill_normal(x.key, normal);
    fill_normal(x.value, normal);

    if (generator == "uniform") {
        for (Tensor* tensor : {&x.query, &x.key, &x.value})
            for (Index i = 0; i < tensor->size(); ++i) tensor->set(i, normal.uniform());
    } else if (generator == "key_bias") {
        add_bias(x.key, 6, 6, 12, normal);
    } else if (generator == "key_bias_large" || generator == "key_bias_sharp") {
        add_bias(x.key, 4, 20, 40, normal);
        if (generator == "key_bias_sharp") multiply(x.query, 3);
    } else if (generator == "key_outliers") {
        widen_channels(x.key, 6, 15);
    } else if (generator == "rope_bias") {
        add_bias(x.key, 6, 6, 12, normal);
        rotate(x.key);
        rotate(x.query);
    } else if (generator == "sink") {
        const Index E = sizes.E;
        for_each_row(x.key, [&](Index row, Index) {
            for (Index e = 0; e < E && row % sizes.S == 0; ++e)
                x.key.set(row * E + e, x.key.get(row * E + e) * 12);
        });
    } else if (generator == "query_key_bias") {
        Normal same = normal;  // the same channels and sizes for both
        add_bias(x.key, 6, 6, 12, normal);
        if (sizes.Hq == sizes.H)
            add_bias(x.query, 6, 6, 12, same);
        else
            add_bias(x.query, 6, 6, 12, normal);
    } else if (generator == "value_bias") {
        add_bias(x.value, sizes.Ev / 2, 4, 4, normal);
    }
    if (dtype != DType::float32)
        for (Tensor* tensor : {&x.query, &x.key, &x.value}) *tensor = tensor->to(dtype);
    return x;
}

}  // namespace attn
