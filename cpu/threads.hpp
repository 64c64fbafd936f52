/// \file
/// \brief How many threads a CPU tier starts: shared by all that share work among cores.
#pragma once

#include <attn/tier.hpp>

#include <omp.h>
#include <algorithm>

namespace attn {

/// \brief Threads for `tasks` independent pieces of work of `flops` operations in all.
///
/// What the caller asked for, or else what OpenMP would start (OMP_NUM_THREADS). Called from inside
/// a parallel region and not told otherwise, one: the caller's threads already fill the machine.
/// Never more than there are tasks, nor than one per 2^18 operations: starting a thread costs about
/// as long as those take.
inline int team_size(const Problem& p, Index tasks, double flops) {
    //! [team]
    int threads = p.threads;
    if (threads <= 0) threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    const double worth = std::min(static_cast<double>(tasks), flops * 0x1p-18);
    return static_cast<int>(std::clamp(worth, 1.0, static_cast<double>(threads)));
    //! [team]
}

}  // namespace attn
