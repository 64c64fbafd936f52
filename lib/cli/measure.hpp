/// \file
/// \brief Runs tiers on one problem, times them and judges what they return: the table that
///        `attn compare` and `attn demo` show.
#pragma once

#include <attn/judge.hpp>
#include <attn/tier.hpp>

#include <span>
#include <string>
#include <vector>

#include "problem_flags.hpp"
#include "progress.hpp"

namespace attn::cli {

/// \brief What one tier made of the problem.
struct Measurement {
    const Tier* tier = nullptr;
    std::string reason;        ///< why it did not run; empty if it did
    double seconds = 0;        ///< median of the calls after the first
    double fastest = 0;        ///< the fastest of them
    int calls = 0;             ///< how many there were
    std::size_t scratch = 0;   ///< bytes
    std::vector<Index> shape;  ///< of out
    Verdict out;               ///< of a quantized tier: of its worst head
    Verdict logsumexp;
    bool accepted = false;

    bool ran() const { return reason.empty(); }
};

/// \brief How to measure.
struct MeasureFlags {
    int threads = 0;  ///< 0: all
    int calls = 0;    ///< timed ones; 0: as many as give a steady median
    void add_to(CLI::App& app);
};

/// \brief Steps of a progress bar that `measure` takes.
inline int measure_steps(std::size_t tiers) { return 1 + static_cast<int>(tiers); }

/// \brief One measurement for each tier, in their order. Tiers that cannot run get a reason.
/// \throws Error when the problem itself is wrong
std::vector<Measurement> measure(const Inputs& inputs, std::span<const Tier* const> tiers,
                                 const MeasureFlags& flags, Progress& progress);

/// \brief True if every tier that ran was accepted, and at least one ran.
bool all_accepted(std::span<const Measurement> measurements);

Json describe(std::span<const Measurement> measurements, const Inputs& inputs);
std::string table(std::span<const Measurement> measurements, const Inputs& inputs);
/// \brief What the columns mean, in a few lines.
std::string legend(std::span<const Measurement> measurements);

}  // namespace attn::cli
