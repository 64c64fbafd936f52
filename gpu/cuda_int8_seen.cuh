/// \file
/// \brief Which keys some query may see: those that none sees count neither for the mean of K nor as
///        keys without integers.
#pragma once

#include "cuda_int8.hpp"
#include "mask.cuh"

namespace attn::gpu {

/// \brief Which of the keys 64 block .. + 63 some query of head (b, h) may see, one bit each. The
///        work of a whole warp; reads no more rows of the mask than it must.
/// \param first_row  of those that are asked
/// \tparam masked  false: there is no mask
template <bool masked = true>
__device__ inline std::uint64_t seen_keys(const Problem& p, Index b, Index h, Index block,
                                          Index first_row = 0) {
    const Index first = block * smoothing_block;
    const Index limit = p.L == 0 ? 0 : p.visible(p.L - 1) - first;  // the last query sees the most
    if (limit <= 0) return 0;
    const std::uint64_t all = limit >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << limit) - 1;
    if (!masked || p.mask_kind == MaskKind::none) return all;
    const int lane = threadIdx.x % 32;
    const Index last = p.mask.stride[2] == 0 ? p.L - 1 : first_row;
    constexpr int at_once = 8;  // rows under way
    std::uint64_t seen = 0;
    for (Index i = p.L - 1; i >= last; i -= at_once) {
        // Bit 0: some of these rows sees key `lane`, bit 1: key 32 + lane.
        const std::uint32_t mine = visit_mask_element(p.mask.dtype, [&]<class Element>(Element) {
            const auto* const mask = static_cast<const Element*>(p.mask.data) +
                                     b * p.mask.stride[0] + h * p.mask.stride[1] +
                                     (first + lane) * p.mask.stride[3];
            bool sees[2] = {};
#pragma unroll
            for (int n = 0; n < at_once; ++n) {
                const Index row = i - n < last ? last : i - n;  // often asked twice
                const auto* own = mask + row * p.mask.stride[2];
#pragma unroll
                for (int side = 0; side < 2; ++side, own += 32 * p.mask.stride[3])
                    if (first + 32 * side + lane < p.visible(row))
                        sees[side] |= mask_value(*own) != -CUDART_INF_F;
            }
            return (sees[0] ? 1u : 0u) | (sees[1] ? 2u : 0u);
        });
        seen |= __ballot_sync(~0u, mine & 1) |
                static_cast<std::uint64_t>(__ballot_sync(~0u, mine & 2)) << 32;
        if (seen == all || p.visible(i) <= first) break;
    }
    return seen;
}

/// \brief a / b where both are numbers of rows or heads: 64 rows of integers take 4 KB, so that 32 bits
///        can count all that any memory holds, and divide in far fewer instructions than 64.
__device__ inline unsigned divided(Index a, Index b) {
    return static_cast<unsigned>(a) / static_cast<unsigned>(b);
}

/// \brief Which head of keys is head n of the integers, see `Int8Keys`.
struct KeyHead {
    unsigned b, own, hk;  ///< own: among the heads of integers of batch b
    __device__ KeyHead(unsigned b_, unsigned own_, unsigned hk_) : b(b_), own(own_), hk(hk_) {}
    __device__ KeyHead(const Int8Problem& p, Index n) : b(divided(n, p.keys.heads)) {
        own = static_cast<unsigned>(n - b * p.keys.heads);
        hk = p.keys.heads == p.problem.H ? own : divided(own, p.problem.Hq / p.problem.H);
    }
    /// \brief The first of the query heads that it is for.
    __device__ Index query_head(const Int8Problem& p) const {
        return own * (p.problem.Hq / p.keys.heads);
    }
};

