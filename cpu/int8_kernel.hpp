/// \file
/// \brief What the tiers `int8_pv32` and `int8` ask of their kernels, and where one head's integers
///        lie. The kernels are compiled once per instruction set; int8_run.cpp picks a table.
#pragma once

#include "isa.hpp"
#include "simd_kernel.hpp"

#include <attn/quantize.hpp>

namespace attn {

/// \brief Keys of one block: a tile of the kernels, a partial sum of the mean, and the keys whose
///        values share a step. More of them would spread the cost of going back to floats over more
///        products, but lose more small weights: with 256 the time was the same within the noise,
///        and the error up to half as large again. Products stay exact: 64 * 255 * 127 < 2^24.
inline constexpr Index int8_block = value_block;
static_assert(int8_block == simd_tile_keys && int8_block == smoothing_block);

/// \brief Whether values and weights are integers too, or stay float32.
enum class Int8Values : bool { float32, int8 };

/// \brief How the integers of a head lie: as one copy of the kernels multiplies them.
struct Int8Layout {
    int numbers_in_a_word;  ///< four of 8 bits, or two of 16
    /// Rows of matrix tiles (int8_amx.hpp): a key is whole rows of 16 words, the values of a block
    /// are transposed, and all blocks are whole; what is added to E, Ev and S has no meaning but
    /// is there to be read.
    bool tiles;
};

/// \brief One head of keys and values as integers, in scratch memory that all threads share.
///
/// A word is an int32 that holds four 8-bit or two 16-bit numbers (int8_dot.hpp).
struct Int8Head {
    Index key_words;            ///< words of one key
    std::int32_t* key;          ///< (S, key_words) words of E
    std::int32_t* key_start;    ///< (S) where the sum of a score begins: - query_offset * sum of k
    float* key_scale;           ///< (S)
    float* mean;                ///< (E, zeros to a whole line) what smoothing took from every key
    std::int32_t* value;        ///< (S in words, Ev) words of neighbouring keys; tiles: (blocks,
                                ///< Ev, 16)
    float* value_scale;         ///< (blocks, Ev) over 255: weights are integers
    std::uint8_t* used;         ///< (S) 1: some query sees the key; 2: and it is not quantizable
    std::int32_t* not_integer;  ///< (blocks) keys marked 2
    float* sums;                ///< (blocks that count, E) on the way to the mean
    std::int32_t* counts;       ///< (blocks) keys in their sums
    std::size_t bytes;          ///< in all

    /// \param memory  null to count bytes only
    Int8Head(const Problem& p, Int8Values values, Int8Layout layout, std::byte* memory);
};

/// \brief The kernels of one instruction set. Problems have one key head: B = 1 and H = 1.
struct Int8Kernels {
    Int8Layout layout;
    /// Floats of working memory that one thread needs.
    Index (*scratch_floats)(const Problem&, Int8Values);
    /// First: which of the keys of one block are used, and their sums.
    void (*measure)(const Problem&, const Int8Head&, Index block, float* scratch);
    /// Second, when all blocks are measured: the mean of a head's keys.
    void (*average)(const Problem&, const Int8Head&);
    /// Third: keys and values of one block become integers.
    void (*quantize)(const Problem&, Int8Values, const Int8Head&, Index block, float* scratch);
    /// Fourth, when all are integers: rows first_row .. first_row + rows - 1 against all keys.
    /// \return bit r: row first_row + r meets a number that has no integer, and must be computed in
    ///         floating point. What was written for it does not count.
    std::uint64_t (*attend)(const Problem&, Int8Values, const Int8Head&, const SimdTask&,
                            float* scratch);
};

#define ATTN_COPY(isa)                     \
    namespace isa {                        \
    extern const Int8Kernels int8_kernels; \
    }
ATTN_FOR_EACH_DOT_ISA(ATTN_COPY)
#if defined(__x86_64__)
ATTN_COPY(amx)
#endif
#undef ATTN_COPY

}  // namespace attn
