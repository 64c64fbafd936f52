/// \file
/// \brief Rounds by quantize.hpp, with and without each of its ideas, and lets the judge look.
#include "int8_facts.hpp"

#include "npy.hpp"

#include <attn/attn.hpp>
#include <attn/judge.hpp>
#include <attn/quantize.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace attn::docs {
namespace {

using Json = nlohmann::ordered_json;

/// Rows of one head in float32: (count, width).
struct Rows {
    Index count, width;
    std::vector<float> x;

    /// Head h of `tensor`, (1, H, count, width).
    Rows(const Tensor& tensor, Index h)
        : count(tensor.shape()[2]),
          width(tensor.shape()[3]),
          x(static_cast<std::size_t>(count * width)) {
        for (Index n = 0; n < count * width; ++n)
            x[static_cast<std::size_t>(n)] = static_cast<float>(tensor.get(h * count * width + n));
    }
    float* row(Index i) { return x.data() + i * width; }
    const float* row(Index i) const { return x.data() + i * width; }
};

std::uint32_t largest(const float* x, Index count) {
    std::uint32_t most = 0;
    for (Index e = 0; e < count; ++e) most = std::max(most, magnitude(x[e]));
    return most;
}

void smooth(Rows& key) {
    for (Index e = 0; e < key.width; ++e) {
        ChannelMean channel;
        for (Index j = 0; j < key.count; ++j) {
            if (counts_for_mean(j, key.count)) channel.add(key.row(j)[e]);
            if (j % smoothing_block == smoothing_block - 1) channel.end_block();
        }
        channel.end_block();
        for (Index j = 0; j < key.count; ++j) key.row(j)[e] -= channel.mean();
    }
}

void rotate_all(Rows& rows, Operand operand) {
    for (Index i = 0; i < rows.count; ++i) rotate(rows.row(i), rows.width, operand);
}

/// Integers of some rows, and the step of each row.
struct Integers {
    std::vector<int> q;        // (count, width)
    std::vector<float> scale;  // (count)

    Integers(const Rows& rows, const Grouping& grouping)
        : q(rows.x.size()), scale(static_cast<std::size_t>(rows.count)) {
        std::vector<std::uint32_t> most(static_cast<std::size_t>(grouping.count(rows.count)));
        for (Index i = 0; i < rows.count; ++i) {
            std::uint32_t& group = most[static_cast<std::size_t>(grouping.group_of(i))];
            group = std::max(group, largest(rows.row(i), rows.width));
        }
        for (Index i = 0; i < rows.count; ++i) {
            const Quantizer quantizer(most[static_cast<std::size_t>(grouping.group_of(i))]);
            scale[static_cast<std::size_t>(i)] = quantizer.scale;
            for (Index e = 0; e < rows.width; ++e)
                q[static_cast<std::size_t>(i * rows.width + e)] = quantizer(rows.row(i)[e]);
        }
    }
};

/// A problem without mask, or with one that is the same for all queries.
struct Inputs {
    std::string name;
    Qkv x;
    Tensor mask;  // (S), or nothing

