#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "text.hpp"

namespace attn::cli {
namespace {

/// A quantized tier differs from the reference by its grid of numbers, not by rounding: its worst
/// head must stay below this sum |out - reference| / sum |reference|.
constexpr double quantized_relative_l1 = 0.03;

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// \brief Times calls until there are as many as asked for, or else until they took half a second
///        (at least 5, at most 200; at least 3 if they are long).
template <class Call>
void time(Measurement& result, int wanted, Call&& call) {
    std::vector<double> seconds;
    const auto start = Clock::now();
    const auto enough = [&] {
        const int calls = static_cast<int>(seconds.size());
        if (wanted > 0) return calls >= wanted;
        if (since(start) > 2) return calls >= 3;
        return calls >= 200 || (calls >= 5 && since(start) > 0.5);
    };
    while (!enough()) {
        const auto begin = Clock::now();
        call();
        seconds.push_back(since(begin));
    }
    std::sort(seconds.begin(), seconds.end());
    const std::size_t half = seconds.size() / 2;
    result.seconds =
        seconds.size() % 2 == 1 ? seconds[half] : (seconds[half - 1] + seconds[half]) / 2;
    result.fastest = seconds.front();
    result.calls = static_cast<int>(seconds.size());
}

Verdict worst_head(const Tensor& out, const Reference& reference, const Allowance& allowance) {
    Verdict worst;
    for (const Verdict& head : judge_heads(out, reference, allowance))
        if (worst.count == 0 || !(head.relative_l1 <= worst.relative_l1)) worst = head;
    return worst;
}

Measurement measure_one(const Tier& tier, const Inputs& inputs, const Reference& wanted,
                        const MeasureFlags& flags) {
    Measurement result;
    result.tier = &tier;
    const Options options = inputs.options();
    Tensor out = inputs.make_out();
    Tensor logsumexp(inputs.query.shape().first(inputs.query.shape().size() - 1),
                     inputs.query.dtype() == DType::float64 ? DType::float64 : DType::float32);
    Execution execution{.tier = tier.name, .threads = flags.threads, .logsumexp = logsumexp};
    const bool returns_logsumexp = tier.limits.logsumexp;
    if (!returns_logsumexp) execution.logsumexp = {};
    const Check able = check(inputs.query, inputs.key, inputs.value, out, options, execution);
    if (!able) {
        result.reason = able.message;
        return result;
    }
    result.scratch = scratch_bytes(inputs.query, inputs.key, inputs.value, out, options, execution);
    check_memory(inputs.bytes() + static_cast<double>(result.scratch),
                 fmt::format("tier {} here", tier.name));
    // A tier that leaves an element unwritten must not pass on what was there before.
    for (Index i = 0; i < out.size(); ++i) out.set(i, std::numeric_limits<double>::quiet_NaN());

    // Memory of our own, so that no call waits for the system to find some. GPU tiers find theirs.
    Tensor scratch;
    if (tier.device == DeviceKind::cpu && result.scratch > 0) {
        scratch = Tensor({static_cast<Index>((result.scratch + 7) / 8)}, DType::float64);
        execution.scratch = {static_cast<std::byte*>(scratch.data()), scratch.bytes()};
    }
    const auto call = [&] {
        scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, out, options,
                                     execution);
    };
    call();  // to warm up, and to judge
    result.shape.assign(out.shape().begin(), out.shape().end());
    const Allowance allowance(tier, inputs.query.dtype());
    result.out = judge(out, wanted, allowance);
    result.accepted = result.out.ok();
    if (returns_logsumexp) {
        result.logsumexp = judge_logsumexp(logsumexp, wanted, allowance);
        result.accepted = result.accepted && result.logsumexp.ok();
    }
    if (tier.accuracy.quantized) {
        result.out = worst_head(out, wanted, allowance);
        result.accepted = result.accepted && result.out.relative_l1 <= quantized_relative_l1;
    }
    time(result, flags.calls, call);
    return result;
}

double gflops(const Measurement& m, const Inputs& inputs) {
    return m.seconds > 0 ? flops(inputs) / m.seconds / 1e9 : 0;
}

/// \brief Median seconds of `literal`, if it was measured; 0 otherwise.
double literal_seconds(std::span<const Measurement> measurements) {
    for (const Measurement& m : measurements)
        if (m.ran() && m.tier->name == std::string_view("literal")) return m.seconds;
    return 0;
}

}  // namespace

void MeasureFlags::add_to(CLI::App& app) {
    app.add_option("--threads", threads, "Threads of CPU tiers; default: all")->type_name("N");
    app.add_option("--calls", calls,
                   "Timed calls of each tier; default: until the median is steady")
        ->check(CLI::Range(1, 1000000).description(""))
        ->type_name("N");
}

