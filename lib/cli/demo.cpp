/// \file
/// \brief `attn demo`: every tier that runs here on three problems, two drawn and one real.
#include <attn/attn.hpp>

#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "measure.hpp"
#include "npy.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

struct DemoFlags {
    std::string data;
    MeasureFlags measure;
};

/// \brief Folder of the captured tensors: beside the installed command, or in the source tree.
std::string data_folder() {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path command = fs::read_symlink("/proc/self/exe", error);
    const fs::path installed = command.parent_path().parent_path() / "share" / "attention_ladder";
    for (const fs::path& folder : {installed, fs::path(ATTN_DATA_DIR)})
        if (fs::exists(folder / "query.npy", error)) return folder.string();
    throw Error(ErrorCode::bad_file,
                fmt::format("the captured data is neither in {} nor in {}; say where with --data",
                            installed.string(), ATTN_DATA_DIR));
}

Inputs drawn(Index L, Index E) {
    Inputs inputs;
    Qkv qkv = generate("gauss", {.B = 4, .Hq = 8, .H = 8, .L = L, .S = L, .E = E, .Ev = E}, 0);
    inputs.query = std::move(qkv.query);
    inputs.key = std::move(qkv.key);
    inputs.value = std::move(qkv.value);
    inputs.origin = "gauss, seed 0";
    return inputs;
}

Inputs captured(const std::string& folder) {
    Inputs inputs;
    inputs.query = read_npy(folder + "/query.npy");
    inputs.key = read_npy(folder + "/key.npy");
    inputs.value = read_npy(folder + "/value.npy");
    inputs.origin = "layer 3 of a text encoder";
    return inputs;
}

Exit demo(const DemoFlags& flags, const Common& common) {
    const std::string folder = flags.data.empty() ? data_folder() : flags.data;
    const Inputs problems[] = {drawn(64, 64), drawn(128, 128), captured(folder)};
    Json list = Json::array();
    bool accepted = true;
    std::vector<Measurement> last;
    for (const Inputs& inputs : problems) {
        {
            Progress progress(measure_steps(tiers().size()));
            last = measure(inputs, tiers(), flags.measure, progress);
        }
        accepted = accepted && all_accepted(last);
        if (common.json)
            list.push_back(describe(last, inputs));
        else
            print(headline(inputs) + "\n\n" + table(last, inputs) + '\n');
    }
    if (common.json)
        print(Json{{"problems", list}, {"accepted", accepted}});
    else
        print(legend(last) + (accepted ? "Every tier that ran is within its bound.\n"
                                       : "A tier missed its bound: see FAILS above.\n"));
    return accepted ? success : failure;
}

}  // namespace

Command add_demo(CLI::App& parent, const Common& common) {
    auto flags = std::make_shared<DemoFlags>();
    CLI::App* app = parent.add_subcommand(
        "demo", "Every tier on (4, 8, 64, 64), (4, 8, 128, 128) and captured data");
    app->add_option("--data", flags->data, "Folder of the captured query.npy, key.npy, value.npy")
        ->type_name("FOLDER");
    flags->measure.add_to(*app);
    return {app, [flags, &common] { return demo(*flags, common); }};
}

}  // namespace attn::cli
