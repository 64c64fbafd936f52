/// \file
/// \brief Keys split among threads: unfinished states of the same rows, merged by their maxima.
///
/// The order of the merges and the keys of each part depend on the shape alone, never on the number
/// of threads: the same bits come out.
#pragma once

#include "simd_store.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Adds the state `from` to the state `into`, both (rows, simd_partial_stride(Ev)).
void merge(const Problem& p, Index rows, const float* from, float* into) {
    const Index stride = simd_partial_stride(p.Ev);
    for (Index r = 0; r < rows; ++r, from += stride, into += stride) {
        float& max = into[0];
        float& sum = into[1];
        if (from[1] == 0) continue;  // saw no key
        if (sum == 0) {
            std::memcpy(into, from, static_cast<std::size_t>(stride) * sizeof(float));
            continue;
        }
        const float grown = from[0] > max ? from[0] : max;
        const Lanes ours = exp2(Lanes((max - grown) * log2e));
        const Lanes theirs = exp2(Lanes((from[0] - grown) * log2e));
        alignas(64) float factor[2][width];
        store(factor[0], ours);
        store(factor[1], theirs);
        max = grown;
        sum = sum * factor[0][0] + from[1] * factor[1][0];
        for (Index e = simd_partial_header; e < stride; e += width)
            store(into + e, fma(load(from + e), theirs, load(into + e) * ours));
    }
}

/// \brief Divides and writes the finished state of a task's rows, (rows, simd_partial_stride(Ev)).
void finish(const Problem& p, const SimdTask& task, float* state) {
    const RowMap map = map_rows(p, task);
    const Index stride = simd_partial_stride(p.Ev);
    for (Index r = 0; r < map.rows; ++r, state += stride)
        write_row(p, task.b, map.head[r], map.query[r], state[0], state[1],
                  state + simd_partial_header);
}

}  // namespace
}  // namespace attn::ATTN_ISA
