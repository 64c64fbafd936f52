/// \file
/// \brief Prints, as JSON, what the course says about the code: the registry, working memory,
///        errors under the judge, the order of accesses, a worked example. Pages and figures are
///        made from it, so that no page can disagree with the library.
#include "int8_facts.hpp"
#include "trace.hpp"

#include <attn/attn.hpp>
#include <attn/judge.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>

namespace {

using namespace attn;
using Json = nlohmann::ordered_json;

Json limits_of(const Tier& tier) {
    Json dtypes = Json::array();
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16})
        if (tier.limits.dtypes.has(dtype)) dtypes.push_back(name_of(dtype));
    return {{"dtypes", dtypes},
            {"boolean_mask", tier.limits.boolean_mask},
            {"additive_mask", tier.limits.additive_mask},
            {"causal", tier.limits.causal},
            {"grouped_heads", tier.limits.grouped_heads},
            {"logsumexp", tier.limits.logsumexp},
            {"max_head_dim", tier.limits.max_head_dim},
            {"error_limit", tier.limits.error_limit},
            {"requires", tier.limits.requires_}};
}

/// Views without memory behind them: `scratch_bytes` of a tier may not look at contents.
Problem shapes_only(Index L, DType dtype) {
    Problem p;
    p.B = 1, p.Hq = p.H = 8, p.L = p.S = p.diagonal = L, p.E = p.Ev = 64;
    p.dtype = dtype;
    p.scale = 0.125;
    p.threads = 1;
    p.query = TensorView(nullptr, dtype, {1, 8, L, 64});
    p.key = p.value = p.query;
    p.out = MutableTensorView(nullptr, dtype, {1, 8, L, 64});
    return p;
}

/// Bytes of working memory against L = S, for (B, H, E) = (1, 8, 64) in float32 on one thread.
Json scratch_of(const Tier& tier) {
    Json points = Json::array();
    for (Index L = 256; L <= 16384; L *= 2) {
        const Problem p = shapes_only(L, DType::float32);
        points.push_back({{"L", L}, {"bytes", tier.scratch_bytes(p)}});
    }
    return points;
}

/// What the judge says of a tier on every generator: (B, H, L, S, E) = (1, 2, 96, 130, 64).
Json errors_of(const Tier& tier) {
    Json rows = Json::array();
    for (DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
        if (!tier.limits.dtypes.has(dtype)) continue;
        for (const Generator& generator : generators()) {
            const Sizes sizes{.B = 1, .Hq = 2, .H = 2, .L = 96, .S = 130, .E = 64, .Ev = 64};
            const Qkv x = generate(generator.name, sizes, 7, dtype);
            const Tensor out =
                scaled_dot_product_attention(x.query, x.key, x.value, {}, {.tier = tier.name});
            const Reference want = reference(x.query, x.key, x.value);
            const Verdict v = judge(out, want, weight_error_of(tier, dtype));
            rows.push_back({{"dtype", name_of(dtype)},
                            {"generator", generator.name},
                            {"worst_error", v.worst_error},
                            {"worst_ratio", v.worst_ratio},
                            {"relative_l2", v.relative_l2},
                            {"cosine", v.cosine}});
        }
    }
    return rows;
}

Json registry() {
    Json list = Json::array();
    for (const Tier* tier : tiers()) {
        const Availability can = tier->available();
        Json entry = {{"name", tier->name},
                      {"builds_on", tier->builds_on},
                      {"idea", tier->idea},
                      {"device", tier->device == DeviceKind::cpu ? "cpu" : "gpu"},
                      {"parallel", tier->parallel},
                      {"quantized", tier->accuracy.quantized},
                      {"available", can.ok},
                      {"reason", can.reason},
                      {"limits", limits_of(*tier)}};
        // A GPU tier of a build without CUDA is a name without properties.
        entry["built"] = tier->device == DeviceKind::cpu || tier->limits.dtypes.bits != 0;
        if (tier->device == DeviceKind::cpu && can.ok) {
            entry["scratch"] = scratch_of(*tier);
            entry["errors"] = errors_of(*tier);
            entry["weight_error"] = tier->accuracy.weight_error;
        }
        list.push_back(entry);
    }
    return list;
}

Json trace(const std::vector<docs::Access>& accesses) {
    Json list = Json::array();
    for (const docs::Access& access : accesses)
        list.push_back({std::string(1, access.tensor), access.row});
    return list;
}

