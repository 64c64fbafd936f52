/// \file
/// \brief `auto` is not a tier: it is a rule that picks one from recorded speeds, and explains
///        itself.
///
/// A tier is able if it can run here, its limits take the problem, it works where the tensors live,
/// and its working memory is bearable. Among the able ones the smallest estimated time wins:
///
///     seconds = seconds per call + flops / (speed x workers)
///
/// with the speeds of lib/speeds.def. They come from one machine; on another the estimates are off
/// but their order is mostly kept.
#include "choose.hpp"

#include "check.hpp"

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>

namespace attn {
namespace {

struct Speed {
    std::string_view tier;
    double gflops;   // per worker
    double seconds;  // per call
};

constexpr Speed speeds[] = {
#define ATTN_SPEED(tier, gflops, seconds) {#tier, gflops, seconds},
#include "speeds.def"
#undef ATTN_SPEED
    {"", 1.0, 0.0},  // any tier that has not been measured yet
};

const Speed& speed_of(std::string_view tier) {
    const Speed* last = std::end(speeds) - 1;
    return *std::find_if(std::begin(speeds), last, [&](const Speed& s) { return s.tier == tier; });
}

/// More working memory than this is not taken without being asked for.
constexpr std::size_t most_scratch = std::size_t{1} << 30;

int workers(const Tier& tier, const Problem& p) {
    if (!tier.parallel) return 1;
    return p.threads > 0 ? p.threads
                         : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string number(double x, const char* unit = "") {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.3g%s", x, unit);
    return buffer;
}

/// Why `auto` does not let a quantized tier round; empty if it does.
std::string why_not_rounded(const Tier& tier, double allowed) {
    if (!tier.accuracy.quantized || (allowed > 0 && allowed >= tier.limits.error_limit)) return "";
    if (allowed > 0)
        return "rounds to 8 bits: with a max_relative_error below " +
               number(tier.limits.error_limit) + " most heads would be computed twice";
    return "rounds to 8 bits: ask for it by name, or say max_relative_error";
}

/// What the estimate of a tier's time leaves out.
std::string reservation(const Tier& tier, const Problem& p) {
    if (!tier.accuracy.quantized || !(p.max_relative_error > 0)) return "";
    return "; heads with a larger relative error than " + number(p.max_relative_error) +
           " on a sample of rows: again, in floating point";
}

Candidate consider(const Tier& tier, const Problem& problem, std::size_t caller_scratch) {
    //! [consider]
    Candidate candidate;
    candidate.tier = tier.name;
    if (const Check taken = check_tier(tier, problem); !taken) {
        candidate.reason = taken.message;
        return candidate;
    }
    candidate.able = true;
    candidate.scratch_bytes = tier.scratch_bytes(problem);
    const Speed& speed = speed_of(tier.name);
    candidate.estimated_seconds =
        speed.seconds + problem.flops() / (speed.gflops * 1e9 * workers(tier, problem));
    if (tier.device == DeviceKind::gpu && problem.device == host)
        candidate.reason = "the tensors are on the host: ask for it by name to copy them";
    else if (const std::string why = why_not_rounded(tier, problem.max_relative_error);
             !why.empty())
        candidate.reason = why;
    else if (caller_scratch > 0 && candidate.scratch_bytes > caller_scratch)
        candidate.reason = "needs " + std::to_string(candidate.scratch_bytes) +
                           " bytes of scratch, more than were given";
    else if (caller_scratch == 0 && candidate.scratch_bytes > most_scratch)
        candidate.reason = "needs " + std::to_string(candidate.scratch_bytes) + " bytes of scratch";
    //! [consider]
    return candidate;
}

[[noreturn]] void fail_unknown(std::string_view asked) {
    std::string names = "auto";
    for (const Tier* known : tiers()) names += std::string(", ") + known->name;
    throw Error(ErrorCode::bad_option,
                "there is no tier '" + std::string(asked) + "'; there are " + names);
}

/// The tier asked for by name, or an error.
const Tier& named(const Problem& problem, std::string_view asked) {
    const Tier* tier = find_tier(asked);
    if (tier == nullptr) fail_unknown(asked);
    if (const Check taken = check_tier(*tier, problem); !taken)
        throw Error(*taken.error, taken.message);
    return *tier;
}

}  // namespace

const Tier& choose(const Problem& problem, std::string_view asked, std::size_t caller_scratch) {
    if (asked != "auto") return named(problem, asked);
    const Tier* best = nullptr;
    double least = 0;
    for (const Tier* tier : tiers()) {
        if (tier->device == DeviceKind::gpu && problem.device == host) continue;
        const Candidate candidate = consider(*tier, problem, caller_scratch);
        if (!candidate.able || !candidate.reason.empty()) continue;
        if (best != nullptr && candidate.estimated_seconds >= least) continue;
        best = tier;
        least = candidate.estimated_seconds;
    }
    if (best != nullptr) return *best;
    std::string why;
    for (const Tier* tier : tiers())
        why += (why.empty() ? "" : "; ") + consider(*tier, problem, caller_scratch).reason;
    throw Error(ErrorCode::unsupported, "no tier takes this problem: " + why);
}

Explanation explain_choice(const Problem& problem, std::string_view asked,
                           std::size_t caller_scratch) {
    Explanation explanation;
    explanation.tier = choose(problem, asked, caller_scratch).name;
    for (const Tier* tier : tiers()) {
        Candidate candidate = consider(*tier, problem, caller_scratch);
        const std::string estimate =
            number(candidate.estimated_seconds * 1e3, " ms") + reservation(*tier, problem);
        if (candidate.tier == explanation.tier)
            candidate.reason = asked == "auto"
                                   ? "taken: the smallest estimate, " + estimate
                                   : "taken: asked for by name" + reservation(*tier, problem);
        else if (candidate.reason.empty())
            candidate.reason =
                asked == "auto" ? "estimated at " + estimate : "another tier was asked for by name";
        explanation.candidates.push_back(candidate);
    }
    return explanation;
}

}  // namespace attn
