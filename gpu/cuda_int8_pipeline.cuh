/// \file
/// \brief How tiles come to the kernel of cuda_int8_wgmma.cuh: its places in shared memory, its
///        barriers, and the two warps that copy.
///
/// Every tile has two barriers: *full* ends when its bytes have arrived, *empty* when the last warp
/// has read it. One warp copies tiles of keys and values, and runs ahead of those that compute by as
/// many tiles as there are stages, also from one block of rows to the next. Another one finds the
/// next block of rows and copies its queries, ahead by one block.
#pragma once

#include "cuda_int8_kernel.cuh"
#include "tensor_map.hpp"
#include "wgmma.cuh"

namespace attn::gpu {

/// \brief Sizes of the kernel; `MmaShape` has those of values and the output. Registers decide them.
///        At HeadDim = 64, where the weights take longer than the products, four groups of warps
///        with small tiles pay: a warp often waits for its own last result, and with fewer warps to
///        choose from half of the issue slots stay empty.
template <class T, int HeadDim, int Keys>
using Int8WgmmaBase = MmaShape<T, HeadDim, HeadDim == 64 ? 16 : 8, 1, Keys, false>;
/// \tparam MaskElement  of an additive mask: float or T
template <class T, int HeadDim, Masking masking_, class MaskElement = T,
          int Keys_ = HeadDim == 64 || sizeof(MaskElement) == 4 ? 64 : 128>
struct Int8WgmmaShape : Int8WgmmaBase<T, HeadDim, Keys_> {
    using Base = Int8WgmmaBase<T, HeadDim, Keys_>;
    static constexpr Masking masking = masking_;
    /// Tiles that nobody sees are left out: the warp that copies says which ones come.
    static constexpr bool listed = masking == Masking::bits;
    /// Scores are scaled, the mask is added, then come units of log 2.
    static constexpr bool natural = masking == Masking::additive;
    static constexpr bool dense = natural || masking == Masking::bytes;
    static constexpr bool floats = natural && sizeof(MaskElement) == 4;
    /// The mask comes tile by tile, as the keys do: planes of 64 keys (32 of float32), or the bits of
    /// 128, from a multiple of 128 on (the copy engine starts at multiples of 16 bytes): a tile of 64
    /// uses half.
    static constexpr int mask_plane_keys = floats ? 32 : 64;
    static constexpr int mask_planes = listed ? 1 : dense ? Base::Keys / mask_plane_keys : 0;
    static constexpr int mask_row_bytes = listed ? 16 : natural ? 128 : 64;
    static constexpr int mask_plane_bytes = Base::rows * mask_row_bytes;
    static constexpr int mask_bytes = mask_planes * mask_plane_bytes;
    // Of a thread: all get as many at the start, then they are dealt out anew. A block never has more
    // than it had at its start.
    static constexpr int consumers = Base::threads;
    static constexpr int all_threads = consumers + 128;  // four warps more, of which two copy
    static constexpr int consumer_registers = HeadDim == 64 ? 112 : 224;
    static constexpr int copier_registers = HeadDim == 64 ? 32 : 56;
    static_assert(consumers * consumer_registers + 128 * copier_registers <=
                      all_threads * (65536 / all_threads / 8 * 8),
                  "else it waits for them for ever");
    // A tile is on its way for longer than the one before it takes.
    static constexpr int stages = floats ? 2 : HeadDim == 64 ? (natural ? 3 : 4) : (dense ? 2 : 3);
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
    static constexpr int tasks_at = barriers_at + (8 * (4 * stages + 6) + 63) / 64 * 64;
    static constexpr int labels_at = tasks_at + 256;
    static constexpr int shared_bytes = labels_at + 4 * stages + 1024;  // tiles start at 1024 bytes
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
    static constexpr int count = 4 * stages + 6;
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
    /// A task has been written: before its rows have come.
    __device__ std::uint32_t task_full(int slot) const {
        return base + 8 * (4 * stages + 4 + slot);
    }

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
            barrier_set(query_empty(slot), 32 * (warps + 1));  // one: it copies tiles
            barrier_set(task_full(slot), 1);
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

/// \brief Tiles of keys up to the last key that rows .. row may see.
template <class Shape>
__device__ inline int tiles_up_to(const Problem& p, Index row) {
    return static_cast<int>((p.visible(row < p.L ? row : p.L - 1) + Shape::Keys - 1) / Shape::Keys);
}

/// \brief What a stage holds, where a mask decides which tiles are visited: a word of its number, of a
///        bit for each group of warps that sees some of it, and of one for each from which the mask
///        hides some. 0: nothing, the block of rows ends.
struct TileLabel {
    std::uint32_t word;  ///< bits 0-3: mixed; 4-7: seen; 8-31: the number
    static __device__ TileLabel of(int tile, unsigned seen, unsigned mixed) {
        return {static_cast<unsigned>(tile) << 8 | seen << 4 | mixed};
    }
    __device__ int tile() const { return static_cast<int>(word >> 8); }
    __device__ bool seen(int group) const { return (word >> (4 + group) & 1) != 0; }
    __device__ bool seen_by_some() const { return (word & 0xf0) != 0; }
    __device__ bool mixed(int group) const { return (word >> group & 1) != 0; }
};
/// \brief The label of tile j for a block's rows.
/// \param classes  of the block's first rows
template <class Shape>
__device__ inline TileLabel label_of(const Int8Problem& p, const std::uint8_t* classes,
                                     Index first_row, int j) {
    constexpr int columns = Shape::Keys / class_tile, groups = Shape::rows / 64;
    static_assert(groups <= 4, "bits of a label");
    static_assert(class_tile == 64, "a group's rows are one row of classes");
    unsigned seen = 0, mixed = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g) {
        const Index row = first_row + g * 64;
        unsigned bits = 0;
#pragma unroll
        for (int c = 0; c < columns; ++c) {
            const Index column = static_cast<Index>(j) * columns + c;
            if (row < p.problem.L && column < p.keys.blocks)
                bits |= classes[g * p.class_stride.row + column];
        }
        if ((bits & some_visible) != 0 && j < tiles_up_to<Shape>(p.problem, row + 63))
            seen |= 1u << g;
        if ((bits & some_hidden) != 0) mixed |= 1u << g;
    }
    return TileLabel::of(j, seen, mixed);
}

/// \brief A block of rows. The warp that copies rows finds it and leaves it in shared memory: the others
///        have no registers for it, nor time for divisions.
struct Int8Task {
    Index block;  ///< -1: there is none
    Index b, h, first_row;
    Index row;      ///< the first one among all query rows
    Index keys;     ///< the head of keys, among (B, heads of keys)
    float longest;  ///< the largest square of a norm among the keys, if the pre-pass tells norms
    int tiles;      ///< of keys that some row may see
    int group_tiles[4];  ///< that some row of each group may see
    int group_whole[4];  ///< before them each row of the group may see all keys
};

/// \brief The largest square of a norm among a head's keys. The work of a whole warp.
__device__ inline float largest_key_square(const Int8Problem& p, Index head) {
    const float* of_block = p.keys.square + head * p.keys.blocks;
    float most = 0;
    for (Index n = threadIdx.x % 32; n < p.keys.blocks; n += 32) most = fmaxf(most, of_block[n]);
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
}

/// \brief Finds a block of rows, starts the copy of its queries, and marks it for the second pass if it
///        meets numbers without integers. The work of one warp.
/// \param slot  of the query tile, which is free
template <class Shape>
__device__ inline void copy_int8_rows(const Int8Problem& p, Index block, int slot,
                                      volatile Int8Task& task, std::uint32_t memory,
                                      const Int8Barriers<Shape::stages>& barriers) {
    constexpr int HD = Shape::HeadDim;
    const Problem& problem = p.problem;
    const Place<Shape> place(p, block - blockIdx.x);
    const Index row = (place.b * problem.Hq + place.h) * p.queries.rows + place.first_row;
    const Index keys = p.keys.place(problem, place.b, place.h);
    const Index rows_left = p.queries.rows - place.first_row;
    const int rows = rows_left < Shape::rows ? static_cast<int>(rows_left) : Shape::rows;
    // Numbers without integers: of keys that some row sees, of these rows (eight a lane).
    const int own_row = static_cast<int>(threadIdx.x % 32) * 8;
    const std::uint8_t floating = p.keys.floating[keys];
    const uint2 without = own_row < rows
                              ? *reinterpret_cast<const uint2*>(p.queries.without + row + own_row)
                              : uint2{0, 0};
    const bool norms = p.queries.square != nullptr;
    const float longest = norms ? largest_key_square(p, keys) : 0;
    const bool first = fresh_lane() == 0;
    if (first) {
        task.block = block, task.b = place.b, task.h = place.h, task.first_row = place.first_row;
        task.row = row, task.keys = keys, task.longest = longest;
        task.tiles = tiles_up_to<Shape>(problem, place.first_row + Shape::rows - 1);
#pragma unroll
        for (int g = 0; g < Shape::rows / 64; ++g) {
            const Index group_row = place.first_row + g * 64;
            task.group_tiles[g] =
                group_row < problem.L ? tiles_up_to<Shape>(problem, group_row + 63) : 0;
            task.group_whole[g] = static_cast<int>(problem.visible(group_row) / Shape::Keys);
        }
        barrier_arrive(barriers.task_full(slot));
        barrier_expect(barriers.query_full(slot), rows * (norms ? HD + 4 : HD));
        copy_bytes(memory + slot * Shape::int8_query_bytes, p.queries.query + row * HD, rows * HD,
                   barriers.query_full(slot));
        if (norms)
            copy_bytes(memory + Shape::square_at + slot * Shape::square_bytes,
                       p.queries.square + row, rows * 4, barriers.query_full(slot));
    }
    if (__any_sync(~0u, (floating | without.x | without.y) != 0) && first) p.again[block] = true;
}

/// \brief Copies keys and values for a block of rows, tile by tile, as room comes free. The work of one
///        warp, most of it of its first thread.
///        (A wait for parity ^ 1 does not wait at a stage that was never used.) With a mask of
///        bits, tiles that nobody sees are left out, and behind the last one comes an empty one.
/// \param labels  (stages) words of a TileLabel, used with a mask of bits
template <class Shape>
__device__ inline void copy_int8_tiles(const Int8Problem& p, const Int8Maps& maps,
                                       const volatile Int8Task& task,
                                       volatile std::uint32_t* labels, std::uint32_t memory,
                                       const Int8Barriers<Shape::stages>& barriers,
                                       Turn<Shape::stages>& turn) {
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    const Problem& problem = p.problem;
    const int tiles = task.tiles, first_row = static_cast<int>(task.first_row);
    const bool first = fresh_lane() == 0;  // of the warp's threads the one that copies
    const int all_keys = static_cast<int>(p.keys.blocks) * 64;
    const std::int8_t* const key = p.keys.key + task.keys * all_keys * HD;
    const float* const scale = p.keys.scale + task.keys * all_keys;
    const int value_head =
        p.value_stride.head == 0 ? 0 : static_cast<int>(problem.key_head(task.h));
    const int value_batch = p.value_stride.batch == 0 ? 0 : static_cast<int>(task.b);
    const int mask_head = p.mask_stride.head == 0 ? 0 : static_cast<int>(task.h);
    const int mask_batch = p.mask_stride.batch == 0 ? 0 : static_cast<int>(task.b);
    // The work of one thread.
    const auto copy_tile = [&](int j) {
        const int stage = turn.stage, at = j * KT;
        const int keys = min(all_keys - at, KT);
        barrier_expect(barriers.key_full(stage), keys * (HD + 4) + Shape::mask_bytes);
        copy_bytes(memory + Shape::key_at + stage * Shape::int8_tile_bytes,
                   key + static_cast<Index>(at) * HD, keys * HD, barriers.key_full(stage));
        copy_bytes(memory + Shape::scale_at + stage * Shape::scale_bytes, scale + at, keys * 4,
                   barriers.key_full(stage));
#pragma unroll
        for (int plane = 0; plane < Shape::mask_planes; ++plane)
            copy_box(memory + Shape::mask_at + stage * Shape::mask_bytes +
                         plane * Shape::mask_plane_bytes,
                     &maps.mask,
                     Shape::listed ? at / 128 * 16 : at + plane * Shape::mask_plane_keys, first_row,
                     mask_head, mask_batch, barriers.key_full(stage));
        barrier_wait(barriers.value_empty(stage), turn.parity ^ 1);
        barrier_expect(barriers.value_full(stage), Shape::tile_bytes);
#pragma unroll
        for (int plane = 0; plane < Shape::planes; ++plane)
            copy_box(
                memory + Shape::value_at + stage * Shape::tile_bytes + plane * Shape::plane_bytes,
                &maps.values, plane * 64, at, value_head, value_batch, barriers.value_full(stage));
    };
    const auto wait_for_room = [&] {
        barrier_wait(barriers.key_empty(turn.stage), turn.parity ^ 1);
    };
    if constexpr (!Shape::listed) {
        if (first)
#pragma unroll 1
            for (int j = 0; j < tiles; ++j, turn.next()) {
                wait_for_room();
                copy_tile(j);
            }
    } else {
        const std::uint8_t* classes =
            p.tile_class + p.class_stride(task.b, task.h, first_row / class_tile);
        // Each lane looks at a tile: one after the other, the reads would take longer than the work.
        for (int base = 0; base < tiles; base += 32) {
            const int own = base + static_cast<int>(threadIdx.x % 32);
            TileLabel label{};
            if (own < tiles) label = label_of<Shape>(p, classes, first_row, own);
            unsigned visited = __ballot_sync(~0u, label.seen_by_some());
            for (; visited != 0; visited &= visited - 1, turn.next()) {
                const TileLabel of_tile{
                    __shfl_sync(~0u, label.word, __ffs(static_cast<int>(visited)) - 1)};
                if (!first) continue;
                wait_for_room();
                labels[turn.stage] = of_tile.word;
                copy_tile(of_tile.tile());
            }
        }
        if (first) {
            wait_for_room();
            labels[turn.stage] = 0;
            barrier_arrive(barriers.key_full(turn.stage));
            barrier_wait(barriers.value_empty(turn.stage), turn.parity ^ 1);
            barrier_arrive(barriers.value_full(turn.stage));
        }
        turn.next();
    }
}

/// \brief The block's shared memory from a multiple of 1024 bytes on.
__device__ inline unsigned char* whole_kilobytes(unsigned char* raw) {
    return raw + (1024 - shared_address(raw) % 1024) % 1024;
}

#endif  // sm_90a

}  // namespace attn::gpu
