/// \file
/// \brief The algebra of 8-bit attention (quantize.hpp): each identity it rests on, each bound it
///        promises, and what it does with zeros, constants, ties and numbers that are not finite.
#include <attn/generate.hpp>
#include <attn/quantize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

using namespace attn;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float NaN = std::numeric_limits<float>::quiet_NaN();

const Index head_dims[] = {1,  2,  3,  4,  7,  8,  15,  16,  17,  31,
                           33, 40, 64, 72, 80, 96, 127, 128, 203, 256};

std::vector<float> normals(Index count, std::uint64_t seed, float factor = 1) {
    const Tensor t = random_normal({count}, seed);
    std::vector<float> x(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i) x[i] = static_cast<float>(t.get(i)) * factor;
    return x;
}

std::uint32_t largest(const std::vector<float>& group) {
    std::uint32_t most = 0;
    for (float x : group) most = std::max(most, magnitude(x));
    return most;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
}

double size_of(const std::vector<float>& x) { return std::sqrt(dot(x, x)); }

}  // namespace

TEST_CASE("the magnitude orders all floats, with infinity and then NaN at the end") {
    const float rising[] = {0.0f,    0x1p-149f, 0x1p-126f, 1.0f, std::nextafter(1.0f, 2.0f),
                            0x1p40f, 0x1p127f,  inf,       NaN};
    for (std::size_t i = 0; i + 1 < std::size(rising); ++i) {
        CHECK(magnitude(rising[i]) < magnitude(rising[i + 1]));
        CHECK(magnitude(-rising[i]) == magnitude(rising[i]));
    }
    CHECK(magnitude_value(magnitude(-2.5f)) == 2.5f);
    for (float x : {inf, -inf, NaN, -NaN, 0x1.000002p40f, std::numeric_limits<float>::max()})
        CHECK_FALSE(quantizable(magnitude(x)));
    for (float x : {0.0f, -0.0f, 0x1p-149f, 65504.0f, 0x1p40f}) CHECK(quantizable(magnitude(x)));
}

TEST_CASE("the quantizer rounds to nearest, ties to even, within half a step") {
    const Quantizer unit(magnitude(127.0f));  // the step is 1
    CHECK(unit.scale == 1);
    for (const auto& [x, q] : {std::pair{0.5f, 0},
                               {1.5f, 2},
                               {2.5f, 2},
                               {3.5f, 4},
                               {-0.5f, 0},
                               {-1.5f, -2},
                               {-2.5f, -2},
                               {126.5f, 126},
                               {0.49999997f, 0},
                               {127.0f, 127},
                               {-127.0f, -127}})
        CHECK(unit(x) == q);

    for (float size : {0x1p-80f, 1e-20f, 1e-3f, 0.37f, 1.0f, 3.0f, 1e4f, 0x1p40f / 6}) {
        const std::vector<float> group = normals(4096, 5, size / 3);
        const Quantizer quantizer(largest(group));
        CAPTURE(size);
        int low = 0, high = 0;
        for (float x : group) {
            const int q = quantizer(x);
            low = std::min(low, q), high = std::max(high, q);
            REQUIRE(quantizer(-x) == -q);
            REQUIRE(std::abs(double(quantizer.real(q)) - double(x)) <=
                    double(quantizer.scale) * 0.50001);
        }
        CHECK(std::max(-low, high) == quantized_levels);  // the largest element is hit exactly
    }
}

TEST_CASE("the quantizer never leaves -127 .. 127, whatever the largest magnitude") {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(quantizable_least);
    for (; quantizable(bits); bits += 104729) {
        const float amax = magnitude_value(bits);
        const Quantizer quantizer(bits);
        REQUIRE(quantizer(amax) == 127);
        REQUIRE(quantizer(-amax) == -127);
    }
}

TEST_CASE("the quantizer gives zeros for zeros and exact ends for a constant group") {
    for (float tiny : {0.0f, -0.0f, 0x1p-149f, 0x1p-126f, 0x1.fffffep-81f}) {
        const Quantizer quantizer(magnitude(tiny));
        CHECK(quantizer.scale == 0);
        CHECK(quantizer(tiny) == 0);
        CHECK(quantizer.real(quantizer(tiny)) == 0);
    }
    for (float constant : {1.0f, -3.5f, 1e-7f, 65504.0f}) {
        const Quantizer quantizer(magnitude(constant));
        CHECK(quantizer(constant) == (constant < 0 ? -127 : 127));
        CHECK(quantizer.real(quantizer(constant)) == doctest::Approx(constant).epsilon(1e-7));
    }
}

