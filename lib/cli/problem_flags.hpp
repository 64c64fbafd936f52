/// \file
/// \brief The flags that say which problem to work on, shared by the subcommands: its tensors,
///        from files or drawn from a generator, and its options.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "commands.hpp"

namespace attn::cli {

/// \brief Inputs that own their memory.
struct Inputs {
    Tensor query, key, value;
    std::optional<Tensor> mask;
    Causal causal = Causal::none;
    std::optional<double> scale;
    std::string origin;  ///< "gauss, seed 0", or the names of the files

    /// \brief Valid as long as this object is neither moved nor destroyed.
    Options options() const;
    /// \brief An uncomputed `out`, or an empty tensor where query and value do not fit: the
    ///        library then says why.
    Tensor make_out() const;
    /// \brief Bytes of all tensors, `out` among them.
    double bytes() const;
};

/// \brief Flags and, once they are parsed, how to get the inputs that they describe.
class ProblemFlags {
  public:
    enum class Source {
        files,           ///< --query --key --value or --qkv, --mask; options
        files_or_shape,  ///< these, or --shape and its kin; options
        shape,           ///< only --shape and its kin
    };
    void add_to(CLI::App& app, Source source);
    enum class Values { needed, ignored };
    /// \brief Loads or draws the inputs; drawn ones are all 0 where their values do not matter.
    /// \throws Error
    Inputs inputs(Values values = Values::needed) const;
    /// \brief Every input file that was named.
    std::vector<std::string> files() const;

  private:
    void add_files(CLI::App& app);
    void add_shape(CLI::App& app, bool required);
    void add_options(CLI::App& app);
    Inputs load() const;
    Inputs draw(Values values) const;

    // Files, each .npy or .safetensors:
    std::string query_, key_, value_, qkv_, mask_;
    // A drawn problem:
    std::string shape_;  // "B,Hq,L,E"
    std::optional<Index> keys_, key_heads_, value_dim_;
    std::optional<std::string> dtype_, generator_;
    std::optional<std::uint64_t> seed_;
    // Options:
    std::string causal_ = "none";
    std::optional<double> scale_;
};

/// \brief The tensor of a .npy file; of a .safetensors file the tensor called `name`, or the one
///        that "file.safetensors:tensor" names.
Tensor read_tensor(const std::string& path, const std::string& name);

/// \brief Refuses work that needs more memory than the machine has.
/// \throws Error `no_memory` with both numbers
void check_memory(double bytes, const std::string& what);

/// \brief Refuses the name of a tier that there is not.
/// \throws Error `bad_option` with the names that there are
void check_tier_name(const std::string& name);

/// \brief Number of floating-point operations: `Problem::flops` for tensors of any rank.
double flops(const Inputs& inputs);

/// \brief Shapes, dtype, mask, causal rule, scale and origin.
Json describe(const Inputs& inputs);
/// \brief The same in one line.
std::string headline(const Inputs& inputs);

}  // namespace attn::cli
