/// \file
/// \brief The main kernel of tier `cuda_mma`: one block per tile of query rows, all keys.
///
///     shared memory   query tile   (rows, HeadDim)       read as A fragments; later the out tile
///                     key tiles    (2, Keys, HeadDim)    two stages: while one is used,
///                     value tiles  (2, Keys, HeadDim)    cp.async fills the other
///                     mask tile    (rows, Keys)          when there is a mask; of float32 two, if
///                                                        they fit
///     registers       scores       (rows, Keys)          C fragments, then weights as A fragments
///                     out          (rows, HeadDim)       C fragments
///
/// Per tile of keys: one barrier, which both announces the tiles that have arrived and says that
/// the stage to be filled next is no longer read. Tiles beyond the causal limit, and tiles in which
/// a boolean mask hides everything, are neither loaded nor computed; only tiles on the diagonal, at
/// the end of the keys, or of mixed class pay for masking.
///
/// Two blocks of four warps share a multiprocessor: while one block is in its softmax the other
/// keeps the tensor cores busy. What else was tried is in \ref steps_cuda.
#pragma once

#include "cuda_mma_careful.cuh"
#include "cuda_mma_mask.cuh"
#include "cuda_mma_tile.cuh"

namespace attn::gpu {

/// \brief Turns scores into units of log 2: under an additive mask they are scaled already.
template <Masking masking>
__device__ inline float unit_of(const MmaProblem& p) {
    if constexpr (masking == Masking::additive) return 1.44269504f;
    return p.unit;
}

/// \brief Nothing, made of anything.
struct Empty {
    template <class... Any>
    __device__ explicit Empty(const Any&...) {}
};

template <class Shape, Masking masking, class MaskElement>
__global__ void __launch_bounds__(Shape::threads, 2)
    mma_kernel(const __grid_constant__ MmaProblem p, Index first_block) {
    using T = typename Shape::Element;
    using Rows = WarpRows<Shape>;
    using Mask = MaskTile<Shape, masking, MaskElement>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    start_next_kernel();
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t query_tile = shared_address(shared);
    const std::uint32_t key_tiles = query_tile + Shape::query_bytes;
    const std::uint32_t value_tiles = key_tiles + 2 * Shape::tile_bytes;
    const std::uint32_t mask_tile = value_tiles + 2 * Shape::tile_bytes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    // ---- which rows
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h), first_row = place.first_row;
    if (p.leaves(b, h)) {
        if (p.again != nullptr && threadIdx.x == 0) p.again[first_block + blockIdx.x] = false;
        return;
    }
    const Index rows_left = problem.L - first_row;
    const Index warp_row = first_row + warp * Shape::warp_rows;
    const std::uint16_t* query = p.query + p.query_stride(b, h, first_row);
    // ---- which keys: tiles [0, tiles) for the block, [0, warp_tiles) for this warp; tiles before
    //      `first_partial` are seen whole by each of the warp's rows.
    const auto tiles_of = [&](Index row) {
        return static_cast<int>((problem.visible(row) + KT - 1) / KT);
    };
    const int tiles = tiles_of(first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1);
    const int warp_tiles =
        warp_row < problem.L ? min(tiles, tiles_of(warp_row + Shape::warp_rows - 1)) : 0;
    const int first_partial = static_cast<int>(problem.visible(warp_row) / KT);

    const int mask_stages = Mask::staged ? p.mask_stages : 1;
    volatile MaskPlace& mask_place = *reinterpret_cast<MaskPlace*>(
        shared + Shape::query_bytes + 4 * Shape::tile_bytes + mask_stages * Mask::bytes);
    if (masking != Masking::none) {
        if (threadIdx.x == 0) Mask::find(mask_place, p, b, h, first_row);
        __syncthreads();
    }