TEST_CASE("the quantized weights cover 0 to 255 and keep ties even") {
    CHECK(quantize_weight(0.0f) == 0);
    CHECK(quantize_weight(1.0f) == 255);
    CHECK(quantize_weight(0.5f) == 128);  // 127.5
    CHECK(quantize_weight(0.00195f) == 0);
    CHECK(quantize_weight(0.00197f) == 1);
}

TEST_CASE("the groupings deal out tokens as their kernels own them") {
    const Grouping tensor = per_tensor(70), block = per_block(64), token = per_token();
    CHECK(tensor.count(70) == 1);
    CHECK(block.count(70) == 2);
    CHECK(token.count(70) == 70);
    for (Index t = 0; t < 70; ++t) {
        CHECK(tensor.group_of(t) == 0);
        CHECK(block.group_of(t) == t / 64);
        CHECK(token.group_of(t) == t);
    }
    // One warp, 16 queries: thread 4 r + c holds the rows r and r + 8 of its tile.
    const Grouping query = per_thread_query();
    CHECK(query.count(32) == 16);
    for (Index warp : {0, 1})
        for (Index r = 0; r < 8; ++r) {
            CHECK(query.group_of(16 * warp + r) == 8 * warp + r);
            CHECK(query.group_of(16 * warp + r + 8) == 8 * warp + r);
        }
    // 64 keys: thread c of four holds the columns 8 n + 2 c and 8 n + 2 c + 1.
    const Grouping key = per_thread_key();
    CHECK(key.count(65) == 8);
    for (Index n = 0; n < 8; ++n)
        for (Index c = 0; c < 4; ++c) {
            CHECK(key.group_of(8 * n + 2 * c) == c);
            CHECK(key.group_of(8 * n + 2 * c + 1) == c);
            CHECK(key.group_of(64 + 8 * n + 2 * c) == 4 + c);
        }
    CHECK(per_tensor(0).count(0) == 0);
    CHECK(per_block(64).count(0) == 0);
}

TEST_CASE("the finer grouping is the more exact") {
    const std::vector<float> x = normals(1024 * 16, 6);  // (1024 tokens, 16)
    const auto error = [&](const Grouping& grouping) {
        std::vector<std::uint32_t> most(static_cast<std::size_t>(grouping.count(1024)));
        for (Index i = 0; i < 1024 * 16; ++i)
            most[grouping.group_of(i / 16)] =
                std::max(most[grouping.group_of(i / 16)], magnitude(x[i]));
        double sum = 0;
        for (Index i = 0; i < 1024 * 16; ++i) {
            const Quantizer quantizer(most[grouping.group_of(i / 16)]);
            sum += std::pow(double(quantizer.real(quantizer(x[i]))) - double(x[i]), 2);
        }
        return sum;
    };
    CHECK(error(per_token()) < 0.9 * error(per_thread_key()));
    CHECK(error(per_thread_key()) < 0.9 * error(per_block(64)));
    CHECK(error(per_block(64)) < 0.9 * error(per_tensor(1024)));
}

