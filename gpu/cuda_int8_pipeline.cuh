/// \file
/// \brief How tiles come to the kernel of cuda_int8_wgmma.cuh: its places in shared memory, its
///        barriers, and the thread that copies.
///
/// Every tile has two barriers: *full* ends when its bytes have arrived, *empty* when the last warp
/// has read it. The copying thread runs ahead of the others by as many tiles as there are stages,
/// also from one block of rows to the next.
#pragma once

#include "cuda_int8_kernel.cuh"
#include "tensor_map.hpp"
#include "wgmma.cuh"

namespace attn::gpu {

/// \brief Sizes of the kernel; `MmaShape` has those of values and the output. Registers decide them.
///        At HeadDim = 64, where the weights take longer than the products, four groups of warps
///        with small tiles pay: a warp often waits for its own last result, and with fewer warps to
///        choose from half of the issue slots stay empty.
template <class T, int HeadDim>
using Int8WgmmaBase =
    MmaShape<T, HeadDim, HeadDim == 64 ? 16 : 8, 1, HeadDim == 64 ? 64 : 128, false>;
template <class T, int HeadDim, Masking masking_>
struct Int8WgmmaShape : Int8WgmmaBase<T, HeadDim> {
    using Base = Int8WgmmaBase<T, HeadDim>;
    static constexpr Masking masking = masking_;
    /// Tiles that nobody sees are left out: the copying thread says which ones come.
    static constexpr bool listed = masking == Masking::bits;
    /// Scores are scaled, the mask is added, then come units of log 2.
    static constexpr bool natural = masking == Masking::additive;
    static constexpr bool dense = natural || masking == Masking::bytes;
    /// The mask comes tile by tile, as the keys do: planes of 64 keys, or the bits of 128, from a
    /// multiple of 128 on (the copy engine starts at multiples of 16 bytes): a tile of 64 uses half.
    static constexpr int mask_planes = listed ? 1 : dense ? Base::Keys / 64 : 0;
    static constexpr int mask_row_bytes = listed ? 16 : natural ? 128 : 64;
    static constexpr int mask_plane_bytes = Base::rows * mask_row_bytes;
    static constexpr int mask_bytes = mask_planes * mask_plane_bytes;
    // Of a thread: all get as many at the start, then they are dealt out anew.
    static constexpr int consumer_registers = HeadDim == 64 ? 112 : 232;
    static constexpr int copier_registers = HeadDim == 64 ? 32 : 40;
    static constexpr int consumers = Base::threads;
    static constexpr int all_threads = consumers + 128;  // four warps more, of which one copies
    // A tile is on its way for longer than the one before it takes.
    static constexpr int stages = HeadDim == 64 ? (natural ? 3 : 4) : (dense ? 2 : 3);
    static constexpr int planes = HeadDim / 64, plane_bytes = Base::Keys * 128;
    static constexpr int int8_query_bytes = Base::rows * HeadDim;
    static constexpr int int8_tile_bytes = Base::Keys * HeadDim;
    static constexpr int scale_bytes = Base::Keys * 4;
    static constexpr int key_at = 2 * int8_query_bytes;
    static constexpr int value_at = key_at + stages * int8_tile_bytes;
    static constexpr int mask_at = value_at + stages * Base::tile_bytes;
    static constexpr int out_at = mask_at + stages * mask_bytes;
    static constexpr int scale_at = out_at + Base::query_bytes;
    static constexpr int square_bytes = natural ? 0 : Base::rows * 4;  // no norms then
    static constexpr int square_at = scale_at + stages * scale_bytes;
    static constexpr int barriers_at = square_at + 2 * square_bytes;
    static constexpr int tasks_at = barriers_at + 160;
    static constexpr int labels_at = tasks_at + 128;
    static constexpr int shared_bytes = labels_at + 8 * stages + 1024;  // tiles start at 1024 bytes
    static_assert(shared_bytes <= 227 * 1024, "of a multiprocessor of sm_90");
};

/// \brief Tensors as the copy engine knows them; the mask if there is one.
struct Int8Maps {
    CUtensorMap values, mask;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief The kernel's barriers: addresses in shared memory.
template <int stages>
struct Int8Barriers {
    std::uint32_t base;
    static constexpr int count = 4 * stages + 4;
    __device__ std::uint32_t key_full(int stage) const { return base + 8 * stage; }
    __device__ std::uint32_t key_empty(int stage) const { return base + 8 * (stages + stage); }
    __device__ std::uint32_t value_full(int stage) const { return base + 8 * (2 * stages + stage); }
    __device__ std::uint32_t value_empty(int stage) const {
        return base + 8 * (3 * stages + stage);
    }
    __device__ std::uint32_t query_full(int slot) const { return base + 8 * (4 * stages + slot); }
    __device__ std::uint32_t query_empty(int slot) const {
        return base + 8 * (4 * stages + 2 + slot);
    }
    static constexpr int bytes = 8 * count;

