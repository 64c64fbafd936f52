/// \file
/// \brief `attn tiers`: the ladder. Each tier's idea, limits, and whether it runs here.
#include <attn/tier.hpp>

#include <fmt/format.h>

#include "commands.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

std::vector<std::string> dtype_names(const Limits& limits) {
    std::vector<std::string> names;
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16})
        if (limits.dtypes.has(dtype)) names.emplace_back(name_of(dtype));
    return names;
}

/// \brief What it takes, and what it does not, in words.
std::string limits_text(const Limits& limits) {
    std::string takes;
    for (const std::string& name : dtype_names(limits)) takes += (takes.empty() ? "" : " ") + name;
    std::string lacks;
    const auto option = [&](bool taken, const char* what) {
        if (!taken) lacks += (lacks.empty() ? "" : ", ") + std::string(what);
    };
    option(limits.boolean_mask, "boolean mask");
    option(limits.additive_mask, "additive mask");
    option(limits.causal, "causal rule");
    option(limits.grouped_heads, "grouped heads");
    option(limits.logsumexp, "logsumexp");
    takes += limits.max_head_dim > 0 ? fmt::format("; head_dim up to {}", limits.max_head_dim)
                                     : "; any head_dim";
    takes += lacks.empty() ? "; every option" : "; no " + lacks;
    if (*limits.requires_ != '\0') takes += std::string("; needs ") + limits.requires_;
    return takes;
}

Json describe(const Tier& tier) {
    const Availability here = tier.available();
    const bool limits_known = tier.limits.dtypes.bits != 0;  // not of a tier that was not built
    Json json = {{"tier", tier.name},
                 {"device", tier.device == DeviceKind::gpu ? "gpu" : "cpu"},
                 {"builds_on", tier.builds_on},
                 {"idea", tier.idea},
                 {"available", here.ok},
                 {"reason", here.ok ? Json(nullptr) : Json(here.reason)},
                 {"limits", nullptr}};
    if (limits_known)
        json["limits"] = {
            {"dtypes", dtype_names(tier.limits)},
            {"boolean_mask", tier.limits.boolean_mask},
            {"additive_mask", tier.limits.additive_mask},
            {"causal", tier.limits.causal},
            {"grouped_heads", tier.limits.grouped_heads},
            {"logsumexp", tier.limits.logsumexp},
            {"max_head_dim",
             tier.limits.max_head_dim > 0 ? Json(tier.limits.max_head_dim) : Json(nullptr)},
            {"requires", tier.limits.requires_},
            {"quantized", tier.accuracy.quantized}};
    return json;
}

std::string entry(const Tier& tier) {
    constexpr std::size_t margin = 20;
    const Availability here = tier.available();
    const auto line = [&](const std::string& head, const std::string& text) {
        return fmt::format("{:<{}}{}\n", head, margin, wrapped(text, margin));
    };
    std::string text = line(tier.name, tier.idea);
    const std::string device = tier.device == DeviceKind::gpu ? "GPU" : "CPU";
    if (tier.limits.dtypes.bits != 0)
        text += line("  " + device,
                     limits_text(tier.limits) + (tier.accuracy.quantized ? "; quantized" : ""));
    else
        text += line("  " + device, "not in this build");
    text += line("", std::string("builds on ") + tier.builds_on + "; " +
                         (here.ok ? "runs here" : "does not run here: " + here.reason));
    return text;
}

}  // namespace

Command add_tiers(CLI::App& parent, const Common& common) {
    CLI::App* app = parent.add_subcommand("tiers", "The ladder: ideas, limits, what runs here");
    return {app, [&common] {
                if (common.json) {
                    Json list = Json::array();
                    for (const Tier* tier : tiers()) list.push_back(describe(*tier));
                    print(Json{{"tiers", list}});
                    return success;
                }
                for (const Tier* tier : tiers())
                    print((tier == tiers().front() ? "" : "\n") + entry(*tier));
                return success;
            }};
}

}  // namespace attn::cli
