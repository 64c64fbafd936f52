/// \file
/// \brief `attn judge`: the properties of attention, one by one, for a tier. The judge of functions
///        is a part of the Python module (it judges torch's as well), so this calls it.
#include <attn/tier.hpp>

#include <fmt/format.h>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "commands.hpp"
#include "problem_flags.hpp"

namespace attn::cli {
namespace {

struct JudgeFlags {
    std::string tier, dtype = "float32", html;
    std::vector<std::string> properties, cases;
};

std::string interpreter() {
    const char* name = std::getenv("ATTN_PYTHON");
    return name != nullptr && *name != '\0' ? name : "python3";
}

/// \brief Runs the interpreter, its output with ours, and returns its exit status; 127 if there is
///        none.
int run_python(const std::vector<std::string>& arguments) {
    std::string program = interpreter();
    std::vector<char*> argv{program.data()};
    std::vector<std::string> copies = arguments;
    for (std::string& argument : copies) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t child = 0;
    if (posix_spawnp(&child, program.c_str(), nullptr, nullptr, argv.data(), environ) != 0)
        return 127;
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Exit judge_tier(const JudgeFlags& flags, const Common& common) {
    check_tier_name(flags.tier);
    if (flags.tier == "auto")
        throw Error(ErrorCode::bad_option, "judge one tier: auto is a choice among them");
    const Availability here = find_tier(flags.tier)->available();
    if (!here.ok)
        throw Error(ErrorCode::unavailable,
                    fmt::format("tier '{}' cannot run here: {}", flags.tier, here.reason));
    // The module may be older or newer than this command: their tiers must be the same ones.
    const std::string probe =
        "import sys\n"
        "try:\n    import attention_ladder as al\n"
        "except ImportError:\n    sys.exit(3)\n"
        "sys.exit(0 if al.__version__ == '" ATTN_VERSION "' else 4)";
    const int found = run_python({"-c", probe});
    if (found == 4)
        throw Error(ErrorCode::unavailable,
                    fmt::format("the Python module that {} finds is not version {}, as this "
                                "command is: pip install . in its tree",
                                interpreter(), ATTN_VERSION));
    if (found != 0)
        throw Error(ErrorCode::unavailable,
                    fmt::format("{} does not find the Python module attention_ladder, which does "
                                "the judging: pip install . and, for another interpreter, set "
                                "ATTN_PYTHON",
                                interpreter()));

    std::vector<std::string> arguments = {
        "-m",    "attention_ladder", "judge",    "tier:" + flags.tier, "--arrays",
        "numpy", "--dtype",          flags.dtype};
    const auto pass_on = [&](const char* flag, const std::string& value) {
        arguments.emplace_back(flag);
        arguments.push_back(value);
    };
    for (const std::string& name : flags.properties) pass_on("--property", name);
    for (const std::string& name : flags.cases) pass_on("--case", name);
    if (!flags.html.empty()) pass_on("--html", flags.html);
    if (common.json) pass_on("--json", "-");
    const int status = run_python(arguments);
    return status == 0 ? success : status == 2 ? bad_usage : failure;
}

}  // namespace

Command add_judge(CLI::App& parent, const Common& common) {
    CLI::App* app =
        parent.add_subcommand("judge", "A tier, property by property (by the Python module)");
    auto flags = std::make_shared<JudgeFlags>();
    app->add_option("tier", flags->tier, "Which one; `attn tiers` lists them")->required();
    app->add_option("--dtype", flags->dtype, "Of query, key and value")
        ->check(CLI::IsMember({"float64", "float32", "float16", "bfloat16"}));
    app->add_option("--property", flags->properties, "Only this one; may be repeated")
        ->allow_extra_args(false);
    app->add_option("--case", flags->cases, "Only this case, L=2,S=3,E=2,Ev=2; may be repeated")
        ->allow_extra_args(false);
    app->add_option("--html", flags->html, "Write the report as a page, too");
    return {app, [flags, &common] { return judge_tier(*flags, common); }};
}

}  // namespace attn::cli
