/// \file
/// \brief Prints, as JSON, what the phases of one tile of the tier `simd` take: record_phases.py
///        runs it and keeps the result.
#include "simd_phases.hpp"

#include <cstdio>

namespace {

std::vector<attn::SimdPhase> measure(attn::Index E, double& peak) {
    constexpr int rounds = 400;
    switch (attn::current_isa()) {
#define ATTN_CASE(isa)   \
    case attn::Isa::isa: \
        return attn::isa::simd_phases(E, rounds, peak);
        ATTN_FOR_EACH_ISA(ATTN_CASE)
#undef ATTN_CASE
        default:
            return attn::baseline::simd_phases(E, rounds, peak);
    }
}

}  // namespace

int main() {
    std::printf("{\"isa\": \"%s\", \"rows\": [", attn::name_of(attn::current_isa()));
    const char* between = "";
    for (attn::Index E : {64, 128}) {
        double peak = 0;
        for (const attn::SimdPhase& phase : measure(E, peak)) {
            std::printf(
                "%s\n{\"E\": %d, \"phase\": \"%s\", \"flops\": %.0f, "
                "\"seconds_best\": %.4g, \"seconds_median\": %.4g, "
                "\"share_of_peak_best\": %.3f, \"share_of_peak_median\": %.3f, "
                "\"peak_gflops\": %.1f}",
                between, static_cast<int>(E), phase.name, phase.flops, phase.seconds_best,
                phase.seconds_median, phase.share_best, phase.share_median, peak);
            between = ",";
        }
    }
    std::printf("\n]}\n");
}
