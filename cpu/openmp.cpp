/// \file
/// \brief Tier `openmp`: the same rows, shared among cores.
///
/// Builds on `online`. New here, and nothing else: query rows do not know of each other, so cores
/// can take them in any order. A task is a tile of rows of one head: long enough to be worth
/// handing out, short enough that no core waits long for the last one. Each row is computed by one
/// thread exactly as `online` does: the same bits for every number of threads.
///
/// Limits: none. Taught in \ref tier_openmp.
#include "online.hpp"
#include "registry.hpp"
#include "threads.hpp"

namespace attn {
namespace {

/// Rows of a task. A causal row's work grows with its index; the tasks are handed out one by one,
/// the longest first, so that the last ones to finish are short.
constexpr Index rows_per_task = 16;

Index tasks_per_head(const Problem& p) { return (p.L + rows_per_task - 1) / rows_per_task; }

int threads_of(const Problem& p) {
    const double flops = 2.0 * static_cast<double>(p.B * p.Hq * p.L) * static_cast<double>(p.S) *
                         static_cast<double>(p.E + p.Ev);
    return team_size(p, p.B * p.Hq * tasks_per_head(p), flops);
}

//! [own lines]
/// Working memory of one thread, in whole cache lines: two threads must not write to the same one.
std::size_t bytes_per_thread(const Problem& p) {
    const std::size_t bytes =
        visit_float(p.dtype, [&]<class T>(T) { return OnlineScratch<Compute<T>>::bytes(p); });
    return (bytes + 63) / 64 * 64;
}

std::size_t scratch_bytes(const Problem& p) {
    return static_cast<std::size_t>(threads_of(p)) * bytes_per_thread(p);
}
//! [own lines]

//! [share]
void run(const Problem& p) {
    const Index per_head = tasks_per_head(p), tasks = p.B * p.Hq * per_head;
    const std::size_t bytes = bytes_per_thread(p);
    const int threads = static_cast<int>(p.scratch.size() / bytes);
    visit_float(p.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (Index task = 0; task < tasks; ++task) {
            std::byte* const own =
                p.scratch.data() + static_cast<std::size_t>(omp_get_thread_num()) * bytes;
            const OnlineScratch<Compute<T>> scratch(own, p.Ev);
            const Index b = task / (p.Hq * per_head), h = task / per_head % p.Hq;
            const Index first = (per_head - 1 - task % per_head) * rows_per_task;
            for (Index i = first; i < std::min(first + rows_per_task, p.L); ++i)
                online_row<T>(p, b, h, i, scratch);
        }
    });
}
//! [share]

}  // namespace

const Tier tier_openmp = {
    .parallel = true,
    .limits = {.dtypes = all_floats},
    .available = always_available,
    .scratch_bytes = scratch_bytes,
    .run = run,
};

}  // namespace attn
