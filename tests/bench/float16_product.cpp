/// \file
/// \brief Does a product in native float16 (AVX512-FP16) pay? One tile of scores, 60 keys by 64
///        queries, in float32 and in float16 with sums that are added to float32 ones after every
///        8, 16 or 32 terms. A multiply-add does twice as much there, and the additions eat it.
///
///     cmake --build build --target float16_product
///     build/tests/bench/float16_product --benchmark_enable_random_interleaving=true
///         --benchmark_repetitions=15 --benchmark_report_aggregates_only=true
///
/// Wanted is more than AMX gives float16 tensors (docs/steps_cpu.md), with its accuracy.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

using Float16 = _Float16;
constexpr int keys = 60, queries = 64;  // whole register tiles of both

/// \brief score = key query: (60, E) times (E, 64), register tiles of 6 keys by 4 x 16 queries.
template <int Keys>
void scores_float32(const float* key, const float* query, int E, float* score) {
    __m512 sum[Keys][4] = {};
    for (int e = 0; e < E; ++e)
#pragma GCC unroll 6
        for (int j = 0; j < Keys; ++j)
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n)
                sum[j][n] =
                    _mm512_fmadd_ps(_mm512_set1_ps(key[j * E + e]),
                                    _mm512_loadu_ps(query + e * queries + n * 16), sum[j][n]);
    for (int j = 0; j < Keys; ++j)
        for (int n = 0; n < 4; ++n) _mm512_storeu_ps(score + j * queries + n * 16, sum[j][n]);
}

/// \brief The same, register tiles of 12 keys by 2 x 32 queries; `Flush` terms to a float16 sum.
template <int Keys, int Flush>
void scores_float16(const Float16* key, const Float16* query, int E, float* score) {
    for (int first = 0; first < E; first += Flush) {
        __m512h sum[Keys][2] = {};
        for (int e = first; e < first + Flush; ++e)
#pragma GCC unroll 12
            for (int j = 0; j < Keys; ++j)
#pragma GCC unroll 2
                for (int n = 0; n < 2; ++n)
                    sum[j][n] =
                        _mm512_fmadd_ph(_mm512_set1_ph(key[j * E + e]),
                                        _mm512_loadu_ph(query + e * queries + n * 32), sum[j][n]);
        for (int j = 0; j < Keys; ++j)
            for (int n = 0; n < 2; ++n) {
                const __m512i both = _mm512_castph_si512(sum[j][n]);
                for (int half = 0; half < 2; ++half) {
                    float* const to = score + j * queries + n * 32 + half * 16;
                    const __m512 part =
                        _mm512_cvtph_ps(half == 0 ? _mm512_castsi512_si256(both)
                                                  : _mm512_extracti64x4_epi64(both, 1));
                    _mm512_storeu_ps(to,
                                     first == 0 ? part : _mm512_add_ps(part, _mm512_loadu_ps(to)));
                }
            }
    }
}

/// \brief Multiplies one tile again and again, and says how wrong it is.
template <class T, int Keys, class F>
void measure(benchmark::State& state, F&& multiply) {
    const int E = static_cast<int>(state.range(0));
    std::vector<T> key(static_cast<std::size_t>(keys * E)),
        query(static_cast<std::size_t>(E * queries));
    unsigned bits = 1;
    for (std::vector<T>* matrix : {&key, &query})
        for (T& x : *matrix) {
            bits = bits * 1664525 + 1013904223;
            x = static_cast<T>(static_cast<float>(bits >> 16) * 0x1p-14f - 2);  // -2 .. 2
        }
    std::vector<float> score(static_cast<std::size_t>(keys * queries));
    const auto run = [&] {
        for (int j = 0; j < keys; j += Keys)
            multiply(key.data() + j * E, query.data(), E, score.data() + j * queries);
    };
    for (auto _ : state) {
        run();
        benchmark::ClobberMemory();
    }
    double error = 0;
    for (int j = 0; j < keys; ++j)
        for (int i = 0; i < queries; ++i) {
            double want = 0;
            for (int e = 0; e < E; ++e)
                want += static_cast<double>(key[j * E + e]) *
                        static_cast<double>(query[e * queries + i]);
            error = std::max(error, std::abs(static_cast<double>(score[j * queries + i]) - want));
        }
    state.counters["GFLOP"] = benchmark::Counter(2e-9 * keys * queries * E,
                                                 benchmark::Counter::kIsIterationInvariantRate);
    state.counters["error"] = error;
}

void float32(benchmark::State& state) { measure<float, 6>(state, scores_float32<6>); }

template <int Flush>
void float16(benchmark::State& state) {
    if (!__builtin_cpu_supports("avx512fp16")) return state.SkipWithError("needs AVX512-FP16");
    measure<Float16, 12>(state, scores_float16<12, Flush>);
}

BENCHMARK(float32)->Arg(64)->Arg(128);
BENCHMARK(float16<8>)->Arg(64)->Arg(128);
BENCHMARK(float16<16>)->Arg(64)->Arg(128);
BENCHMARK(float16<32>)->Arg(64)->Arg(128);

}  // namespace

BENCHMARK_MAIN();
