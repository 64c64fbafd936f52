/// \file
/// \brief How the second kernel of `cuda_int8`'s pre-pass shares its work: parts of some tiles of rows,
///        found by products instead of divisions, and what is written about a tile beside its integers.
#pragma once

#include "cuda_int8_rows.cuh"
#include "cuda_int8_seen.cuh"
#include "divisor.cuh"

namespace attn::gpu {

constexpr int tile_rows = 64;  ///< of queries or keys: one KeyBlock

/// \brief What a kernel has to do: parts of at most `tiles` tiles of 64 rows of one head, those of
///        queries first.
struct RoundTask {
    bool bits, natural;  ///< the mask is bits; a mask is added before units of log 2 are taken
    int tiles;           ///< of a part
    Index query_parts, key_parts;
    Divisor of_query_head, query_heads;            ///< parts of a head, heads of a batch
    Divisor of_key_head, key_heads, heads_of_key;  ///< heads of integers of a key head

    RoundTask(const Int8Problem& p, Masking masking, int tiles_)
        : bits(masking == Masking::bits),
          natural(masking == Masking::additive),
          tiles(tiles_),
          query_parts(p.problem.B * p.problem.Hq * parts(p.queries.rows / tile_rows)),
          key_parts(p.problem.B * p.keys.heads * parts(p.keys.blocks)),
          of_query_head(parts(p.queries.rows / tile_rows)),
          query_heads(p.problem.Hq),
          of_key_head(parts(p.keys.blocks)),
          key_heads(p.keys.heads),
          heads_of_key(p.problem.H > 0 ? p.keys.heads / p.problem.H : 1) {}

  private:
    Index parts(Index tiles_of_head) const { return (tiles_of_head + tiles - 1) / tiles; }
};

/// \brief The rows of a part. `of_all`: the place of the first one among the integers of all heads.
struct QueryRows {
    unsigned b, h;
    Index first, of_all;
    int tiles;
    __device__ QueryRows(const Int8Problem& p, const RoundTask& task, Index part) {
        const unsigned head = task.of_query_head(part);
        b = task.query_heads(head), h = task.query_heads.rest(head, b);
        const int tile = static_cast<int>(task.of_query_head.rest(part, head)) * task.tiles;
        tiles = min(task.tiles, static_cast<int>(p.queries.rows / tile_rows) - tile);
        first = tile * tile_rows;
        of_all = head * p.queries.rows + first;
    }
};
/// \brief The same for keys.
struct KeyRows {
    unsigned n;  ///< head of integers
    KeyHead head;
    Index first, of_all;
    int tile, tiles;  ///< the first one's number in its head
    __device__ KeyRows(const Int8Problem& p, const RoundTask& task, Index part)
        : n(task.of_key_head(part)),
          head(head_of(task, n)),
          tile(static_cast<int>(task.of_key_head.rest(part, n)) * task.tiles) {
        tiles = min(task.tiles, static_cast<int>(p.keys.blocks) - tile);
        first = tile * tile_rows;
        of_all = (n * p.keys.blocks + tile) * tile_rows;
    }
    static __device__ KeyHead head_of(const RoundTask& task, unsigned n) {
        const unsigned b = task.key_heads(n), own = task.key_heads.rest(n, b);
        return {b, own, task.heads_of_key(own)};
    }
};

/// \brief What the main kernel expects beside the integers: see Int8Problem. A lane for each tile.
template <int HeadDim>
__device__ void clear_marks(const Int8Problem& p, const QueryRows& rows) {
    const int size = int8_tile_rows(HeadDim);
    const unsigned lane = threadIdx.x;
    const Index row = rows.of_all + lane * tile_rows;  // heads have whole tiles of `size` rows
    if (lane >= static_cast<unsigned>(rows.tiles) || row % size != 0) return;
    p.again[row / size] = false;
    if (row == 0) *p.next_block = 0;
}

/// \brief How queries are scaled.
struct QueryUnit {
    float unit, sign;
    __device__ QueryUnit(const Problem& p, bool natural) {
        const float size = fabsf(static_cast<float>(p.scale));
        unit = natural ? size : size * 1.44269504f;
        sign = p.scale < 0 ? -1.0f : 1.0f;
    }
};

/// \brief Where the scales of a row go.
__device__ inline QueryScales scales_at(const Int8Problem& p, Index row) {
    return {p.queries.factor + row, p.queries.shift + row, p.queries.without + row,
            p.queries.square == nullptr ? nullptr : p.queries.square + row};
}

/// \brief The keys that the causal rule lets some query see are those before this one.
__device__ inline Index seen_keys_end(const Problem& p) {
    return p.L == 0 ? 0 : p.visible(p.L - 1);
}
/// \brief The largest of numbers that are not below 0, among a warp's.
__device__ inline float largest_of_warp(float x) {
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x)));  // bits in the same order
}
/// \brief `seen_of`, not inlined: it is much code, and rare.
__device__ __noinline__ inline std::uint64_t seen_apart(const Int8Problem& p, const KeyHead& head,
                                                        Index block, bool bits, Index first_row) {
    return seen_of(p, head, block, bits, first_row);
}
/// \brief Is each key of a block that the causal rule leaves surely seen by some row? Asked are tiles
///        that a mask in bits leaves whole, and the last rows; else the block has no bound.
__device__ inline bool all_seen(const Int8Problem& p, const RoundTask& task, const KeyHead& head,
                                Index block) {
    const Problem& problem = p.problem;
    if (problem.mask_kind == MaskKind::none || problem.L == 0) return true;
    if (task.bits && some_row_sees(p, head, block)) return true;
    const Index last = (problem.L - 1) / class_tile * class_tile;
    return seen_keys<false>(problem, head.b, head.hk, block) ==
           seen_apart(p, head, block, task.bits, last);
}

/// \brief Writes which keys of a block have integers, and which of the others are seen. The work of a
///        warp.
/// \param integers  one bit each
/// \param square  the largest one of a norm among the keys that `seen_keys_end` leaves: what nobody
///                sees must not count
__device__ inline void write_found(const Int8Problem& p, const RoundTask& task, const KeyRows& rows,
                                   Index block, std::uint64_t integers, float square) {
    static_assert(tile_rows == 64, "one KeyBlock");
    const Index left = p.problem.S - block * tile_rows;
    const std::uint64_t exist = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    KeyBlock found{integers & exist, 0};
    if (found.integer != exist)
        found.floating = seen_apart(p, rows.head, block, task.bits, 0) & exist & ~found.integer;
    const bool bound = p.keys.square != nullptr && all_seen(p, task, rows.head, block);
    if (threadIdx.x % 32 != 0) return;
    const Index at = rows.n * p.keys.blocks + block;
    p.keys.block[at] = found;
    if (p.keys.square != nullptr) p.keys.square[at] = bound ? square : CUDART_INF_F;
    if (found.floating != 0) p.keys.floating[rows.n] = true;
}

}  // namespace attn::gpu