TEST_CASE("the smoothing takes the same from every score of a row") {
    const Index E = 24, S = 150;
    const std::vector<float> q = normals(E, 7);
    std::vector<float> k = normals(S * E, 8);
    for (Index j = 0; j < S; ++j)
        for (Index e = 0; e < E; e += 5) k[j * E + e] += 20;  // a bias
    std::vector<float> mean(E);
    for (Index e = 0; e < E; ++e) {
        ChannelMean channel;
        for (Index j = 0; j < S; ++j) {
            channel.add(k[j * E + e]);
            if (j % smoothing_block == smoothing_block - 1) channel.end_block();
        }
        channel.end_block();
        mean[e] = channel.mean();
        double exact = 0;
        for (Index j = 0; j < S; ++j) exact += double(k[j * E + e]) / S;
        CHECK(mean[e] == doctest::Approx(exact).epsilon(1e-6));
    }
    double sum = 0, smooth_sum = 0;
    std::uint32_t before = 0, after = 0;
    for (Index j = 0; j < S; ++j) {
        std::vector<float> key(k.begin() + j * E, k.begin() + (j + 1) * E), smooth(key);
        for (Index e = 0; e < E; ++e) smooth[e] -= mean[e];
        before = std::max(before, largest(key)), after = std::max(after, largest(smooth));
        CHECK(dot(q, key) - dot(q, smooth) == doctest::Approx(dot(q, mean)).epsilon(1e-5));
        sum += std::exp(0.2 * dot(q, key)), smooth_sum += std::exp(0.2 * dot(q, smooth));
    }
    CHECK(smoothed_logsumexp(float(std::log(smooth_sum)), 0.2f, float(dot(q, mean))) ==
          doctest::Approx(std::log(sum)).epsilon(1e-6));
    CHECK(magnitude_value(after) < 0.3 * magnitude_value(before));
}

TEST_CASE("the mean is taken from at most 8 blocks, evenly spread, the first among them") {
    for (Index S : {1, 64, 65, 512, 513, 1024, 1025, 16384, 100000}) {
        CAPTURE(S);
        Index counted = 0, last = -1, widest = 0;
        for (Index first = 0; first < S; first += smoothing_block) {
            if (!counts_for_mean(first, S)) continue;
            CHECK(counts_for_mean(std::min(first + smoothing_block, S) - 1, S));  // a whole block
            if (last >= 0) widest = std::max(widest, (first - last) / smoothing_block);
            last = first, ++counted;
        }
        const Index blocks = (S + smoothing_block - 1) / smoothing_block;
        CHECK(counts_for_mean(0, S));
        CHECK(counted <= smoothing_samples);
        CHECK(counted * smoothing_stride(S) >= blocks);
        CHECK(widest <= smoothing_stride(S));
        if (blocks <= smoothing_samples) CHECK(counted == blocks);
        if (blocks > smoothing_samples) CHECK(2 * counted > smoothing_samples);
    }
}

TEST_CASE("the smoothing of one key, of equal keys and of none leaves zeros") {
    ChannelMean none;
    none.end_block();
    CHECK(none.mean() == 0);
    for (Index S : {1, 3, 64, 65, 1000})
        for (float x : {1.0f, -3.5f, 133120.0f}) {
            ChannelMean channel;
            for (Index j = 0; j < S; ++j) {
                channel.add(x);
                if (j % smoothing_block == smoothing_block - 1) channel.end_block();
            }
            channel.end_block();
            CHECK(Quantizer(magnitude(x - channel.mean()))(x - channel.mean()) == 0);
        }
}

TEST_CASE("the rotation keeps every product and length, for any head dimension") {
    for (Index E : head_dims) {
        CAPTURE(E);
        std::vector<float> q = normals(E, 9), k = normals(E, 10);
        const double product = dot(q, k), size = size_of(q) * size_of(k), q_size = size_of(q),
                     k_size = size_of(k);
        rotate(q.data(), E, Operand::query);
        rotate(k.data(), E, Operand::key);
        CHECK(std::abs(dot(q, k) - product) <= 1e-6 * size);
        // Each side alone is off by the square root of two at most, where log2(width) is odd.
        CHECK(size_of(q) >= 0.999 * q_size);
        CHECK(size_of(q) <= 2.001 * q_size);
        CHECK(size_of(q) * size_of(k) <= 2.001 * q_size * k_size);
        const Index width = rotation_width(E);
        CHECK(width <= E);
        CHECK(2 * width > E);
        CHECK(rotation_factor(width, Operand::query) * rotation_factor(width, Operand::key) *
                  static_cast<float>(width) ==
              1);
    }
    rotate(nullptr, 0, Operand::query);  // E = 0: nothing to do
}

