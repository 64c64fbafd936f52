/// \file
/// \brief Tiles of rows on their way to shared memory, where each piece of 16 bytes lies swizzled.
#pragma once

#include "cuda_mma.hpp"
#include "mma.cuh"

namespace attn::gpu {

/// \brief Starts the copy of `Rows` rows of 16-bit elements to a swizzled tile in shared memory;
///        rows from `rows_left` on and columns from `columns` on become zeros. The work of
///        `thread`. `once`: see `copy_async_16`.
template <int Rows, int HeadDim, int Threads, bool once = false>
__device__ inline void copy_tile(std::uint32_t to, const std::uint16_t* from, Index stride,
                                 Index rows_left, int columns, unsigned thread) {
    constexpr int pieces = HeadDim / 8;  // of 16 bytes in a row
    constexpr int step = Threads / pieces;
    static_assert(Threads % pieces == 0 && Rows % step == 0, "every thread copies as many pieces");
    const int piece = static_cast<int>(thread % pieces), first = static_cast<int>(thread / pieces);
    const int valid_rows =
        piece * 8 >= columns ? 0 : (rows_left < Rows ? static_cast<int>(rows_left) : Rows);
    const std::uint16_t* source = from + first * stride + piece * 8;
    if (valid_rows == Rows) {  // all but the last tile of a head
#pragma unroll
        for (int i = 0; i < Rows / step; ++i) {
            copy_async_16<once>(to + swizzled<2 * HeadDim>(first + i * step, piece), source);
            source += step * stride;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < Rows / step; ++i) {
        const int row = first + i * step;
        copy_async_16(to + swizzled<2 * HeadDim>(row, piece), source, row < valid_rows);
        source += step * stride;
    }
}

/// \brief x, as a number that the compiler cannot compute anew: it stays in a register.
__device__ inline std::uint32_t kept(std::uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}

/// \brief `count` times `stride` bytes behind `from`, in 32 x 32 bits: 64-bit arithmetic takes several
///        instructions for each product.
__device__ inline const void* bytes_behind(const void* from, unsigned count, unsigned stride) {
    std::uint64_t sum;
    asm("mad.wide.u32 %0, %1, %2, %3;"
        : "=l"(sum)
        : "r"(count), "r"(stride), "l"(reinterpret_cast<std::uint64_t>(from)));
    return reinterpret_cast<const void*>(sum);
}
/// \brief Can `bytes_behind` take such a number of rows, or of elements from row to row?
__device__ inline bool is_short(Index x) { return static_cast<std::uint64_t>(x) < 1u << 29; }

/// \brief The copies of keys and values, tile by tile: a thread's share is one piece of 16 bytes, the
///        same in every `step`th row. Where registers allow, all that does not change from tile to tile
///        is kept.
template <class Shape, bool Kept = Shape::spare_registers>
struct KeyCopy {
    static constexpr int pieces = Shape::HeadDim / 8, step = Shape::threads / pieces;
    const std::uint16_t *key, *value;  ///< the piece of the thread's first row, in tile 0
    std::uint32_t own;                 ///< its place in the first key tile in shared memory
    int whole;  ///< tiles before it have all their rows; 0 where the piece or the strides need care

    /// \param tiles  shared memory: two tiles of keys, then two of values
    __device__ KeyCopy(const MmaProblem& p, Index b, Index hk, std::uint32_t tiles) {
        const int row = threadIdx.x / pieces, piece = threadIdx.x % pieces;
        key = p.key + p.key_stride(b, hk, row) + piece * 8;
        value = p.value + p.value_stride(b, hk, row) + piece * 8;
        own = kept(tiles + swizzled<Shape::row_bytes>(row, piece));
        const bool easy = piece * 8 < p.query_columns && piece * 8 < p.value_columns &&
                          is_short(p.key_stride.row) && is_short(p.value_stride.row) &&
                          is_short(p.problem.S);
        whole = easy ? static_cast<int>(p.problem.S) / Shape::Keys : 0;
    }
    /// \brief Starts the copy of tile j to the stage's tiles.
    __device__ void start(const MmaProblem& p, int j, int stage) const {
        const std::uint32_t keys = own + stage * Shape::tile_bytes;
        const std::uint32_t values = keys + 2 * Shape::tile_bytes;
        if (j < whole) {
            start_whole(keys, key, j, static_cast<unsigned>(p.key_stride.row));
            start_whole(values, value, j, static_cast<unsigned>(p.value_stride.row));
            return;
        }
        start_part(keys, key, j, p.key_stride.row, p.problem.S, p.query_columns);
        start_part(values, value, j, p.value_stride.row, p.problem.S, p.value_columns);
    }

  private:
    /// Of the piece in the thread's row i, from that in its first one.
    static __device__ std::uint32_t further(std::uint32_t to, int i) {
        return (to ^ (i * step % 8 << 4)) + i * step * Shape::row_bytes;
    }
    static __device__ void start_whole(std::uint32_t to, const void* from, int j, unsigned stride) {
        from = bytes_behind(from, static_cast<unsigned>(j) * (Shape::Keys * 2), stride);
#pragma unroll
        for (int i = 0; i < Shape::Keys / step; ++i)
            copy_async_16(further(to, i), bytes_behind(from, i * step * 2, stride));
    }
    static __device__ void start_part(std::uint32_t to, const std::uint16_t* from, int j,
                                      Index stride, Index S, int columns) {
        const unsigned thread = fresh_thread();
        const Index at = static_cast<Index>(j) * Shape::Keys;
        const bool exists = static_cast<int>(thread % pieces) * 8 < columns;
        from += at * stride;
#pragma unroll
        for (int i = 0; i < Shape::Keys / step; ++i) {
            copy_async_16(further(to, i), from, exists && at + thread / pieces + i * step < S);
            from += step * stride;
        }
    }
};
template <class Shape>
struct KeyCopy<Shape, false> {
    const std::uint16_t *key, *value;  ///< row 0
    std::uint32_t tiles;

    __device__ KeyCopy(const MmaProblem& p, Index b, Index hk, std::uint32_t tiles)
        : key(p.key + p.key_stride(b, hk, 0)),
          value(p.value + p.value_stride(b, hk, 0)),
          tiles(tiles) {}
    __device__ void start(const MmaProblem& p, int j, int stage) const {
        const std::uint32_t keys = tiles + stage * Shape::tile_bytes;
        const std::uint32_t values = tiles + 2 * Shape::tile_bytes + stage * Shape::tile_bytes;
        constexpr int KT = Shape::Keys, HD = Shape::HeadDim;
        const Index at = static_cast<Index>(j) * KT;
        copy_tile<KT, HD, Shape::threads>(keys, key + at * p.key_stride.row, p.key_stride.row,
                                          p.problem.S - at, p.query_columns, threadIdx.x);
        copy_tile<KT, HD, Shape::threads>(values, value + at * p.value_stride.row,
                                          p.value_stride.row, p.problem.S - at, p.value_columns,
                                          threadIdx.x);
    }
};

}  // namespace attn::gpu
