/// \file
/// \brief `attn generate`: seeded inputs, to files.
#include <attn/attn.hpp>

#include <fmt/format.h>

#include <filesystem>
#include <list>
#include <memory>

#include "npy.hpp"
#include "problem_flags.hpp"
#include "safetensors.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

struct GenerateFlags {
    ProblemFlags problem;
    std::string out;
};

/// \brief query.npy, key.npy and value.npy in a folder: all three or none.
std::vector<std::string> write_folder(const std::string& folder,
                                      std::span<const NamedTensor> tensors) {
    if (!std::filesystem::is_directory(folder))
        throw file_error(folder, "is neither a folder nor a name that ends in .safetensors");
    std::list<OutputFile> files;
    for (const NamedTensor& named : tensors) {
        const std::string path = (std::filesystem::path(folder) / (named.name + ".npy")).string();
        check_npy_dtype(path, named.tensor->dtype());
        write_npy(files.emplace_back(path), *named.tensor);
    }
    std::vector<std::string> written;
    for (OutputFile& file : files) {
        file.commit();
        written.push_back(file.path());
    }
    return written;
}

Exit generate_files(const GenerateFlags& flags, const Common& common) {
    const Inputs inputs = flags.problem.inputs();
    const NamedTensor tensors[] = {
        {"query", &inputs.query}, {"key", &inputs.key}, {"value", &inputs.value}};
    std::vector<std::string> written{flags.out};
    if (flags.out.ends_with(".safetensors"))
        write_safetensors(flags.out, tensors);
    else
        written = write_folder(flags.out, tensors);
    if (common.json)
        print(Json{{"problem", describe(inputs)}, {"files", written}});
    else
        for (const std::string& file : written)
            print(fmt::format("{}: {}\n", file, headline(inputs)));
    return success;
}

}  // namespace

Command add_generate(CLI::App& parent, const Common& common) {
    auto flags = std::make_shared<GenerateFlags>();
    CLI::App* app = parent.add_subcommand("generate", "Seeded random inputs, to files");
    flags->problem.add_to(*app, ProblemFlags::Source::shape);
    app->add_option("--out", flags->out,
                    "A .safetensors file, or a folder for query.npy, key.npy and value.npy")
        ->required()
        ->type_name("PATH");
    std::string footer = "Generators:\n";
    for (const Generator& g : generators()) footer += fmt::format("  {:<16}{}\n", g.name, g.about);
    app->footer(footer);
    return {app, [flags, &common] { return generate_files(*flags, common); }};
}

}  // namespace attn::cli
