/// \file
/// \brief Times every CPU tier on the cases tagged bench. Each result is judged before it is timed:
///        a wrong answer has no speed.
///
/// A benchmark is named tier/case/threads:N. Google Benchmark's flags apply; tests/bench/record.py
/// calls this with the ones that matter and keeps the results. GPU tiers are left to ./run gpu:
/// from here they would be given host tensors, and the copies would be what is measured.
#include "cases.hpp"
#include "isa.hpp"

#include <attn/judge.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <regex>
#include <thread>

namespace attn::testing {
namespace {

/// A case's tensors, shared by the benchmarks of all tiers.
struct Prepared {
    Case c;
    Inputs in;
    Tensor out;  // (B, Hq, L, Ev)

    explicit Prepared(const Case& c_)
        : c(c_), in(make_inputs(c)), out({c.sizes.B, c.sizes.Hq, c.sizes.L, c.sizes.Ev}, c.dtype) {}

    void run(const Execution& execution) {
        scaled_dot_product_attention(in.query.view, in.key.view, in.value.view, out, in.options,
                                     execution);
    }
    /// \brief Smallest traffic in bytes: each distinct element is read or written once.
    double bytes() const {
        const Sizes& s = c.sizes;
        const Index elements =
            s.B * (s.Hq * s.L * (s.E + s.Ev) + s.H * s.S * (s.E + s.Ev));  // Q and out; K and V
        return static_cast<double>(elements) * static_cast<double>(size_of(c.dtype));
    }
    /// \brief Two for each multiplication with its addition, of the scores that causality leaves.
    double flops() const {
        Problem p;
        p.B = c.sizes.B, p.Hq = c.sizes.Hq, p.L = c.sizes.L, p.S = c.sizes.S;
        p.E = c.sizes.E, p.Ev = c.sizes.Ev;
        p.diagonal = c.causal == Causal::none         ? p.S
                     : c.causal == Causal::upper_left ? 0
                                                      : p.S - p.L;
        return p.flops();
    }
};

/// One row of the results: what is known of it before the timing.
struct Row {
    std::shared_ptr<Prepared> problem;
    std::string tier;
    int threads;
    std::vector<std::byte> memory;  // holds the scratch, which must be aligned
    std::span<std::byte> scratch;
    Verdict verdict;