    Index heads() const { return x.key.shape()[1]; }
    double scale() const { return 1 / std::sqrt(static_cast<double>(x.key.shape()[3])); }
    Options options() const {
        Options options;
        if (mask.size() > 0) options.mask = mask;
        return options;
    }
};

// ---- queries and keys ---------------------------------------------------------------------------

struct ScoreRounding {
    const char* name;
    bool smoothed, rotated, one_step;
};
constexpr ScoreRounding score_roundings[] = {{"as it is", true, true, false},
                                             {"no smoothing", false, true, false},
                                             {"no rotation", true, false, false},
                                             {"one step for all tokens", true, true, true},
                                             {"none of the three", false, false, true}};

/// Scores as the tiers compute them, in base 2: (L, S). Everything after them is exact.
std::vector<double> rounded_scores(const Inputs& in, Index h, const ScoreRounding& rounding) {
    Rows query(in.x.query, h), key(in.x.key, h);
    if (rounding.smoothed) smooth(key);
    if (rounding.rotated) rotate_all(query, Operand::query), rotate_all(key, Operand::key);
    const auto groups = [&](const Rows& rows) {
        return rounding.one_step ? per_tensor(rows.count) : per_token();
    };
    const Integers q(query, groups(query)), k(key, groups(key));
    std::vector<double> score;
    score.reserve(static_cast<std::size_t>(query.count * key.count));
    for (Index i = 0; i < query.count; ++i)
        for (Index j = 0; j < key.count; ++j) {
            int product = 0;
            for (Index e = 0; e < key.width; ++e)
                product += q.q[static_cast<std::size_t>(i * key.width + e)] *
                           k.q[static_cast<std::size_t>(j * key.width + e)];
            const float factor = q.scale[static_cast<std::size_t>(i)] * folded_scale(in.scale());
            const float exponent =
                exponent_of(product, factor, k.scale[static_cast<std::size_t>(j)]);
            score.push_back(static_cast<double>(exponent));
        }
    return score;
}

std::vector<double> exact_scores(const Inputs& in, Index h) {
    const Rows query(in.x.query, h), key(in.x.key, h);
    std::vector<double> score;  // base 2
    for (Index i = 0; i < query.count; ++i)
        for (Index j = 0; j < key.count; ++j) {
            double dot = 0;
            for (Index e = 0; e < key.width; ++e)
                dot += static_cast<double>(query.row(i)[e]) * static_cast<double>(key.row(j)[e]);
            const double add = in.mask.size() > 0 ? in.mask.get(j) : 0;
            score.push_back((dot * in.scale() + add) / std::log(2.0));
        }
    return score;
}

// ---- weights and values -------------------------------------------------------------------------

struct ValueRounding {
    const char* name;
    bool exact, against_row, one_step, exact_sum;
};
constexpr ValueRounding value_roundings[] = {
    {"as it is", false, false, false, false},
    {"weights against the row's maximum", false, true, false, false},
    {"one step for all values", false, false, true, false},
    {"divided by the sum of the weights before rounding", false, false, false, true}};
constexpr ValueRounding no_value_rounding = {"exact", true, false, false, false};

/// The values that their integers stand for.
Rows rounded_values(Rows value, bool one_step) {
    const Quantizer all(largest(value.x.data(), value.count * value.width));
    for (Index first = 0; first < value.count; first += value_block) {
        const Index end = std::min(first + value_block, value.count);
        for (Index e = 0; e < value.width; ++e) {
            std::uint32_t most = 0;
            for (Index j = first; j < end; ++j) most = std::max(most, magnitude(value.row(j)[e]));
            const Quantizer quantizer = one_step ? all : Quantizer(most);
            for (Index j = first; j < end; ++j)
                value.row(j)[e] = quantizer.real(quantizer(value.row(j)[e]));
        }
    }
    return value;
}

/// The largest score of the keys that key j's weight is rounded against.
double top_of(const double* score, Index S, Index j, bool against_row) {
    if (against_row) return *std::max_element(score, score + S);
    const Index first = j / value_block * value_block;
    return *std::max_element(score + first, score + std::min(first + value_block, S));
}

/// out of one head from its scores; adds its rows to `out`.
void attend(const double* score, Index L, const Rows& exact_value, const ValueRounding& rounding,
            Index first, Tensor& out) {
    const Rows value =
        rounding.exact ? exact_value : rounded_values(exact_value, rounding.one_step);
    const Index S = value.count;
    std::vector<double> sum(static_cast<std::size_t>(value.width));
    for (Index i = 0; i < L; ++i, score += S) {
        const double top = top_of(score, S, 0, true);
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0.0);
        for (Index j = 0; j < S; ++j) {
            const double exact = std::exp2(score[j] - top);
            double weight = exact;
            if (!rounding.exact) {
                const double block = top_of(score, S, j, rounding.against_row);
                const int q = quantize_weight(static_cast<float>(std::exp2(score[j] - block)));
                weight = q * std::exp2(block - top) / weight_levels;
            }
            total += rounding.exact_sum ? exact : weight;
            for (Index e = 0; e < value.width; ++e)
                sum[static_cast<std::size_t>(e)] += weight * static_cast<double>(value.row(j)[e]);
        }
        for (Index e = 0; e < value.width; ++e)
            out.set(first + i * value.width + e, sum[static_cast<std::size_t>(e)] / total);
    }
}

// ---- what the pages show ------------------------------------------------------------------------

/// The worst head, as the judge of that tier sees it.
Json verdict(const char* name, const Tensor& out, const Reference& want, const char* tier) {
    double error = 0, ratio = 0;
    for (const Verdict& v : judge_heads(out, want, {*find_tier(tier), DType::float32})) {
        error = std::max(error, v.relative_l2);
        ratio = std::max(ratio, v.worst_ratio);
    }
    return {{"name", name}, {"relative_l2", error}, {"ratio", ratio}};
}

template <class Compute>
Tensor for_each_head(const Inputs& in, Compute compute) {
    const Index L = in.x.query.shape()[2], Ev = in.x.value.shape()[3];
    Tensor out({1, in.heads(), L, Ev});
    for (Index h = 0; h < in.heads(); ++h) compute(h, L, h * L * Ev, out);
    return out;
}