/// \brief `seen_keys` where the mask has been packed to bits and tile classes.
__device__ inline std::uint64_t seen_in_bits(const Int8Problem& p, Index b, Index h, Index block,
                                             Index first_row) {
    static_assert(class_tile == smoothing_block);
    const Problem& problem = p.problem;
    const Index first = block * smoothing_block;
    const Index limit = problem.L == 0 ? 0 : problem.visible(problem.L - 1) - first;
    if (limit <= 0) return 0;
    const std::uint64_t all = limit >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << limit) - 1;
    const int lane = threadIdx.x % 32;
    const std::uint8_t* cell = p.tile_class + p.class_stride(b, h, 0) + block;
    const std::uint32_t* words =
        static_cast<const std::uint32_t*>(p.mask) + p.mask_stride(b, h, 0) + 2 * block;
    const bool one_row = p.mask_stride.row == 0;      // the same for all queries: ask the last
    const auto at = [&](const std::uint32_t* word) {  // in the order of `mask_bit`
        return word[0] | static_cast<std::uint64_t>(word[1]) << 32;
    };
    const Index tiles = one_row ? 1 : (problem.L + class_tile - 1) / class_tile;
    std::uint64_t seen = 0;
    const Index first_tile = one_row ? 0 : first_row / class_tile;
    for (Index last = tiles - 1; last >= first_tile && seen != all; last -= 32) {
        // Classes of 32 tiles at once: one by one, each would cost its whole latency.
        const bool visible = last - lane >= first_tile &&
                             (cell[(last - lane) * p.class_stride.row] & some_visible) != 0;
        std::uint32_t left = __ballot_sync(~0u, visible);
        for (; left != 0 && seen != all; left &= left - 1) {
            const Index tile = last - (__ffs(static_cast<int>(left)) - 1);
            std::uint64_t whole = 0,
                          cut = 0;  // cut: rows that do not see all 64 keys, in key order
            for (int side = 0; side < class_tile; side += 32) {
                const Index i = (one_row ? problem.L - 1 : tile * class_tile) + side + lane;
                const Index keys = i < problem.L ? problem.visible(i) - first : 0;
                if (keys <= 0) continue;
                const std::uint64_t row = at(words + i * p.mask_stride.row);
                if (keys >= 64)
                    whole |= row;
                else
                    cut |= in_key_order(row) & ((std::uint64_t{1} << keys) - 1);
            }
            const std::uint64_t mine = in_key_order(whole) | cut;
            seen |= __reduce_or_sync(~0u, static_cast<std::uint32_t>(mine)) |
                    static_cast<std::uint64_t>(
                        __reduce_or_sync(~0u, static_cast<std::uint32_t>(mine >> 32)))
                        << 32;
        }
    }
    return seen;
}

/// \brief Is there a row that sees all of the keys 64 block .. + 63 that the causal rule shows to some row?
///        Asked of the tile classes of a mask in bits; false where only more of the mask could tell.
///        The work of a whole warp.
__device__ inline bool some_row_sees(const Int8Problem& p, const KeyHead& head, Index block) {
    const Problem& problem = p.problem;
    const Index first = block * smoothing_block;
    const Index most = problem.visible(problem.L - 1);  // of the last query: the most
    const Index end = first + smoothing_block < most ? first + smoothing_block : most;
    const bool one_row = p.class_stride.row == 0;  // the same for all queries
    const Index tiles = one_row ? 1 : (problem.L + class_tile - 1) / class_tile;
    const std::uint8_t* cell = p.tile_class + p.class_stride(head.b, head.query_head(p), 0) + block;
    for (Index last = tiles - 1; last >= 0; last -= 32) {
        const Index tile = last - threadIdx.x % 32;
        const Index next_row = (tile + 1) * class_tile;
        const Index row = (one_row || next_row > problem.L ? problem.L : next_row) - 1;
        const bool whole = tile >= 0 && problem.visible(row) >= end &&
                           (cell[tile * p.class_stride.row] & some_hidden) == 0;
        if (__any_sync(~0u, whole)) return true;
    }
    return false;
}

/// \brief Those of the keys 64 block .. + 63 that some query may see. The work of a whole warp.
/// \param first_row  of those that are asked: the first one of a tile
__device__ inline std::uint64_t seen_of(const Int8Problem& p, const KeyHead& head, Index block,
                                        bool bits, Index first_row = 0) {
    const Index h = head.query_head(p);
    return bits ? seen_in_bits(p, head.b, h, block, first_row)
                : seen_keys(p.problem, head.b, h, block, first_row);
}

}  // namespace attn::gpu
