/// \file
/// \brief `attn run`: attention on tensors from files, to files.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <chrono>
#include <filesystem>
#include <memory>

#include "npy.hpp"
#include "problem_flags.hpp"
#include "progress.hpp"
#include "safetensors.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

struct RunFlags {
    ProblemFlags problem;
    std::string tier = "auto", out, logsumexp;
    int threads = 0;
    double max_relative_error = 0;
};

/// \brief A .npy or .safetensors file to come. Made before the work, so that a name that cannot be
///        written is known at once.
class TensorFile {
  public:
    TensorFile(const std::string& path, DType dtype) : file_(path) {
        if (path.ends_with(".npy"))
            check_npy_dtype(path, dtype);
        else if (!path.ends_with(".safetensors"))
            throw file_error(path, "its name ends neither in .npy nor in .safetensors");
    }
    void write(const std::string& name, const Tensor& tensor) {
        if (file_.path().ends_with(".npy")) return write_npy(file_, tensor);
        const NamedTensor named[] = {{name, &tensor}};
        write_safetensors(file_, named);
    }
    void commit() { file_.commit(); }

  private:
    OutputFile file_;
};

/// \brief No output may be an input or the other output: the work would eat its own data.
void check_names(const RunFlags& flags) {
    namespace fs = std::filesystem;
    std::error_code ignored;  // a file that is not there equals none
    for (const std::string& out : {flags.out, flags.logsumexp})
        for (const std::string& in : flags.problem.files())
            if (!out.empty() && fs::equivalent(out, in, ignored))
                throw file_error(out, "is an input as well; it is not overwritten");
    if (!flags.logsumexp.empty() && fs::absolute(flags.out).lexically_normal() ==
                                        fs::absolute(flags.logsumexp).lexically_normal())
        throw file_error(flags.out, "is the name of both out and logsumexp");
}

Exit run(const RunFlags& flags, const Common& common) {
    check_tier_name(flags.tier);
    check_names(flags);
    const Inputs inputs = flags.problem.inputs();
    check_memory(inputs.bytes(), "query, key, value, mask and out");
    const Options options = inputs.options();
    Tensor out = inputs.make_out();
    Tensor logsumexp;
    Execution execution{.tier = flags.tier,
                        .threads = flags.threads,
                        .max_relative_error = flags.max_relative_error};
    if (!flags.logsumexp.empty() && inputs.query.rank() >= 2) {
        logsumexp =
            Tensor(inputs.query.shape().first(inputs.query.shape().size() - 1),
                   inputs.query.dtype() == DType::float64 ? DType::float64 : DType::float32);
        execution.logsumexp = logsumexp;
    }
    // Everything that can be wrong is found before the first file is made.
    const Explanation plan =
        explain(inputs.query, inputs.key, inputs.value, out, options, execution);
    const std::string tier = plan.tier;
    execution.tier = tier;
    const std::size_t scratch =
        scratch_bytes(inputs.query, inputs.key, inputs.value, out, options, execution);
    check_memory(inputs.bytes() + static_cast<double>(scratch), fmt::format("tier {} here", tier));
    TensorFile out_file(flags.out, out.dtype());
    std::optional<TensorFile> logsumexp_file;
    if (!flags.logsumexp.empty()) logsumexp_file.emplace(flags.logsumexp, logsumexp.dtype());

    double seconds = 0;
    {
        Progress progress(1);
        progress.step(tier);
        const auto start = std::chrono::steady_clock::now();
        scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, out, options,
                                     execution);
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    out_file.write("out", out);
    if (logsumexp_file) logsumexp_file->write("logsumexp", logsumexp);
    out_file.commit();
    if (logsumexp_file) logsumexp_file->commit();

    if (common.json) {
        Json json = {{"problem", describe(inputs)},
                     {"tier", tier},
                     {"seconds", seconds},
                     {"scratch_bytes", scratch},
                     {"out",
                      {{"file", flags.out},
                       {"shape", std::vector<Index>(out.shape().begin(), out.shape().end())},
                       {"dtype", name_of(out.dtype())}}},
                     {"logsumexp", nullptr}};
        if (logsumexp_file)
            json["logsumexp"] = {
                {"file", flags.logsumexp},
                {"shape", std::vector<Index>(logsumexp.shape().begin(), logsumexp.shape().end())},
                {"dtype", name_of(logsumexp.dtype())}};
        print(json);
        return success;
    }
    print(fmt::format("{}: out ({}) {}, tier {}, {} (one cold call), scratch {}\n", flags.out,
                      shape_text(out.shape()), name_of(out.dtype()), tier, seconds_text(seconds),
                      bytes_text(static_cast<double>(scratch))));
    if (logsumexp_file)
        print(fmt::format("{}: logsumexp ({}) {}\n", flags.logsumexp, shape_text(logsumexp.shape()),
                          name_of(logsumexp.dtype())));
    return success;
}

}  // namespace

Command add_run(CLI::App& parent, const Common& common) {
    auto flags = std::make_shared<RunFlags>();
    CLI::App* app = parent.add_subcommand("run", "Attention on tensors from files, to files");
    flags->problem.add_to(*app, ProblemFlags::Source::files);
    app->add_option("--tier", flags->tier, "A name from `attn tiers`; default: auto")
        ->type_name("NAME");
    app->add_option("--threads", flags->threads, "Threads of a CPU tier; default: all")
        ->type_name("N");
    app->add_option("--max-relative-error", flags->max_relative_error,
                    "Of a head, that a tier which rounds to 8 bits may make; default: no limit")
        ->type_name("X");
    app->add_option("--out", flags->out, "Where out goes: .npy or .safetensors")
        ->required()
        ->type_name("FILE");
    app->add_option("--logsumexp", flags->logsumexp, "Where logsumexp goes, if it is wanted")
        ->type_name("FILE");
    return {app, [flags, &common] { return run(*flags, common); }};
}

}  // namespace attn::cli