    const auto next_tile = [&](int j, int& found) {
        return Mask::next_tile(mask_place, p, j, tiles, found);
    };
    const KeyCopy<Shape> copy(p, b, hk, key_tiles);
    const auto copy_keys = [&](int j, int stage) { copy.start(p, j, stage); };
    constexpr bool keep = Shape::spare_registers;
    std::conditional_t<keep, typename Mask::Lane, Empty> mask_lane(mask_tile, p, b, h, first_row);
    const auto mask_stage = [&](int j) {  // bytes behind the first mask tile
        return Mask::staged ? (j & (mask_stages - 1)) * Mask::bytes : 0;
    };
    const auto copy_mask = [&](int j) {
        if constexpr (keep)
            if (mask_lane.copy(p, j, mask_stage(j))) return;
        Mask::copy(mask_tile + mask_stage(j), mask_place, j, warp, problem.S);
    };
    const auto apply_mask = [&](auto& score, int j) {
        if constexpr (keep)
            Mask::apply(score, mask_lane.own + mask_stage(j), j, p.scale);
        else
            Mask::apply(score, shared + (mask_tile - query_tile) + mask_stage(j), j,
                        fresh_thread() / 32, p.scale);
    };
    // Of two mask tiles the newer one may still be under way.
    const auto wait_for_tiles = [&] {
        if (Mask::staged && mask_stages > 1)
            copy_async_wait<1>();
        else
            copy_async_wait<0>();
    };

    // The first product reads its tiles through the same queue as copies go: it had better be first.
    // At 64 columns that was slower with other masks, at 128 it would spill.
    constexpr bool product_first = keep && (HD > 64 || masking == Masking::none || Mask::staged);

    int tile_class, j = next_tile(0, tile_class), toggle = 0;
    copy_tile<Shape::rows, HD, Shape::threads>(query_tile, query, p.query_stride.row, rows_left,
                                               p.query_columns, threadIdx.x);
    if (p.query_factor != 1) {  // scale <= 0: fold its sign into the queries
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        multiply_tile<T>(reinterpret_cast<std::uint16_t*>(shared), Shape::query_bytes / 2,
                         p.query_factor, Shape::threads);
    }
    if (j < tiles) {
        copy_keys(j, 0);
        copy_mask(j);
    }
    copy_async_commit();
    if (Mask::staged && mask_stages > 1) {
        if (j + 1 < tiles) copy_mask(j + 1);
        copy_async_commit();
    }
    wait_for_tiles();
    __syncthreads();

    std::uint32_t query_lane =
        query_tile + swizzled<Shape::row_bytes>(warp * Shape::warp_rows + lane % 16, lane / 16);
    std::uint32_t key_lane =
        key_tiles + swizzled<Shape::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    std::uint32_t value_lane = value_tiles + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    if constexpr (keep)
        query_lane = kept(query_lane), key_lane = kept(key_lane), value_lane = kept(value_lane);
    const QueryFragments<Shape> fragments(query_lane);
    Rows rows;
    rows.clear();

    while (j < tiles) {
        int next_class;
        int next = next_tile(j + 1, next_class);
        // Else ptxas knows from where the search ended whether `next` is a tile, and keeps that in
        // more instructions than it takes to compare again.
        if constexpr (masking == Masking::bits) next = static_cast<int>(kept(next));
        const int stage = masking == Masking::bits ? toggle : j & 1;
        const auto copy_next = [&] {
            if (next < tiles) copy_keys(next, stage ^ 1);  // last read before the previous barrier
            copy_async_commit();
        };
        if (!product_first || j >= warp_tiles) copy_next();
        if (j < warp_tiles) {
            typename Rows::Scores score;
            typename Rows::Weights weights;
            Rows::multiply(score, fragments, key_lane + stage * Shape::tile_bytes);
            if (product_first) copy_next();
            // Dense tiles are asked for a mask they always have: without a branch here, ptxas loads
            // the mask while the product still needs all registers.
            if (masking != Masking::none && (masking == Masking::bits || p.mask != nullptr) &&
                ((keep ? tile_class : Mask::class_of(mask_place, j)) & some_hidden))
                apply_mask(score, j);
            if (masking != Masking::none) {
                __syncwarp();  // the warp's lanes have read its mask rows: the next may come
                const int later = Mask::staged && mask_stages > 1 ? j + 2 : next;
                if (later < tiles) copy_mask(later);
            }
            if (j >= first_partial) {
                Index row = warp_row;
                if constexpr (!keep && masking == Masking::bits)  // for want of two registers
                    row =
                        static_cast<Index>(mask_place.tile) * Shape::rows + warp * Shape::warp_rows;
                hide_beyond<Shape>(score, problem, row + lane / 4,
                                   static_cast<Index>(j) * KT + 2 * (lane % 4));
            }
            rows.grow(score, unit_of<masking>(p));
            rows.weigh(score, unit_of<masking>(p), weights);
            rows.add_values(weights, value_lane + stage * Shape::tile_bytes);
        }
        if (masking != Masking::none) copy_async_commit();
        wait_for_tiles();
        __syncthreads();  // the next tiles have arrived, this stage is free
        j = next;
        tile_class = next_class;
        toggle ^= 1;
    }

