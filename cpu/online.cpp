/// \file
/// \brief Tier `online`: never hold a row of scores.
///
/// Builds on `literal`. New here, and nothing else: a softmax needs the largest score before it can
/// weigh the first one, so `literal` and `eigen` keep them all. But a sum made under a wrong
/// maximum can be repaired by one factor, exp(old max - new max). So keys are taken tile by tile,
/// with a running maximum, a running sum and a running output per row (row_state.hpp), and memory
/// no longer depends on S.
///
/// The kernel is in online.hpp. Limits: none. Taught in \ref tier_online.
/// Source: Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao et al. 2022, algorithm 1.
#include "online.hpp"

#include "registry.hpp"

namespace attn {
namespace {

void run(const Problem& p) {
    visit_float(p.dtype, [&]<class T>(T) {
        const OnlineScratch<Compute<T>> scratch(p.scratch.data(), p.Ev);
        for (Index b = 0; b < p.B; ++b)
            for (Index h = 0; h < p.Hq; ++h)
                for (Index i = 0; i < p.L; ++i) online_row<T>(p, b, h, i, scratch);
    });
}

std::size_t scratch_bytes(const Problem& p) {
    return visit_float(p.dtype, [&]<class T>(T) { return OnlineScratch<Compute<T>>::bytes(p); });
}

}  // namespace

const Tier tier_online = {
    .limits = {.dtypes = all_floats},
    .available = always_available,
    .scratch_bytes = scratch_bytes,
    .run = run,
};

}  // namespace attn