    Execution execution() const {
        Execution e;
        e.tier = tier;
        e.threads = threads;
        e.scratch = scratch;
        return e;
    }
    void take_scratch() {
        const Inputs& in = problem->in;
        const std::size_t bytes = scratch_bytes(in.query.view, in.key.view, in.value.view,
                                                problem->out, in.options, execution());
        memory.resize(bytes + 64);
        void* begin = memory.data();
        std::size_t room = memory.size();
        std::align(64, bytes, begin, room);
        scratch = {static_cast<std::byte*>(begin), bytes};
    }
};

void time_row(benchmark::State& state, Row& row) {
    const Execution execution = row.execution();
    row.problem->run(execution);  // touches all memory
    for (auto _ : state) {
        row.problem->run(execution);
        benchmark::ClobberMemory();
    }
    state.counters["flops"] = row.problem->flops();
    state.counters["bytes"] = row.problem->bytes();
    state.counters["scratch_bytes"] = static_cast<double>(row.scratch.size());
    state.counters["worst_error"] = row.verdict.worst_error;
    state.counters["bound"] = row.verdict.bound;
    state.counters["worst_ratio"] = row.verdict.worst_ratio;
    state.counters["cosine"] = row.verdict.cosine;
    state.counters["threads"] = row.threads;
    const Sizes& s = row.problem->c.sizes;
    for (const auto& [axis, size] :
         std::initializer_list<std::pair<const char*, Index>>{{"B", s.B},
                                                              {"Hq", s.Hq},
                                                              {"H", s.H},
                                                              {"L", s.L},
                                                              {"S", s.S},
                                                              {"E", s.E},
                                                              {"Ev", s.Ev}})
        state.counters[axis] = static_cast<double>(size);
    state.SetLabel(std::string(name_of(row.problem->c.dtype)) +
                   (row.problem->c.causal == Causal::none ? "" : " causal"));
}

/// \brief Judges a row's first run and says how long it took.
double check_row(Row& row, const Reference& want) {
    const auto begin = std::chrono::steady_clock::now();
    row.problem->run(row.execution());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const Tier& tier = *find_tier(row.tier);
    row.verdict = judge(row.problem->out, want, {tier, row.problem->c.dtype});
    if (!row.verdict.ok())
        throw std::runtime_error(row.tier + " is wrong on " + row.problem->c.name + ": " +
                                 text_of(row.verdict));
    return seconds.count();
}

/// \brief Registers all rows whose names `filter` finds. \return how many
int register_rows(const std::string& filter, const std::vector<int>& threads) {
    const std::regex wanted(filter.empty() || filter == "all" ? "." : filter);
    int count = 0;
    for (const Case& c : cases()) {
        if (!c.bench) continue;
        std::shared_ptr<Prepared> problem;
        Reference want;
        for (const Tier* tier : tiers()) {
            if (tier->device != DeviceKind::cpu || !tier->available().ok) continue;
            for (int n : tier->parallel ? threads : std::vector<int>{1}) {
                const std::string name =
                    std::string(tier->name) + "/" + c.name + "/threads:" + std::to_string(n);
                if (!std::regex_search(name, wanted)) continue;
                if (!problem) {
                    problem = std::make_shared<Prepared>(c);
                    const Inputs& in = problem->in;
                    want = reference(in.query.view, in.key.view, in.value.view, in.options);
                }
                auto row = std::make_shared<Row>(Row{problem, tier->name, n, {}, {}, {}});
                if (!check(problem->in.query.view, problem->in.key.view, problem->in.value.view,
                           problem->out, problem->in.options, row->execution()))
                    continue;  // beyond the tier's limits
                row->take_scratch();
                const double seconds = check_row(*row, want);
                // About a second and a half for each row, and three repetitions at the least.
                const int repetitions = std::clamp(static_cast<int>(1.5 / seconds), 3, 15);
                benchmark::RegisterBenchmark(
                    name.c_str(), [row](benchmark::State& state) { time_row(state, *row); })
                    ->UseRealTime()
                    ->Unit(benchmark::kMillisecond)
                    ->MinTime(0.05)
                    ->Repetitions(repetitions);
                ++count;
            }
        }
    }
    return count;
}

/// "1,2,16" as numbers; without it one thread and all of them.
std::vector<int> thread_counts(const std::string& list) {
    std::vector<int> counts;
    for (std::size_t at = 0; at < list.size(); at = list.find(',', at) + 1) {
        counts.push_back(std::stoi(list.substr(at)));
        if (list.find(',', at) == std::string::npos) break;
    }
    if (counts.empty()) {
        counts = {1};
        if (std::thread::hardware_concurrency() > 1)
            counts.push_back(static_cast<int>(std::thread::hardware_concurrency()));
    }
    return counts;
}

int run(int argc, char** argv) {
    std::string threads;
    std::vector<char*> rest;
    for (int i = 0; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.rfind("--threads=", 0) == 0)
            threads = argument.substr(10);
        else
            rest.push_back(argv[i]);
    }
    int count = static_cast<int>(rest.size());
    benchmark::Initialize(&count, rest.data());
    if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
    benchmark::AddCustomContext("compiler", ATTN_COMPILER);
    benchmark::AddCustomContext("flags", ATTN_FLAGS);
    benchmark::AddCustomContext("isa", name_of(current_isa()));
    if (register_rows(benchmark::GetBenchmarkFilter(), thread_counts(threads)) == 0) {
        std::fprintf(stderr, "attn_bench: no benchmark has such a name\n");
        return 2;
    }
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}

}  // namespace
}  // namespace attn::testing

int main(int argc, char** argv) {
    try {
        return attn::testing::run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "attn_bench: %s\n", error.what());
        return 1;
    }
}
