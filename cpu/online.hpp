/// \file
/// \brief The kernel of tier `online`, one query row; `openmp` runs the same one.
#pragma once

#include "mask_scores.hpp"
#include "saturate.hpp"

#include <attn/row_state.hpp>
#include <attn/tier.hpp>

#include <algorithm>
#include <cstddef>

namespace attn {

/// Keys in a tile. Its scores, 256 bytes in float32, stay in the first-level cache.
inline constexpr Index online_tile = 64;

/// \brief Working memory of one thread.
template <class Real>
struct OnlineScratch {
    Real* score;  ///< (online_tile)
    Real* sum;    ///< (Ev): weighted sum of value rows, not yet divided
    Real* part;   ///< (Ev): the same of one tile

    static std::size_t bytes(const Problem& p) {
        return ((counted(online_tile) + counted(p.Ev) * Saturating{2}) * Saturating{sizeof(Real)})
            .count;
    }
    OnlineScratch(std::byte* memory, Index Ev)
        : score(reinterpret_cast<Real*>(memory)), sum(score + online_tile), part(sum + Ev) {}
};

/// \brief Row (b, h, i): keys come tile by tile, and what was summed under an old maximum shrinks
///        when a larger score appears. Nothing of size S is ever held.
template <class T>
void online_row(const Problem& p, Index b, Index h, Index i, OnlineScratch<Compute<T>> scratch) {
    using Real = Compute<T>;
    const auto query = as<const T, 4>(p.query);  // (B, Hq, L, E)
    const auto key = as<const T, 4>(p.key);      // (B, H, S, E)
    const auto value = as<const T, 4>(p.value);  // (B, H, S, Ev)
    const Index hk = p.key_head(h);
    RowState<Real> row;
    std::fill_n(scratch.sum, p.Ev, Real(0));

    //! [tile]
    // Tiles beyond the causal limit are never visited.
    for (Index first = 0; first < p.visible(i); first += online_tile) {
        const Index count = std::min(online_tile, p.S - first);
        for (Index j = 0; j < count; ++j) {
            Real dot = 0;
            for (Index e = 0; e < p.E; ++e)
                dot += Real(query(b, h, i, e)) * Real(key(b, hk, first + j, e));
            scratch.score[j] = Real(p.scale) * dot;
        }
        mask_scores(p, b, h, i, first, count, scratch.score);
        //! [tile]

        //! [fold]
        Real largest = row.max;
        for (Index j = 0; j < count; ++j) largest = larger(largest, scratch.score[j]);
        const Real shrink = row.grow(largest);

        // Rounding errors grow with the length of a sum: 64 terms, then S / 64 sums, not S terms.
        Real weights = 0;
        std::fill_n(scratch.part, p.Ev, Real(0));
        for (Index j = 0; j < count; ++j) {
            const Real weight = row.weight(scratch.score[j]);
            if (weight == 0) continue;  // a masked key: its value may be NaN
            weights += weight;
            for (Index e = 0; e < p.Ev; ++e)
                scratch.part[e] += weight * Real(value(b, hk, first + j, e));
        }
        row.sum += weights;
        for (Index e = 0; e < p.Ev; ++e) scratch.sum[e] = scratch.sum[e] * shrink + scratch.part[e];
        //! [fold]
    }

    const auto out = as<T, 4>(p.out);  // (B, Hq, L, Ev)
    for (Index e = 0; e < p.Ev; ++e) out(b, h, i, e) = T(scratch.sum[e] * row.normalizer());
    if (!p.logsumexp.absent()) as<Real, 3>(p.logsumexp)(b, h, i) = row.logsumexp();
}

}  // namespace attn
