/// \file
/// \brief `attn compare`: tiers side by side on one problem, each judged against the formula.
#include <fmt/format.h>

#include <memory>

#include "measure.hpp"

namespace attn::cli {
namespace {

struct CompareFlags {
    ProblemFlags problem;
    std::vector<std::string> tiers;
    MeasureFlags measure;
};

Exit compare(const CompareFlags& flags, const Common& common) {
    std::vector<const Tier*> chosen(tiers().begin(), tiers().end());
    if (!flags.tiers.empty()) chosen.clear();
    for (const std::string& name : flags.tiers) {
        check_tier_name(name);
        if (name == "auto")
            throw Error(ErrorCode::bad_option,
                        "auto is not a tier but a choice among them; "
                        "`attn explain` shows what it takes");
        chosen.push_back(find_tier(name));
    }
    const Inputs inputs = flags.problem.inputs();
    std::vector<Measurement> measurements;
    {
        Progress progress(measure_steps(chosen.size()));
        measurements = measure(inputs, chosen, flags.measure, progress);
    }
    // A tier that was asked for by name and did not run is an error, not a remark.
    for (const Measurement& m : measurements)
        if (!flags.tiers.empty() && !m.ran()) throw Error(ErrorCode::unsupported, m.reason);
    const bool accepted = all_accepted(measurements);
    if (common.json) {
        Json json = describe(measurements, inputs);
        json["accepted"] = accepted;
        print(json);
    } else {
        print(headline(inputs) + "\n\n" + table(measurements, inputs) + '\n' +
              legend(measurements));
    }
    if (!common.json)
        for (const Measurement& m : measurements)
            if (m.ran() && !m.accepted)
                fmt::print(stderr, "attn compare: {}: out: {}; logsumexp: {}\n", m.tier->name,
                           text_of(m.out), text_of(m.logsumexp));
    return accepted ? success : failure;
}

}  // namespace

Command add_compare(CLI::App& parent, const Common& common) {
    auto flags = std::make_shared<CompareFlags>();
    CLI::App* app = parent.add_subcommand(
        "compare", "Tiers side by side: time, memory, error. Exit 1 if one misses its bound");
    flags->problem.add_to(*app, ProblemFlags::Source::files_or_shape);
    app->add_option("--tiers", flags->tiers, "Only these, as a,b,c; default: all that can run")
        ->delimiter(',')
        ->type_name("NAMES");
    flags->measure.add_to(*app);
    return {app, [flags, &common] { return compare(*flags, common); }};
}

}  // namespace attn::cli
