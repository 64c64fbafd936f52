/// \file
/// \brief The phases of one tile, 64 queries against 64 keys, by the kernel's own functions, on
///        memory that stays in the caches. Beside them a loop of multiply-adds in registers: the
///        peak.
#include "simd_phases.hpp"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"  // the headers hold more than is measured
#include "flush_denormals.hpp"
#include "simd_layout.hpp"
#include "simd_panel.hpp"
#include "simd_store.hpp"
#pragma GCC diagnostic pop

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>

namespace attn::ATTN_ISA {
namespace {

double processor_time() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Free {
    void operator()(float* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<float[], Free>;

/// Aligned, filled with small numbers that differ.
Buffer buffer(Index floats) {
    const std::size_t bytes = static_cast<std::size_t>(lines(floats)) * sizeof(float);
    Buffer memory(static_cast<float*>(std::aligned_alloc(64, bytes)));
    for (Index n = 0; n < lines(floats); ++n)
        memory[static_cast<std::size_t>(n)] = static_cast<float>(n * 37 % 101 - 50) * 0x1p-6f;
    return memory;
}

/// 12 chains of 1000 multiply-adds.
double peak_call(float* keep) {
    constexpr int chains = 12, steps = 1000;
    Lanes x[chains];
    for (int n = 0; n < chains; ++n) x[n] = Lanes(1.0f + static_cast<float>(n));
    const Lanes factor(0.9999999f), add(1e-9f);
    for (int step = 0; step < steps; ++step)
#pragma GCC unroll 12
        for (int n = 0; n < chains; ++n) x[n] = fma(x[n], factor, add);
    for (int n = 0; n < chains; ++n) store(keep + n * width, x[n]);
    return 2.0 * chains * steps * width;
}

struct Timed {
    const char* name;
    double flops;
    std::function<void()> call;
    std::vector<double> seconds{};
};

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

}  // namespace

std::vector<SimdPhase> simd_phases(Index E, int rounds, double& peak_gflops) {
    constexpr int vectors = panel_vectors;
    constexpr Index lanes = panel_lanes, keys = simd_tile_keys;
    const FlushDenormals flush;
    const Buffer query = buffer(E * lanes), out = buffer(E * lanes), max = buffer(lanes);
    const Buffer sum = buffer(lanes), score = buffer(keys * lanes), raw = buffer(keys * lanes);
    const Buffer key = buffer(keys * E), value = buffer(keys * E), keep = buffer(12 * width);
    const Panel panel = {query.get(), out.get(), max.get(), sum.get()};
    KeyTile tile{};
    tile.key = key.get(), tile.value = value.get();
    tile.key_stride = tile.value_stride = E;
    tile.keys = keys;
    for (Index n = 0; n < lanes; ++n) max[static_cast<std::size_t>(n)] = 64;  // never grows
    Lanes top[vectors], shrink[vectors];
    for (int n = 0; n < vectors; ++n) top[n] = Lanes(64.0f), shrink[n] = Lanes(1.0f);

    double peak_flops = 0;
    const double product = 2.0 * static_cast<double>(keys * lanes * E);
    Timed all[] = {
        {"multiply-adds in registers", 0, [&] { peak_flops = peak_call(keep.get()); }},
        {"scores", product, [&] { score_panel<vectors>(panel, tile, 0, E, score.get(), top); }},
        {"weights", 0, [&] { weigh_panel<vectors>(panel, keys, raw.get(), top, shrink); }},
        {"sums of values", product,
         [&] { sum_values<vectors>(panel, tile, E, raw.get(), shrink, false); }},
        {"whole tile", 2 * product,
         [&] { visit_tile<vectors>(panel, tile, 0, E, E, score.get(), false); }},
    };
    constexpr int calls = 100;  // half a millisecond: short enough to fall between interruptions
    for (int round = 0; round < rounds; ++round)
        for (Timed& one : all) {
            const double start = processor_time();
            for (int n = 0; n < calls; ++n) one.call();
            one.seconds.push_back((processor_time() - start) / calls);
        }
    std::vector<SimdPhase> phases;
    const std::vector<double>& ruler = all[0].seconds;
    const double ruler_best = *std::min_element(ruler.begin(), ruler.end());
    peak_gflops = peak_flops / ruler_best * 1e-9;
    for (Timed& one : all) {
        const double flops = &one == all ? peak_flops : one.flops;
        std::vector<double> share;
        for (std::size_t n = 0; n < ruler.size(); ++n)
            share.push_back(flops / one.seconds[n] / (peak_flops / ruler[n]));
        const double best = *std::min_element(one.seconds.begin(), one.seconds.end());
        phases.push_back({one.name, flops, best, median(one.seconds),
                          flops / best / (peak_gflops * 1e9), median(share)});
    }
    return phases;
}

}  // namespace attn::ATTN_ISA
