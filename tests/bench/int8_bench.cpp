/// \file
/// \brief What the 8-bit CPU tiers cost in accuracy and win in time; record_int8.py keeps it.
///
///     int8_bench accuracy   every generator and the captured layer: the worst head of each
///     int8_bench speed      one thread, quantization included, against `simd`, interleaved; exits
///                           with 1 if int8 falls below its floor (AVX512-VNNI only); times are
///                           the thread's processor time, ratios those of neighbouring calls
#include "isa.hpp"
#include "npy.hpp"

#include <attn/attn.hpp>
#include <attn/judge.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace attn {
namespace {

constexpr const char* tiers_8bit[] = {"int8_pv32", "int8"};

// ---- accuracy -----------------------------------------------------------------------------------

/// The worst of all heads, each number for itself.
struct Worst {
    double cosine = 1, relative_l1 = 0, relative_l2 = 0, max = 0, logsumexp = 0;
};

Worst worst_head(const char* tier, const Qkv& x, const Reference& want) {
    const Index* q = x.query.view().shape;
    Tensor out({q[0], q[1], q[2], x.value.shape()[3]}, x.query.dtype()), lse({q[0], q[1], q[2]});
    Execution execution;
    execution.tier = tier;
    execution.logsumexp = lse;
    scaled_dot_product_attention(x.query, x.key, x.value, out, {}, execution);
    Worst worst;
    for (const Verdict& head : judge_heads(out.view(), want)) {
        worst.cosine = std::min(worst.cosine, head.cosine);
        worst.relative_l1 = std::max(worst.relative_l1, head.relative_l1);
        worst.relative_l2 = std::max(worst.relative_l2, head.relative_l2);
        worst.max = std::max(worst.max, head.worst_error);
    }
    worst.logsumexp = judge_logsumexp(lse.view(), want).worst_error;
    return worst;
}

void print_rows(const std::string& inputs, const Qkv& x, bool& first) {
    const Reference want = reference(x.query, x.key, x.value);
    for (const char* tier : tiers_8bit) {
        const Worst w = worst_head(tier, x, want);
        std::printf(
            "%s  {\"inputs\": \"%s\", \"E\": %d, \"L\": %d, \"dtype\": \"%s\", \"tier\": "
            "\"%s\", \"cosine\": %.7f, \"relative_l1\": %.3g, \"relative_l2\": %.3g, "
            "\"max_error\": %.3g, \"logsumexp_error\": %.3g}",
            first ? "" : ",\n", inputs.c_str(), static_cast<int>(x.query.shape()[3]),
            static_cast<int>(x.query.shape()[2]), name_of(x.query.dtype()), tier, w.cosine,
            w.relative_l1, w.relative_l2, w.max, w.logsumexp);
        first = false;
    }
}

int accuracy() {
    bool first = true;
    for (Index E : {64, 128})
        for (const Generator& g : generators())
            print_rows(g.name, generate(g.name, {1, 4, 4, 1024, 1024, E, E}, 1), first);
    const std::string folder = ATTN_DATA_DIR "/";
    print_rows("captured",
               {read_npy(folder + "query.npy"), read_npy(folder + "key.npy"),
                read_npy(folder + "value.npy")},
               first);
    return 0;
}

// ---- speed --------------------------------------------------------------------------------------

struct Shape {
    Index L, E;
    bool causal;
    double floor;  ///< of simd's time over int8's, with AVX512-VNNI; 0: none
};

double seconds_of(const char* tier, const Qkv& x, Tensor& out, const Options& options) {
    Execution execution;
    execution.tier = tier;
    execution.threads = 1;
    // The thread's own time: what else runs on the machine counts as little as can be.
    const auto now = [] {
        timespec t{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
    };
    const double begin = now();
    scaled_dot_product_attention(x.query, x.key, x.value, out, options, execution);
    return now() - begin;
}

int speed() {
    // 8 heads of float32. GCC 12 is known to halve the speed of the dot-product loop when it may
    // (see -fno-tree-pre in lib/cmake/Tiers.cmake): then the floors are missed.
    const Shape shapes[] = {{512, 128, false, 0}, {1024, 64, false, 0}, {1024, 128, false, 2},
                            {1024, 128, true, 0}, {4096, 64, false, 0}, {4096, 128, false, 2.5},
                            {4096, 128, true, 0}};
    bool first = true, slow = false;
    for (const Shape& s : shapes) {
        const Qkv x = generate("gauss", {1, 8, 8, s.L, s.L, s.E, s.E}, 1);
        Tensor out({1, 8, s.L, s.E});
        Options options;
        if (s.causal) options.causal = Causal::upper_left;
        const char* names[] = {"simd", tiers_8bit[0], tiers_8bit[1]};
        std::vector<double> seconds[3], ratio[3];
        const int repeats = s.L >= 4096 ? 7 : 31;
        for (int n = 0; n < repeats + 1; ++n)
            for (int t = 0; t < 3; ++t) {
                const double one = seconds_of(names[t], x, out, options);
                if (n == 0) continue;  // warms up
                seconds[t].push_back(one);
                ratio[t].push_back(seconds[0].back() / one);
            }
        const double flops = 4.0 * 8 * static_cast<double>(s.L) * static_cast<double>(s.L) *
                             static_cast<double>(s.E) / (s.causal ? 2 : 1);
        for (auto& list : seconds) std::sort(list.begin(), list.end());
        for (auto& list : ratio) std::sort(list.begin(), list.end());
        for (int t = 0; t < 3; ++t) {
            const double median = seconds[t][seconds[t].size() / 2], fastest = seconds[t].front();
            std::printf(
                "%s  {\"tier\": \"%s\", \"shape\": [1, 8, %d, %d, %d], \"causal\": %s, "
                "\"threads\": 1, \"seconds\": {\"median\": %.6g, \"min\": %.6g, "
                "\"repetitions\": %d}, \"gflops_per_second\": %.4g, \"times_simd\": "
                "{\"median\": %.3g, \"p10\": %.3g, \"p90\": %.3g}}",
                first ? "" : ",\n", names[t], static_cast<int>(s.L), static_cast<int>(s.L),
                static_cast<int>(s.E), s.causal ? "true" : "false", median, fastest, repeats,
                flops / median * 1e-9, ratio[t][ratio[t].size() / 2],
                ratio[t][ratio[t].size() / 10], ratio[t][ratio[t].size() * 9 / 10]);
            first = false;
        }
        std::fflush(stdout);
        const double reached = ratio[2][ratio[2].size() / 2];
        if (current_dot_isa() == Isa::avx512vnni && !(reached >= s.floor)) {
            std::fprintf(stderr,
                         "int8_bench: int8 is only %.2f times simd at L = %d, E = %d; %.1f was"
                         " to be reached\n",
                         reached, static_cast<int>(s.L), static_cast<int>(s.E), s.floor);
            slow = true;
        }
    }
    return slow;
}

}  // namespace
}  // namespace attn

int main(int argc, char** argv) {
    const bool known =
        argc == 2 && (std::strcmp(argv[1], "accuracy") == 0 || std::strcmp(argv[1], "speed") == 0);
    if (!known) {
        std::fprintf(stderr, "usage: int8_bench accuracy | speed\n");
        return 2;
    }
    try {
        attn::Problem long_one;
        long_one.L = 1024;
        std::printf("{\"isa\": \"%s\", \"rows\": [\n",
                    attn::find_tier("int8")->variant(long_one).c_str());
        const int code = argv[1][0] == 'a' ? attn::accuracy() : attn::speed();
        std::printf("\n]}\n");
        return code;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "int8_bench: %s\n", error.what());
        return 1;
    }
}
