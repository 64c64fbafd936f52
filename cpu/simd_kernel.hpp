/// \file
/// \brief What the tier `simd` asks of its kernels, and the table that holds one copy's kernels.
///        The kernels are compiled once per instruction set; simd.cpp picks a table when it runs.
#pragma once

#include "isa.hpp"

#include <attn/tier.hpp>

#include <cstddef>
#include <cstdint>

namespace attn {

/// \brief Rows of one tile of queries: 64, so that one machine word holds a bit for each.
///
/// A row is one query of one head. All heads that share a key head are one sequence of rows, query
/// by query: row r is query r / group of head key_head * group + r % group.
inline constexpr Index simd_tile_rows = 64;

/// \brief Keys of one tile: one word of mask bits. A tile's weights, (64, 64) floats, take 16 KiB;
///        with as much of keys, values or queries (E = 64) they fit the first-level cache of 32
///        KiB. Tiles of 96 and 128 keys were measured within 2 % of it.
inline constexpr Index simd_tile_keys = 64;

/// \brief Most rows of a task where tiles of queries share what is made of keys and values.
inline constexpr Index simd_task_rows = 8 * simd_tile_rows;

/// \brief One piece of work: some rows that share a key head, against some of its keys.
struct SimdTask {
    Index b = 0, key_head = 0;
    Index first_row = 0, rows = 0;
    Index first_key = 0, end_key = 0;
    /// Null: these are all keys, and the result is written to `out` and `logsumexp`.
    /// Otherwise the unfinished state goes here: (rows, simd_partial_stride(Ev)).
    float* partial = nullptr;
    /// What is known of the mask's tiles, (row tiles, key tiles) of this batch, where heads share a
    /// mask (`CoverNote`). All threads write the same. Null: nothing is kept.
    std::uint8_t* covers = nullptr;
    /// From a query of this task to its like in the task that this thread will probably do next,
    /// in elements: to prefetch. 0: there is none.
    Index next_query = 0;
    /// Likewise from its first key and value; 0: they are the same head's.
    Index next_key = 0, next_value = 0;
};

/// \brief Most rows of a task of `attend_rows`.
inline constexpr Index simd_few_rows = 16;

/// \brief One row's unfinished state: a cache line with the running maximum and the running sum,
///        then Ev sums of weight * value; in whole cache lines.
inline constexpr Index simd_partial_header = 16;
constexpr Index simd_partial_stride(Index Ev) { return simd_partial_header + (Ev + 15) / 16 * 16; }

/// \brief The kernels of one instruction set.
struct SimdKernels {
    /// Floats of working memory that one thread needs.
    Index (*scratch_floats)(const Problem&);
    /// Most rows of a task of `attend_tile`: simd_tile_rows or simd_task_rows.
    Index most_rows;
    /// Many queries: one query in each lane.
    void (*attend_tile)(const Problem&, const SimdTask&, float* scratch);
    /// Few queries: one element of a row in each lane. At most simd_few_rows.
    void (*attend_rows)(const Problem&, const SimdTask&, float* scratch);
    /// Adds the state `from` of `task.rows` rows to the state `into`.
    void (*merge)(const Problem&, Index rows, const float* from, float* into);
    /// Divides, in place, and writes the state of a task's rows.
    void (*finish)(const Problem&, const SimdTask&, float* state);
    /// 2^x of `count` floats, a multiple of 16, aligned: for the test of its error.
    void (*exp2)(const float* x, float* y, Index count);
};

#define ATTN_COPY(isa)                     \
    namespace isa {                        \
    extern const SimdKernels simd_kernels; \
    }
ATTN_FOR_EACH_ISA(ATTN_COPY)
#if defined(__x86_64__)
ATTN_COPY(amx)  // for bfloat16 and float16 alone
#endif
#undef ATTN_COPY

}  // namespace attn
