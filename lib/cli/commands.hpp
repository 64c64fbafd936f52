/// \file
/// \brief The subcommands of `attn`: one file each, named after it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace attn::cli {

using Json = nlohmann::ordered_json;

/// \brief Exit status of the command.
enum Exit : int {
    success = 0,
    failure = 1,    ///< a comparison failed, or something broke inside
    bad_usage = 2,  ///< an input, a file or a flag is at fault
};

/// \brief What holds for every subcommand.
struct Common {
    bool json = false;  ///< results as one JSON object on standard output
};

/// \brief A subcommand: its flags, and what it does once they are parsed.
struct Command {
    CLI::App* app;
    std::function<Exit()> action;
};

Command add_run(CLI::App& parent, const Common& common);
Command add_compare(CLI::App& parent, const Common& common);
Command add_tiers(CLI::App& parent, const Common& common);
Command add_judge(CLI::App& parent, const Common& common);
Command add_explain(CLI::App& parent, const Common& common);
Command add_generate(CLI::App& parent, const Common& common);
Command add_demo(CLI::App& parent, const Common& common);

/// \brief Prints to standard output. All results go here; remarks and errors go to standard error.
void print(const std::string& text);
/// \brief The same, for a JSON object.
void print(const Json& json);

}  // namespace attn::cli