std::vector<Measurement> measure(const Inputs& inputs, std::span<const Tier* const> tiers,
                                 const MeasureFlags& flags, Progress& progress) {
    progress.step("the reference: literal, in double");
    const Reference wanted = reference(inputs.query, inputs.key, inputs.value, inputs.options());
    std::vector<Measurement> all;
    for (const Tier* tier : tiers) {
        progress.step(tier->name);
        all.push_back(measure_one(*tier, inputs, wanted, flags));
    }
    return all;
}

bool all_accepted(std::span<const Measurement> measurements) {
    bool any = false;
    for (const Measurement& m : measurements) {
        any = any || m.ran();
        if (m.ran() && !m.accepted) return false;
    }
    return any;
}

Json describe(std::span<const Measurement> measurements, const Inputs& inputs) {
    const auto verdict = [](const Verdict& v) {
        return Json{{"worst_error", v.worst_error}, {"bound", v.bound},
                    {"worst_ratio", v.worst_ratio}, {"rms", v.rms},
                    {"cosine", v.cosine},           {"relative_l1", v.relative_l1},
                    {"relative_l2", v.relative_l2}, {"nans", v.nans}};
    };
    Json json = {{"problem", describe(inputs)}, {"flops", flops(inputs)}, {"tiers", Json::array()}};
    const double literal = literal_seconds(measurements);
    for (const Measurement& m : measurements) {
        Json tier = {{"tier", m.tier->name}, {"ran", m.ran()}};
        if (!m.ran()) {
            tier["reason"] = m.reason;
        } else {
            tier["accepted"] = m.accepted;
            tier["seconds"] = m.seconds;
            tier["fastest_seconds"] = m.fastest;
            tier["calls"] = m.calls;
            tier["speed_up"] = literal > 0 ? Json(literal / m.seconds) : Json(nullptr);
            tier["gflops"] = gflops(m, inputs);
            tier["scratch_bytes"] = m.scratch;
            tier["shape"] = m.shape;
            tier["quantized"] = m.tier->accuracy.quantized;
            tier["out"] = verdict(m.out);
            tier["logsumexp"] = m.logsumexp.count > 0 ? verdict(m.logsumexp) : Json(nullptr);
        }
        json["tiers"].push_back(std::move(tier));
    }
    return json;
}

std::string table(std::span<const Measurement> measurements, const Inputs& inputs) {
    using Align = Table::Align;
    Table table({{"tier", Align::left},
                 {"time"},
                 {"speed-up"},
                 {"GFLOP/s"},
                 {"scratch"},
                 {"error"},
                 {"bound"},
                 {"judged", Align::left},
                 {"out", Align::left}});
    const double literal = literal_seconds(measurements);
    for (const Measurement& m : measurements) {
        if (!m.ran()) {
            table.remark(m.tier->name, "not run: " + m.reason);
            continue;
        }
        const bool quantized = m.tier->accuracy.quantized;
        // Where the logsumexp is the one that fails, its numbers are the ones to show.
        const Verdict& shown = !quantized && m.out.ok() && !m.logsumexp.ok() ? m.logsumexp : m.out;
        table.row(
            {m.tier->name, seconds_text(m.seconds),
             literal > 0 ? fmt::format("{:.1f} x", literal / m.seconds) : "",
             fmt::format("{:.1f}", gflops(m, inputs)), bytes_text(static_cast<double>(m.scratch)),
             fmt::format("{:.1e}", quantized ? shown.worst_error : shown.worst_ratio * shown.bound),
             quantized ? fmt::format("L1 {:.0e}", quantized_relative_l1)
                       : fmt::format("{:.1e}", shown.bound),
             !m.accepted ? (&shown == &m.logsumexp ? "LSE FAILS" : "FAILS")
             : quantized ? fmt::format("ok L1 {:.0e}", m.out.relative_l1)
                         : fmt::format("ok {:.2f}", shown.worst_ratio),
             shape_text(m.shape)});
    }
    return table.text();
}

std::string legend(std::span<const Measurement> measurements) {
    std::string text =
        "Time: median of warm calls. Speed-up: over literal. Error, bound: difference from the "
        "formula "
        "summed in double, and the largest that rounding explains, both at the element that comes "
        "closest to its bound; judged: error / bound.";
    const auto any = [&](auto test) {
        return std::any_of(measurements.begin(), measurements.end(),
                           [&](const Measurement& m) { return m.ran() && test(*m.tier); });
    };
    if (any([](const Tier& tier) { return tier.accuracy.quantized; }))
        text += fmt::format(" Quantized tiers: worst head, relative L1 error up to {}.",
                            quantized_relative_l1);
    if (any([](const Tier& tier) { return tier.device == DeviceKind::gpu; }))
        text += " GPU tiers: the time holds the copies from the host and back.";
    return wrapped(text, 0) + '\n';
}

}  // namespace attn::cli
