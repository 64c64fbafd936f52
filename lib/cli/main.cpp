/// \file
/// \brief The command `attn`: parses, calls a subcommand, turns errors into exit statuses.
#include <attn/attn.hpp>

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "commands.hpp"
#include "isa.hpp"
#include "output_file.hpp"
#include "text.hpp"

namespace attn::cli {

void print(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw std::runtime_error("standard output cannot be written");
}

// One line, as tools that read lines like it. A name in a file need not be UTF-8: such bytes are
// replaced, not refused.
void print(const Json& json) {
    print(json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n');
}

namespace {

/// \brief Environment variables that change what is computed or how fast.
constexpr const char* variables[] = {"ATTN_ISA",      "ATTN_TIER",  "OMP_NUM_THREADS",
                                     "OMP_PROC_BIND", "OMP_PLACES", "CUDA_VISIBLE_DEVICES",
                                     "ATTN_PYTHON"};

Exit version(const Common& common) {
    std::vector<std::string> sets;
#define ATTN_NAME_ISA(isa) sets.emplace_back(name_of(Isa::isa));
    ATTN_FOR_EACH_ISA(ATTN_NAME_ISA)
#undef ATTN_NAME_ISA
    const std::string current = name_of(current_isa());
    std::string cuda = "no GPU tiers";
    for (const Tier* tier : tiers()) {
        if (tier->device != DeviceKind::gpu) continue;
        const Availability here = tier->available();
        cuda = here.ok ? "runs here" : here.reason;
        if (here.ok) break;
    }
    Json environment = Json::object();
    for (const char* name : variables)
        if (const char* value = std::getenv(name)) environment[name] = value;
    if (common.json) {
        print(Json{{"version", ATTN_VERSION},
                   {"instruction_sets", sets},
                   {"instruction_set", current},
                   {"cuda", cuda},
                   {"environment", environment}});
        return success;
    }
    std::string text = fmt::format("attn {}\ninstruction sets:", ATTN_VERSION);
    for (const std::string& set : sets) text += ' ' + set;
    text += fmt::format("; used here: {}\nCUDA: {}\nenvironment:", current, cuda);
    for (const auto& [name, value] : environment.items())
        text += fmt::format(" {}={}", name, value.get<std::string>());
    print(text + (environment.empty() ? " nothing set that matters here\n" : "\n"));
    return success;
}

/// \brief Prints one sentence to standard error, and for --json an object to standard output.
Exit complain(Exit status, const Common& common, const std::string& where, const char* code,
              const std::string& sentence) {
    fmt::print(stderr, "{}: {}\n", where, sentence);
    if (common.json) {
        try {
            print(Json{{"error", {{"code", code}, {"message", sentence}}}});
        } catch (const std::exception&) {  // standard output is closed: the sentence above must do
        }
    }
    return status;
}

/// \brief All long flags of a subcommand, or all subcommands.
std::string valid_names(const CLI::App& app, const CLI::App& root) {
    std::string names;
    const auto add = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
    if (&app == &root)
        for (const CLI::App* command : app.get_subcommands(nullptr)) add(command->get_name());
    for (const CLI::App* level : {&app, &root}) {
        for (const CLI::Option* option : level->get_options())
            for (const std::string& name : option->get_lnames())
                if (level == &app || name != "help") add("--" + name);  // each has a --help
        if (level == &root) break;
    }
    return names;
}

/// \brief Why the arguments were not understood.
std::string usage_sentence(const CLI::App& root, const CLI::ParseError& error) {
    const auto parsed = root.get_subcommands();
    const CLI::App& app = parsed.empty() ? root : *parsed.front();
    if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return error.what();
    std::string unknown;
    for (const CLI::App* level : {&root, &app})
        for (const std::string& argument : level->remaining())
            if (unknown.empty()) unknown = argument;
    return fmt::format("there is no {} '{}'; there are {}",
                       &app == &root ? "command or flag" : "flag", unknown, valid_names(app, root));
}

extern "C" void stop(int signal) {
    remove_unfinished_files();
    std::_Exit(128 + signal);
}

Exit run(int argc, char** argv) {
    for (int signal : {SIGINT, SIGTERM, SIGHUP})  // one that is ignored stays so: nohup
        if (std::signal(signal, stop) == SIG_IGN) std::signal(signal, SIG_IGN);
    Common common;
    CLI::App root("Scaled dot-product attention, from the formula to the tensor cores.", "attn");
    bool wants_version = false;
    root.add_flag("--json", common.json, "Print one JSON object instead of text");
    root.add_flag("--version", wants_version, "Version, instruction sets, CUDA, environment");
    const Command commands[] = {add_demo(root, common),    add_run(root, common),
                                add_compare(root, common), add_judge(root, common),
                                add_explain(root, common), add_tiers(root, common),
                                add_generate(root, common)};
    // After the commands, which would inherit it.
    root.footer(
        "`attn COMMAND --help` shows the flags of a command.\n"
        "Exit status: 0 success, 1 a comparison failed or something broke inside, "
        "2 an input or a flag is at fault.");
    root.require_subcommand(0, 1);
    for (const Command& command : commands) command.app->fallthrough();

    std::string where = "attn";
    try {
        root.parse(argc, argv);
        if (wants_version) return version(common);
        for (const Command& command : commands) {
            if (!command.app->parsed()) continue;
            where = "attn " + command.app->get_name();
            return command.action();
        }
        print(root.help());
        return bad_usage;
    } catch (const CLI::CallForHelp&) {
        print(root.help());  // of the command, if one was named
        return success;
    } catch (const CLI::ParseError& error) {
        const auto parsed = root.get_subcommands();
        if (!parsed.empty()) where = "attn " + parsed.front()->get_name();
        return complain(bad_usage, common, where, "bad_option", usage_sentence(root, error));
    } catch (const Error& error) {
        const bool inside = error.code() == ErrorCode::device_error;
        return complain(inside ? failure : bad_usage, common, where, name_of(error.code()),
                        error.what());
    } catch (const std::bad_alloc&) {
        return complain(failure, common, where, "no_memory", "there is not enough memory");
    } catch (const std::exception& error) {
        return complain(failure, common, where, "internal", error.what());
    }
}

}  // namespace
}  // namespace attn::cli

int main(int argc, char** argv) {
    try {
        return attn::cli::run(argc, argv);
    } catch (...) {  // the flags could not be set up, or standard error is closed: nothing to say
        return attn::cli::failure;
    }
}