    /// \param warps  that empty a stage: one lane of each arrives where only `wgmma` has read, all
    ///        lanes where each has read for itself
    __device__ void set(int warps) const {
        for (int stage = 0; stage < stages; ++stage) {
            barrier_set(key_full(stage), 1);
            barrier_set(value_full(stage), 1);
            barrier_set(key_empty(stage), 32 * warps);
            barrier_set(value_empty(stage), warps);
        }
        for (int slot = 0; slot < 2; ++slot) {
            barrier_set(query_full(slot), 1);
            barrier_set(query_empty(slot), 32 * warps);
        }
        fence_shared_for_wgmma();
    }
    __device__ void end() const {
        for (int n = 0; n < count; ++n) barrier_end(base + 8 * n);
    }
};

/// \brief The stage of one tile after the other, and how often it has been used, modulo 2.
template <int stages>
struct Turn {
    int stage = 0, parity = 0;
    __device__ void next() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

/// \brief What a stage holds, where a mask decides which tiles are visited.
struct TileLabel {
    int tile;        ///< its number; -1: there is none, the block of rows ends
    unsigned mixed;  ///< bit g: the mask hides some of it from group g
};
/// \brief The label of tile j for a block's rows: tile -1 if the mask hides all of it.
/// \param classes  of the block's first rows
template <class Shape>
__device__ inline TileLabel label_of(const Int8Problem& p, const std::uint8_t* classes,
                                     Index rows_left, int j) {
    constexpr int columns = Shape::Keys / class_tile, groups = Shape::rows / 64;
    static_assert(class_tile == 64, "a group's rows are one row of classes");
    unsigned seen = 0, mixed = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g)
#pragma unroll
        for (int c = 0; c < columns; ++c) {
            const Index column = static_cast<Index>(j) * columns + c;
            if (g * 64 >= rows_left || column >= p.keys.blocks) continue;
            const unsigned bits = classes[g * p.class_stride.row + column];
            seen |= bits & some_visible;
            if ((bits & some_hidden) != 0) mixed |= 1u << g;
        }
    return {seen != 0 ? j : -1, mixed};
}

/// \brief Tiles of keys up to the last key that rows .. row may see.
template <class Shape>
__device__ inline int tiles_up_to(const Problem& p, Index row) {
    return static_cast<int>((p.visible(row < p.L ? row : p.L - 1) + Shape::Keys - 1) / Shape::Keys);
}

/// \brief A block of rows. The copying thread finds it and leaves it in shared memory: the others
///        have no registers for it, nor time for divisions.
struct Int8Task {
    Index block;  ///< -1: there is none
    Index b, h, first_row;
    Index row;      ///< the first one among all query rows
    Index keys;     ///< among (B, heads of keys)
    float longest;  ///< the largest square of a norm among the keys, if the pre-pass tells norms
};

/// \brief The largest square of a norm among a head's keys. The work of a whole warp.
__device__ inline float largest_key_square(const Int8Problem& p, Index head) {
    const float* of_block = p.keys.square + head * p.keys.blocks;
    float most = 0;
    for (Index n = threadIdx.x % 32; n < p.keys.blocks; n += 32) most = fmaxf(most, of_block[n]);
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
}

/// \brief Copies what a block of rows needs, tile by tile, as room comes free. The work of one warp, most
///        of it of its first thread.
///        (A wait for parity ^ 1 does not wait at a stage that was never used.) With a mask of
///        bits, tiles that nobody sees are left out, and behind the last one comes an empty one.
/// \param slot  of the query tile
/// \param labels  (stages), used with a mask of bits
template <class Shape>
__device__ inline void copy_int8_tiles(const Int8Problem& p, const Int8Maps& maps, Index block,
                                       int slot, volatile Int8Task& task,
                                       volatile TileLabel* labels, std::uint32_t memory,
                                       const Int8Barriers<Shape::stages>& barriers,
                                       Turn<Shape::stages>& turn) {
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    const Problem& problem = p.problem;
    const Place<Shape> place(p, block - blockIdx.x);
    const Index row = (place.b * problem.Hq + place.h) * p.queries.rows + place.first_row;
    const Index keys_at = p.keys.place(problem, place.b, place.h);
    const bool norms = p.queries.square != nullptr;
    const float longest = norms ? largest_key_square(p, keys_at) : 0;
    if (threadIdx.x % 32 != 0) return;
    task.block = block, task.b = place.b, task.h = place.h, task.first_row = place.first_row;
    task.row = row, task.keys = keys_at, task.longest = longest;
    const std::uint8_t* classes = nullptr;
    if constexpr (Shape::listed)
        classes = p.tile_class + p.class_stride(place.b, place.h, place.first_row / class_tile);
    const Index rows_left = p.queries.rows - place.first_row;
    const int rows = rows_left < Shape::rows ? static_cast<int>(rows_left) : Shape::rows;
    barrier_expect(barriers.query_full(slot), rows * (norms ? HD + 4 : HD));
    copy_bytes(memory + slot * Shape::int8_query_bytes, p.queries.query + row * HD, rows * HD,
               barriers.query_full(slot));
    if (norms)
        copy_bytes(memory + Shape::square_at + slot * Shape::square_bytes, p.queries.square + row,
                   rows * 4, barriers.query_full(slot));
    const Index head = keys_at * p.keys.blocks * 64;
    const int value_head =
        p.value_stride.head == 0 ? 0 : static_cast<int>(problem.key_head(place.h));
    const int value_batch = p.value_stride.batch == 0 ? 0 : static_cast<int>(place.b);
    const int mask_head = p.mask_stride.head == 0 ? 0 : static_cast<int>(place.h);
    const int mask_batch = p.mask_stride.batch == 0 ? 0 : static_cast<int>(place.b);
    const int tiles = tiles_up_to<Shape>(problem, place.first_row + Shape::rows - 1);
    for (int j = 0; j < tiles; ++j) {
        TileLabel label{j, 0};
        if constexpr (Shape::listed)
            label = label_of<Shape>(p, classes, problem.L - place.first_row, j);
        if (label.tile < 0) continue;
        const int stage = turn.stage;
        const Index at = static_cast<Index>(j) * KT, left = p.keys.blocks * 64 - at;
        const int keys = left < KT ? static_cast<int>(left) : KT;
        barrier_wait(barriers.key_empty(stage), turn.parity ^ 1);
        if constexpr (Shape::listed)
            labels[stage].tile = label.tile, labels[stage].mixed = label.mixed;
        barrier_expect(barriers.key_full(stage), keys * (HD + 4) + Shape::mask_bytes);
        copy_bytes(memory + Shape::key_at + stage * Shape::int8_tile_bytes,
                   p.keys.key + (head + at) * HD, keys * HD, barriers.key_full(stage));
        copy_bytes(memory + Shape::scale_at + stage * Shape::scale_bytes, p.keys.scale + head + at,
                   keys * 4, barriers.key_full(stage));
#pragma unroll
        for (int plane = 0; plane < Shape::mask_planes; ++plane)
            copy_box(memory + Shape::mask_at + stage * Shape::mask_bytes +
                         plane * Shape::mask_plane_bytes,
                     &maps.mask, static_cast<int>(Shape::listed ? at / 128 * 16 : at + plane * 64),
                     static_cast<int>(place.first_row), mask_head, mask_batch,
                     barriers.key_full(stage));
        barrier_wait(barriers.value_empty(stage), turn.parity ^ 1);
        barrier_expect(barriers.value_full(stage), Shape::tile_bytes);
#pragma unroll
        for (int plane = 0; plane < Shape::planes; ++plane)
            copy_box(
                memory + Shape::value_at + stage * Shape::tile_bytes + plane * Shape::plane_bytes,
                &maps.values, plane * 64, static_cast<int>(at), value_head, value_batch,
                barriers.value_full(stage));
        turn.next();
    }
    if constexpr (Shape::listed) {
        barrier_wait(barriers.key_empty(turn.stage), turn.parity ^ 1);
        labels[turn.stage].tile = -1;
        barrier_arrive(barriers.key_full(turn.stage));
        barrier_wait(barriers.value_empty(turn.stage), turn.parity ^ 1);
        barrier_arrive(barriers.value_full(turn.stage));
        turn.next();
    }
}

/// \brief The block's shared memory from a multiple of 1024 bytes on.
__device__ inline unsigned char* whole_kilobytes(unsigned char* raw) {
    return raw + (1024 - shared_address(raw) % 1024) % 1024;
}

#endif  // sm_90a

}  // namespace attn::gpu
