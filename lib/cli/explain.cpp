/// \file
/// \brief `attn explain`: which tier a call takes, and why each other was not taken.
#include <attn/attn.hpp>

#include <fmt/format.h>

#include <memory>

#include "check.hpp"
#include "problem_flags.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

struct ExplainFlags {
    ProblemFlags problem;
    std::string tier = "auto", device = "host";
    int threads = 0;
    double max_relative_error = 0;
};

Exit explain_choice(const ExplainFlags& flags, const Common& common) {
    check_tier_name(flags.tier);
    const Inputs inputs = flags.problem.inputs(ProblemFlags::Values::ignored);
    Tensor out = inputs.make_out();
    Options options = inputs.options();
    TensorView query = inputs.query, key = inputs.key, value = inputs.value;
    MutableTensorView out_view = out;
    if (flags.device == "cuda") {  // only the place is looked at, never the memory
        for (TensorView* view : {&query, &key, &value, &options.mask})
            if (!view->absent()) view->device = 0;
        out_view.device = 0;
    } else if (flags.device != "host") {
        throw Error(ErrorCode::bad_option,
                    fmt::format("--device is '{}', but must be host or cuda", flags.device));
    }
    Execution execution{.tier = flags.tier,
                        .threads = flags.threads,
                        .max_relative_error = flags.max_relative_error};
    const Explanation explanation = explain(query, key, value, out_view, options, execution);

    // Which kernel inside the tier, where there are several.
    const Tier& taken = *find_tier(explanation.tier);
    execution.tier = taken.name;
    const std::string variant =
        taken.variant == nullptr
            ? ""
            : taken.variant(make_call(query, key, value, out_view, options, execution).problem);

    if (common.json) {
        Json list = Json::array();
        for (const Candidate& c : explanation.candidates) {
            const auto if_able = [&](auto number) { return c.able ? Json(number) : Json(nullptr); };
            list.push_back({{"tier", c.tier},
                            {"taken", c.tier == explanation.tier},
                            {"able", c.able},
                            {"reason", c.reason},
                            {"estimated_seconds", if_able(c.estimated_seconds)},
                            {"scratch_bytes", if_able(c.scratch_bytes)}});
        }
        print(Json{{"problem", describe(inputs)},
                   {"device", flags.device},
                   {"tier", explanation.tier},
                   {"variant", variant},
                   {"candidates", list}});
        return success;
    }
    using Align = Table::Align;
    Table table({{""}, {"tier", Align::left}, {"estimate"}, {"scratch"}, {"why", Align::left}});
    for (const Candidate& c : explanation.candidates)
        table.row({c.tier == explanation.tier ? ">" : "", c.tier,
                   c.able ? seconds_text(c.estimated_seconds) : "-",
                   c.able ? bytes_text(static_cast<double>(c.scratch_bytes)) : "-", c.reason});
    print(fmt::format("{}\n{} takes {}{}\n\n{}", headline(inputs), flags.tier, explanation.tier,
                      variant.empty() ? "" : " (" + variant + ")", table.text(0)));
    return success;
}

}  // namespace

Command add_explain(CLI::App& parent, const Common& common) {
    auto flags = std::make_shared<ExplainFlags>();
    CLI::App* app = parent.add_subcommand(
        "explain", "Which tier auto takes for a problem, and why not each other");
    flags->problem.add_to(*app, ProblemFlags::Source::files_or_shape);
    app->add_option("--tier", flags->tier, "As for `attn run`; default: auto")->type_name("NAME");
    app->add_option("--threads", flags->threads, "Threads of a CPU tier; default: all")
        ->type_name("N");
    app->add_option("--max-relative-error", flags->max_relative_error,
                    "Of a head, that a tier which rounds to 8 bits may make; default: no limit")
        ->type_name("X");
    app->add_option("--device", flags->device,
                    "Where the tensors live: host or cuda; default: host")
        ->type_name("NAME");
    return {app, [flags, &common] { return explain_choice(*flags, common); }};
}

}  // namespace attn::cli