Json without_scores(const std::vector<Inputs>& list) {
    Json rows = Json::array();
    for (const Inputs& in : list) {
        const Reference want = reference(in.x.query, in.x.key, in.x.value, in.options());
        Json verdicts = Json::array();
        for (const ScoreRounding& rounding : score_roundings) {
            const Tensor out = for_each_head(in, [&](Index h, Index L, Index first, Tensor& to) {
                attend(rounded_scores(in, h, rounding).data(), L, Rows(in.x.value, h),
                       no_value_rounding, first, to);
            });
            verdicts.push_back(verdict(rounding.name, out, want, "int8_pv32"));
        }
        rows.push_back({{"inputs", in.name}, {"verdicts", verdicts}});
    }
    return rows;
}

Json without_values(const std::vector<Inputs>& list) {
    Json rows = Json::array();
    for (const Inputs& in : list) {
        const Reference want = reference(in.x.query, in.x.key, in.x.value, in.options());
        Json verdicts = Json::array();
        for (const ValueRounding& rounding : value_roundings) {
            const Tensor out = for_each_head(in, [&](Index h, Index L, Index first, Tensor& to) {
                attend(exact_scores(in, h).data(), L, Rows(in.x.value, h), rounding, first, to);
            });
            verdicts.push_back(verdict(rounding.name, out, want, "int8"));
        }
        rows.push_back({{"inputs", in.name}, {"verdicts", verdicts}});
    }
    return rows;
}

/// One key of head h on its way to integers.
Json key_row(const Inputs& in, Index h, Index j) {
    Rows key(in.x.key, h);
    Json stages = Json::array();
    const auto note = [&](const char* name) {
        const float* const row = key.row(j);
        stages.push_back({{"name", name},
                          {"row", std::vector<float>(row, row + key.width)},
                          {"step", Quantizer(largest(row, key.width)).scale}});
    };
    note("as it comes");
    smooth(key);
    note("without the mean");
    rotate_all(key, Operand::key);
    note("and rotated");
    return {{"inputs", in.name}, {"head", h}, {"token", j}, {"stages", stages}};
}

/// The weights of row 0, and which of them are not 0 as integers.
Json beside_a_sink(const Inputs& in) {
    const std::vector<double> score = exact_scores(in, 0);
    const Index S = in.x.key.shape()[2];
    const double top = top_of(score.data(), S, 0, true);
    Json weights = Json::array(), floors = Json::array();
    double all = 0, lost_row = 0, lost_block = 0;
    for (Index j = 0; j < S; ++j) {
        const double weight = std::exp2(score[static_cast<std::size_t>(j)] - top);
        const double block = std::exp2(top_of(score.data(), S, j, false) - top);
        weights.push_back(weight);
        floors.push_back(block / 2 / weight_levels);
        all += weight;
        if (quantize_weight(static_cast<float>(weight)) == 0) lost_row += weight;
        if (quantize_weight(static_cast<float>(weight / block)) == 0) lost_block += weight;
    }
    return {{"weight", weights},
            {"block_floor", floors},
            {"row_floor", 0.5 / weight_levels},
            {"lost_against_row", lost_row / all},
            {"lost_against_block", lost_block / all}};
}

/// One key counts as much as 600 others, each of which counts alike; together they have more.
Inputs sink() {
    Inputs in{"a key worth 600 others",
              generate("gauss", {.L = 16, .S = 1024, .E = 64, .Ev = 64}, 6), Tensor({1024})};
    for (Index i = 0; i < in.x.query.size(); ++i) in.x.query.set(i, in.x.query.get(i) / 10);
    in.mask.set(300, std::log(600.0));
    return in;
}

}  // namespace

Json int8_facts(const std::string& data) {
    std::vector<Inputs> list;
    for (const Generator& generator : generators())
        list.push_back(
            {generator.name,
             generate(generator.name, {.Hq = 2, .H = 2, .L = 256, .S = 256, .E = 64, .Ev = 64}, 5),
             {}});
    const auto cut = [&](const char* file) {  // four heads of (1, 12, 398, 32)
        const Tensor all = read_npy(data + file);
        Tensor some({1, 4, all.shape()[2], all.shape()[3]});
        for (Index n = 0; n < some.size(); ++n) some.set(n, all.get(n));
        return some;
    };
    list.push_back({"captured", {cut("/query.npy"), cut("/key.npy"), cut("/value.npy")}, {}});
    const auto named = [&](const char* name) -> const Inputs& {
        return *std::find_if(list.begin(), list.end(),
                             [&](const Inputs& in) { return in.name == name; });
    };
    Json facts = {
        {"key_rows", {key_row(named("captured"), 1, 200), key_row(named("key_outliers"), 0, 100)}},
        {"without_scores", without_scores(list)},
        {"sink", beside_a_sink(sink())}};
    list.push_back(sink());
    facts["without_values"] = without_values(list);
    return facts;
}

}  // namespace attn::docs