TEST_CASE("the rotation spreads one loud channel over all, and leaves zeros alone") {
    for (Index E : head_dims)
        for (Index loud : {Index{0}, E / 2, E - 1}) {
            CAPTURE(E);
            CAPTURE(loud);
            std::vector<float> k(static_cast<std::size_t>(E));
            k[loud] = 1;
            rotate(k.data(), E, Operand::key);
            // One transform makes all equal; the second one adds up 16 and more random signs.
            const double rms = size_of(k) / std::sqrt(double(E));
            const double most = rotation_width(E) == E ? 1.0001 : 4;
            CHECK(double(magnitude_value(largest(k))) <= most * rms);
            std::vector<float> zero(static_cast<std::size_t>(E));
            rotate(zero.data(), E, Operand::key);
            CHECK(largest(zero) == 0);
        }
    // The signs keep a constant row, which a bare transform would gather in one channel, spread.
    std::vector<float> constant(128, 1.0f);
    rotate(constant.data(), 128, Operand::query);
    CHECK(double(magnitude_value(largest(constant))) <= 4 * size_of(constant) / std::sqrt(128.0));
}

TEST_CASE("the rotation halves the error of loud channels") {
    const Index E = 128, rows = 200;
    const auto error = [&](bool rotated) {
        double sum = 0, all = 0;
        for (Index row = 0; row < rows; ++row) {
            std::vector<float> q = normals(E, 100 + row), k = normals(E, 900 + row);
            for (Index e = 0; e < 6; ++e) k[e * 21] *= 15;
            const double want = dot(q, k);
            if (rotated) rotate(q.data(), E, Operand::query), rotate(k.data(), E, Operand::key);
            const Quantizer qq(largest(q)), qk(largest(k));
            double got = 0;
            for (Index e = 0; e < E; ++e)
                got += double(qq.real(qq(q[e]))) * double(qk.real(qk(k[e])));
            sum += (got - want) * (got - want), all += want * want;
        }
        return std::sqrt(sum / all);
    };
    CHECK(error(true) < 0.5 * error(false));
}

TEST_CASE("the quantized score is exact in its integers and off as its variance says") {
    for (Index E : {16, 40, 128}) {
        CAPTURE(E);
        double sum = 0, variance = 0;
        const double scale = 1 / std::sqrt(double(E));
        for (Index row = 0; row < 500; ++row) {
            std::vector<float> q = normals(E, 3000 + row), k = normals(E, 5000 + row);
            const double want = scale * dot(q, k), q_size = dot(q, q), k_size = dot(k, k);
            rotate(q.data(), E, Operand::query), rotate(k.data(), E, Operand::key);
            const Quantizer qq(largest(q)), qk(largest(k));
            int product = 0;
            for (Index e = 0; e < E; ++e) product += qq(q[e]) * qk(k[e]);
            const float exponent = exponent_of(product, qq.scale * folded_scale(scale), qk.scale);
            const double score = double(exponent) * std::log(2.0);
            CHECK(score == doctest::Approx(scale * product * double(qq.scale) * double(qk.scale))
                               .epsilon(1e-5));
            sum += (score - want) * (score - want);
            // Where log2(width) is odd, q grew by the square root of two, and k shrank by it.
            variance += score_variance(scale, qq.scale, qk.scale, dot(q, q), dot(k, k), E);
            CHECK(dot(q, q) * dot(k, k) ==
                  doctest::Approx(q_size * k_size).epsilon(E == 40 ? 1.0 : 1e-4));
        }
        CHECK(sum / variance > 0.75);
        CHECK(sum / variance < 1.25);
    }
}

TEST_CASE("the integers of a fixed query and key are these on every machine") {
    // Any other implementation, on any device, must give these numbers.
    std::vector<float> q(8), k(8);
    for (int e = 0; e < 8; ++e) q[e] = float(e * e) / 7 - 2, k[e] = float(e % 3) - float(e) / 5;
    rotate(q.data(), 8, Operand::query), rotate(k.data(), 8, Operand::key);
    const Quantizer qq(largest(q)), qk(largest(k));
    std::vector<int> got;
    for (float x : q) got.push_back(qq(x));
    for (float x : k) got.push_back(qk(x));
    const std::vector<int> want = {17, 105,  11, -66, 28, -17, -50, 127,
                                   -4, -127, 74, 39,  -4, -4,  4,   22};
    CHECK(got == want);
    CHECK(qq.scale == 0x1.a7e20cp-5f);
    CHECK(qk.scale == 0x1.761f72p-7f);
    std::string signs;
    for (Index e = 0; e < 32; ++e) signs += rotation_flips(e) ? '-' : '+';
    CHECK(signs == "-+---++--++-+--++-+--++-+-+++--+");
}
