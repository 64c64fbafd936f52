/// \file
/// \brief What this machine can do at most, measured beside the tiers: multiply-adds in registers,
///        and reading memory. Compiled once per instruction set.
#include <attn/tensor.hpp>

#include <omp.h>
#include <chrono>
#include <xsimd/xsimd.hpp>

namespace attn::ATTN_ISA {
namespace {

using Lanes = xsimd::batch<float>;

Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return Lanes(_mm512_fmadd_ps(a, b, c));
#else
    return xsimd::fma(a, b, c);
#endif
}

/// Uses every lane of the results, so that no loop vanishes.
void keep(const Lanes* x, int count) {
    Lanes total(0.0f);
    for (int i = 0; i < count; ++i) total = total + x[i];
    float lane[Lanes::size];
    total.store_unaligned(lane);
    volatile float sum = 0;
    for (float one : lane) sum = sum + one;
}

}  // namespace

double fma_gflops(int threads) {
    constexpr int chains = 12;  // 2 units x 4 cycles of latency, and some to spare
    constexpr long steps = 100000;
    double seconds = 1;
#pragma omp parallel num_threads(threads)
    {
        Lanes x[chains];
        for (int i = 0; i < chains; ++i) x[i] = Lanes(1.0f + static_cast<float>(i));  // all differ
        const Lanes factor(0.9999999f), add(1e-9f);
#pragma omp barrier
        const auto start = std::chrono::steady_clock::now();
        for (long n = 0; n < steps; ++n)
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) x[i] = multiply_add(x[i], factor, add);
#pragma omp barrier
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        keep(x, chains);
#pragma omp master
        seconds = elapsed.count();
    }
    return 2.0 * chains * Lanes::size * steps * threads / seconds * 1e-9;
}

void read_memory(const float* data, Index count, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Index part = count / threads / 256 * 256;
        const float* const from = data + omp_get_thread_num() * part;
        constexpr Index step = 8 * Lanes::size;
        Lanes x[8];
        for (Lanes& lane : x) lane = Lanes(0.0f);
        for (Index n = 0; n + step <= part; n += step)
#pragma GCC unroll 8
            for (Index i = 0; i < 8; ++i)
                x[i] = x[i] + Lanes::load_unaligned(from + n + i * static_cast<Index>(Lanes::size));
        keep(x, 8);
    }
}

}  // namespace attn::ATTN_ISA