/// The running state of one row after each tile, by the very code that the tiers use. Scores that
/// rise show the repair; `plain` is the sum that would be right if the maximum had been known.
Json running_state() {
    const double tiles[][4] = {{0.2, 1.0, 0.5, -0.3},
                               {0.9, 0.1, 2.6, 0.4},
                               {-1.0, 0.3, 1.9, 0.8},
                               {3.4, 0.6, 1.2, 2.2},
                               {0.0, 2.9, 1.1, -0.7}};
    RowState<double> row;
    Json list = Json::array();
    for (const auto& tile : tiles) {
        const double shrink = row.grow(*std::max_element(tile, tile + 4));
        for (double score : tile) row.sum += row.weight(score);
        list.push_back({{"scores", tile},
                        {"shrink", shrink},
                        {"max", row.max},
                        {"sum", row.sum},
                        {"logsumexp", row.logsumexp()}});
    }
    return list;
}

/// Three queries, four keys, E = 2, by tier `literal`. With the unit matrix as value, `out` is the
/// matrix of probabilities; score = logsumexp + log(probability).
Json worked_example() {
    Tensor query({3, 2}, DType::float64), key({4, 2}, DType::float64),
        value({4, 2}, DType::float64), unit({4, 4}, DType::float64), logsumexp({3}, DType::float64);
    const double q[] = {1, 0, 0, 2, 1, 1}, k[] = {1, 0, 0, 1, 1, 1, 2, -1},
                 v[] = {1, 0, 0, 1, 2, 2, -1, 3};
    for (Index n = 0; n < 6; ++n) query.set(n, q[n]);
    for (Index n = 0; n < 8; ++n) key.set(n, k[n]), value.set(n, v[n]);
    for (Index n = 0; n < 4; ++n) unit.set(5 * n, 1);
    const auto rows = [](const Tensor& tensor) {
        Json list = Json::array();
        for (Index i = 0; i < tensor.shape()[0]; ++i) {
            Json row = Json::array();
            for (Index e = 0; e < tensor.shape()[1]; ++e)
                row.push_back(tensor.get(i * tensor.shape()[1] + e));
            list.push_back(row);
        }
        return list;
    };
    const Execution literal{.tier = "literal", .logsumexp = logsumexp};
    const Tensor weight = scaled_dot_product_attention(query, key, unit, {}, literal);
    const Tensor out = scaled_dot_product_attention(query, key, value, {}, literal);
    Tensor score({3, 4}, DType::float64);
    for (Index n = 0; n < 12; ++n) score.set(n, logsumexp.get(n / 4) + std::log(weight.get(n)));
    Json lse = Json::array();
    for (Index i = 0; i < 3; ++i) lse.push_back(logsumexp.get(i));
    return {{"query", rows(query)},
            {"key", rows(key)},
            {"value", rows(value)},
            {"score", rows(score)},
            {"probability", rows(weight)},
            {"out", rows(out)},
            {"logsumexp", lse}};
}

/// What `auto` says for a few shapes, all on host tensors in float32.
Json explained() {
    Json list = Json::array();
    for (const Sizes& s : {Sizes{4, 8, 8, 64, 64, 64, 64}, Sizes{1, 8, 8, 1024, 1024, 64, 64},
                           Sizes{1, 8, 8, 16384, 16384, 64, 64}}) {
        // Zero pages that are never touched: explaining reads no element.
        Tensor query({s.B, s.Hq, s.L, s.E}), key({s.B, s.H, s.S, s.E}),

            out({s.B, s.Hq, s.L, s.Ev});
        const Explanation why = explain(query, key, key, out, {}, {.threads = 1});
        Json candidates = Json::array();
        for (const Candidate& c : why.candidates)
            candidates.push_back({{"tier", c.tier}, {"able", c.able}, {"reason", c.reason}});
        list.push_back({{"shape", {s.B, s.Hq, s.L, s.S, s.E}},
                        {"tier", why.tier},
                        {"candidates", candidates}});
    }
    return list;
}

Json about_generators() {
    Json list = Json::array();
    for (const Generator& g : generators()) list.push_back({{"name", g.name}, {"about", g.about}});
    return list;
}

}  // namespace

int main() try {
    const Json facts = {{"tiers", registry()},
                        {"generators", about_generators()},
                        {"trace",
                         {{"literal", trace(docs::trace_literal(160))},
                          {"online", trace(docs::trace_online(160))}}},
                        {"running_state", running_state()},
                        {"worked_example", worked_example()},
                        {"int8", docs::int8_facts(ATTN_SOURCE_DIR "/tests/data")},
                        {"explained", explained()}};
    std::puts(facts.dump(1).c_str());
} catch (const std::exception& error) {
    std::fprintf(stderr, "docs_facts: %s\n", error.what());
    return 1;
}
