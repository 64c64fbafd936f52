/// \file
/// \brief Where a tile of the tier `simd` spends its time: the times of its phases, for one width.
#pragma once

#include "isa.hpp"

#include <attn/tensor.hpp>

#include <vector>

namespace attn {

/// \brief One phase: processor time of one call, and its share of the peak in the same round.
struct SimdPhase {
    const char* name;
    double flops;         ///< of one call; 0: none that count
    double seconds_best;  ///< of all rounds
    double seconds_median;
    double share_best;    ///< of the multiply-adds per second, both at their best
    double share_median;  ///< of the rounds' own shares
};

#define ATTN_COPY(isa)                                                            \
    namespace isa {                                                               \
    std::vector<SimdPhase> simd_phases(Index E, int rounds, double& peak_gflops); \
    }
ATTN_FOR_EACH_ISA(ATTN_COPY)
#undef ATTN_COPY

}  // namespace attn