    // ---- out = sum of weighted values / sum of weights, through the warp's part of the query
    // tile
    const Place<Shape> end(p, first_block);
    rows.finish_sums();
    const bool finite = write_rows<Shape>(
        p, rows, shared, end.b, end.h, end.first_row,
        [&](int m, int half, int) { return rows.logsumexp(m, half, unit_of<masking>(p)); });
    if (p.again != nullptr) {
        const bool again = __syncthreads_or(!finite);
        if (threadIdx.x == 0) p.again[first_block + blockIdx.x] = again;
    }
}

/// \brief The block's work once more, with values that are not finite read as 0: see
///        cuda_mma_careful.cuh. The same operations in the same order, so that other rows keep
///        their bits, but masks are read where they lie and nothing overlaps. A kernel of its
///        own, queued behind the first: a call in that one would cost it registers.
/// \param natural  the mask is additive: scores are scaled before it is added. No template
///        parameter, since the time of this kernel does not count but that of the compiler.
template <class Shape>
__device__ inline void replay(const MmaProblem& p, bool natural, Index first_block) {
    const Place<Shape> place(p, first_block);
    using T = typename Shape::Element;
    using Rows = WarpRows<Shape>;
    const float scale = natural ? p.scale : 1.0f, unit = natural ? Rows::log2_e : p.unit;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t query_tile = shared_address(shared);
    const std::uint32_t key_tile = query_tile + Shape::query_bytes;
    const std::uint32_t value_tile = key_tile + Shape::tile_bytes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Problem& problem = p.problem;
    const Index b = place.b, h = place.h, hk = problem.key_head(h);
    const Index rows_left = problem.L - place.first_row;
    const Index warp_row = place.first_row + warp * Shape::warp_rows;
    const Index last_row =
        place.first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1;

    copy_tile<Shape::rows, HD, Shape::threads>(
        query_tile, p.query + p.query_stride(b, h, place.first_row), p.query_stride.row, rows_left,
        p.query_columns, threadIdx.x);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    if (p.query_factor != 1) {
        multiply_tile<T>(reinterpret_cast<std::uint16_t*>(shared), Shape::query_bytes / 2,
                         p.query_factor, Shape::threads);
        __syncthreads();
    }
    const QueryFragments<Shape> fragments(
        query_tile + swizzled<Shape::row_bytes>(warp * Shape::warp_rows + lane % 16, lane / 16));
    const std::uint32_t key_lane =
        key_tile + swizzled<Shape::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const std::uint32_t value_lane = value_tile + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    Rows rows;
    rows.clear();
    for (Index at = 0; at < problem.visible(last_row); at += KT) {
        __syncthreads();  // the last tiles have been read
        copy_tile<KT, HD, Shape::threads>(key_tile, p.key + p.key_stride(b, hk, at),
                                          p.key_stride.row, problem.S - at, p.query_columns,
                                          threadIdx.x);
        copy_tile<KT, HD, Shape::threads>(value_tile, p.value + p.value_stride(b, hk, at),
                                          p.value_stride.row, problem.S - at, p.value_columns,
                                          threadIdx.x);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();  // these have arrived
        make_finite<T>(shared + (value_tile - query_tile), Shape::tile_bytes, threadIdx.x,
                       Shape::threads);
        __syncthreads();
        typename Rows::Scores score;
        typename Rows::Weights weights;
        Rows::multiply(score, fragments, key_lane);
        mask_scores_again<Shape>(score, problem, b, h, warp_row + lane / 4, at + 2 * (lane % 4),
                                 scale);
        rows.grow(score, unit);
        rows.weigh(score, unit, weights);
        rows.add_values(weights, value_lane);
    }
    rows.finish_sums();
    write_rows<Shape>(p, rows, shared, b, h, place.first_row,
                      [&](int m, int half, int) { return rows.logsumexp(m, half, unit); });
    for (int row = 0; row < Shape::warp_rows; ++row)
        if (warp_row + row < problem.L) careful_row_apart<T>(problem, b, h, warp_row + row, false);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::threads)
    replay_kernel(const __grid_constant__ MmaProblem p, bool natural, Index blocks, Index) {
    wait_for_last_kernel();
    for_marked(p.again, blocks,
               [&](Index block) { replay<Shape>(p, natural, block - blockIdx.x); });
}

}  // namespace attn::gpu
