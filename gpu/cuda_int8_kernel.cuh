/// \file
/// \brief The main kernel of tier `cuda_int8`: the loop of `cuda_mma` with integer scores.
///
///     shared memory   query tile   (rows, HeadDim)      bytes, from the pre-pass
///                     key tiles    (2, Keys, HeadDim)   bytes, from the pre-pass
///                     value tiles  (2, Keys, HeadDim)   16 bits, as the caller has them
///                     steps        (2, Keys), (rows)
///                     mask tile    (rows, Keys)         when there is a mask
///     registers       product      (rows, Keys)         int32, then scores, then weights
///                     out          (rows, HeadDim)      float32
///
/// Half the bytes for K, and a quarter fewer tensor-core operations: the products with V stay in 16
/// bits. A step for each token costs one load of two steps for the eight scores of a lane.
///
/// Rows that meet a number without an integer (NaN, infinity, beyond 2^40) or a hidden value that
/// is not finite are left to a second kernel, queued behind the first: a small one, which looks
/// through the marks.
#pragma once

#include "cuda_int8_tile.cuh"

namespace attn::gpu {

/// \brief Starts the copies of a block's query rows and their factors.
template <class Shape>
__device__ inline void copy_queries(const Int8Problem& p, Index b, Index h, Index first_row,
                                    std::uint32_t shared) {
    const Index at = (b * p.problem.Hq + h) * p.queries.rows + first_row;
    copy_integers<Shape::rows, Shape::int8_row_bytes, Shape::threads>(
        shared, p.queries.query + at * Shape::HeadDim, threadIdx.x);
    copy_floats<Shape::rows>(shared + Shape::factor_at, p.queries.factor + at, threadIdx.x);
}
/// \brief Where the factors of the lane's rows begin.
template <class Shape>
__device__ inline const float* lane_factors(const unsigned char* shared, int warp, int lane) {
    return reinterpret_cast<const float*>(shared + Shape::factor_at) + warp * Shape::warp_rows +
           c_row(lane, 0);
}

/// \brief Says whether the second pass has to look at this block. The work of all its threads.
/// \param finite  the thread's results
template <class Shape>
__device__ inline void mark_again(const Int8Problem& p, Index first_block, bool finite) {
    const Place<Shape> place(p, first_block);
    const Index head = place.b * p.problem.Hq + place.h;
    const bool without =
        threadIdx.x < Shape::rows && place.first_row + threadIdx.x < p.problem.L &&
        p.queries.without[head * p.queries.rows + place.first_row + threadIdx.x] != 0;
    const bool again = __syncthreads_or(without || (!finite && can_hide(p.problem)));
    if (threadIdx.x == 0)
        p.again[first_block + blockIdx.x] =
            again || p.keys.floating[p.keys.place(p.problem, place.b, place.h)];
}

/// \brief Of the block's rows, a warp's: those that meet numbers without integers, or see values
///        that are not finite, one by one.
template <class Shape>
__device__ inline void repair_rows(const Int8Problem& p, Index first_block) {
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, head = p.keys.place(problem, b, h);
    const Index warp_row = place.first_row + threadIdx.x / 32 * Shape::warp_rows;
    __syncwarp();  // the rows' first results are written before their second ones
    for (int row = 0; row < Shape::warp_rows; ++row) {
        const Index i = warp_row + row;
        if (i >= problem.L) break;
        const bool floating =
            p.queries.without[(b * problem.Hq + h) * p.queries.rows + i] != 0 ||
            meets_floating(problem, b, h, i, p.keys.block + head * p.keys.blocks, p.keys.blocks);
        if (problem.dtype == DType::float32)
            careful_row_apart<float>(problem, b, h, i, floating);
        else
            careful_row_apart<typename Shape::Element>(problem, b, h, i, floating);
    }
}

/// \brief sm_90a has the kernel of cuda_int8_wgmma.cuh for them, and none of these.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <class Shape>
constexpr bool left_to_wgmma = Shape::HeadDim <= 128;
#else
template <class Shape>
constexpr bool left_to_wgmma = false;
#endif

template <class Shape, Masking masking, class MaskElement>
__device__ __forceinline__ void attend_integers_by_mma(const Int8Problem& p, Index first_block) {
    using Rows = WarpRows<typename Shape::Base>;
    using Mask = MaskTile<Shape, masking, MaskElement>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    constexpr bool natural = masking == Masking::additive;
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t base = shared_address(shared);
    const std::uint32_t key_tiles = base + Shape::key_at, value_tiles = base + Shape::value_at,
                        scales = base + Shape::scale_at, mask_tile = base + Shape::mask_at;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    // ---- which rows, which keys: as in cuda_mma_kernel.cuh
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, first_row = place.first_row;
    const Index rows_left = problem.L - first_row;
    const Index warp_row = first_row + warp * Shape::warp_rows;
    const auto tiles_of = [&](Index row) {
        return static_cast<int>((problem.visible(row) + KT - 1) / KT);
    };
    volatile MaskPlace& mask_place =
        *reinterpret_cast<MaskPlace*>(shared + Shape::mask_at + Mask::bytes);
    volatile KeyPlace& keys = *reinterpret_cast<KeyPlace*>(shared + Shape::place_at);
    const Index head = p.keys.place(problem, b, h);
    if (threadIdx.x == 0) {
        keys.key = p.keys.key + head * p.keys.blocks * 64 * HD;
        keys.scale = p.keys.scale + head * p.keys.blocks * 64;
        keys.value = p.value + p.value_stride(b, problem.key_head(h), 0);
        keys.first_row = first_row;
        keys.tiles = tiles_of(first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1);
        if (masking != Masking::none) Mask::find(mask_place, p, b, h, first_row);
    }
    if (lane == 0) {
        keys.warp_tiles[warp] =
            warp_row < problem.L ? tiles_of(warp_row + Shape::warp_rows - 1) : 0;
        keys.first_partial[warp] = static_cast<int>(problem.visible(warp_row) / KT);
    }
    __syncthreads();
    const auto class_of = [&](int j) { return Mask::class_of(mask_place, j); };
    const auto next_tile = [&](int j) { return Mask::next_tile(mask_place, p, j, keys.tiles); };
    const auto copy_keys = [&](int j, int stage) {
        const Index at = static_cast<Index>(j) * KT;
        const unsigned thread = fresh_thread();
        copy_integers<KT, HD, Shape::threads>(key_tiles + stage * Shape::int8_tile_bytes,
                                              keys.key + at * HD, thread);
        copy_floats<KT>(scales + stage * KT * 4, keys.scale + at, thread);
        copy_tile<KT, HD, Shape::threads>(value_tiles + stage * Shape::tile_bytes,
                                          keys.value + at * p.value_stride.row, p.value_stride.row,
                                          problem.S - at, p.value_columns, thread);
    };
    const auto copy_mask = [&](int j) { Mask::copy(mask_tile, mask_place, j, warp, problem.S); };

    // See cuda_mma_kernel.cuh.
    constexpr bool product_first = HD == 256 && masking != Masking::none;

    int j = next_tile(0), toggle = 0;
    copy_queries<Shape>(p, b, h, first_row, base);
    if (j < keys.tiles) {
        copy_keys(j, 0);
        copy_mask(j);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    Rows rows;
    rows.clear();

    while (j < keys.tiles) {
        const int next = next_tile(j + 1);
        const int stage = masking == Masking::bits ? toggle : j & 1;
        const auto copy_next = [&] {
            if (next < keys.tiles) copy_keys(next, stage ^ 1);  // last read before that barrier
            copy_async_commit();
        };
        // Numbers and addresses of the lane anew: what is kept through the loop would be spilled.
        const unsigned thread = fresh_thread();
        const int own = static_cast<int>(thread / 32), fresh = static_cast<int>(thread % 32);
        const bool works = j < keys.warp_tiles[own];
        if (!product_first || !works) copy_next();
        if (works) {
            int product[Shape::MTiles][KT / 8][4];
            typename Rows::Scores score;
            typename Rows::Weights weights;
            multiply_integers<Shape>(
                product, query_lane<Shape::int8_row_bytes>(base, own * Shape::warp_rows, fresh),
                key_lane<Shape::int8_row_bytes>(key_tiles + stage * Shape::int8_tile_bytes, fresh));
            if (product_first) copy_next();
            take_steps<Shape>(product, score,
                              reinterpret_cast<const float*>(shared + Shape::scale_at) +
                                  stage * KT + c_column(fresh, 0));
            float factor[Shape::MTiles][2];
            read_factors(factor, lane_factors<Shape>(shared, own, fresh));
            // A branch also where every tile is masked: see cuda_mma_kernel.cuh.
            if (masking != Masking::none && (masking == Masking::bits || p.mask != nullptr) &&
                (class_of(j) & some_hidden))
                Mask::apply(score, shared + Shape::mask_at, j, own, factor);
            if (masking != Masking::none) {
                __syncwarp();  // the warp's lanes have read its mask rows: the next may come
                if (next < keys.tiles) copy_mask(next);
            }
            if (j >= keys.first_partial[own]) {
                hide_beyond<Shape>(score, problem,
                                   keys.first_row + own * Shape::warp_rows + c_row(fresh, 0),
                                   static_cast<Index>(j) * KT + c_column(fresh, 0));
            }
            if constexpr (natural) {
                rows.grow(score, float{Rows::log2_e});
                rows.weigh(score, float{Rows::log2_e}, weights);
            } else {
                rows.grow(score, factor);
                rows.weigh(score, factor, weights);
            }
            rows.add_values(weights, value_tiles + stage * Shape::tile_bytes +
                                         swizzled<Shape::row_bytes>(fresh % 16, fresh / 16));
        }
        if (masking != Masking::none) copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();  // the next tiles have arrived, this stage is free
        j = next;
        toggle ^= 1;
    }

    // ---- out = sum of weighted values / sum of weights, through the tiles that have been read
    const Place<Shape> end(p, first_block);
    rows.finish_sums();
    const float* shift =
        p.queries.shift + (end.b * problem.Hq + end.h) * p.queries.rows + end.first_row;
    float factor[Shape::MTiles][2];
    read_factors(factor, lane_factors<Shape>(shared, warp, lane));
    const auto finish = [&](const auto& unit) {
        return write_int8_rows<Shape>(p, rows, unit, shared, shift, end.b, end.h, end.first_row);
    };
    bool finite;
    if constexpr (natural)
        finite = finish(float{Rows::log2_e});
    else
        finite = finish(factor);
    mark_again<Shape>(p, first_block, finite);
}

template <class Shape, Masking masking, class MaskElement>
__global__ void __launch_bounds__(Shape::threads, 2)
    int8_kernel(const __grid_constant__ Int8Problem p, Index first_block) {
    if constexpr (!left_to_wgmma<Shape>)
        attend_integers_by_mma<Shape, masking, MaskElement>(p, first_block);
}

/// \brief A marked block's work once more, with values that are not finite read as 0: see
///        cuda_mma_careful.cuh. The same operations in the same order, so that other rows keep
///        their bits, but masks are read where they lie and nothing overlaps. Then the rows that
///        meet numbers without integers, one by one.
template <class Shape>
__device__ inline void int8_again(const Int8Problem& p, bool natural, Index first_block) {
    using T = typename Shape::Element;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t base = shared_address(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h), first_row = place.first_row;
    const Index rows_left = problem.L - first_row;
    const Index warp_row = first_row + warp * Shape::warp_rows;
    const Index head = p.keys.place(problem, b, h), first_key = head * p.keys.blocks * 64;
    const Index last_row = first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1;

    const Index of_all = (b * problem.Hq + h) * p.queries.rows + first_row;
    copy_queries<Shape>(p, b, h, first_row, base);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const std::uint32_t query =
        query_lane<Shape::int8_row_bytes>(base, warp * Shape::warp_rows, lane);
    const std::uint32_t key_tile = key_lane<Shape::int8_row_bytes>(base + Shape::key_at, lane);
    const std::uint32_t value_lane =
        base + Shape::value_at + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    // Natural: scores are scaled before the mask is added, then turned to units of log 2. Else
    // the factor does both, and what is added is 0 or -inf.
    float factor[Shape::MTiles][2], unit[Shape::MTiles][2];
    read_factors(factor, lane_factors<Shape>(shared, warp, lane));
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unit[m][half] = natural ? Rows::log2_e : factor[m][half];
            if (!natural) factor[m][half] = 1;
        }
    Rows rows;
    rows.clear();
    for (Index at = 0; at < problem.visible(last_row); at += KT) {
        __syncthreads();  // the last tiles have been read
        copy_integers<KT, HD, Shape::threads>(base + Shape::key_at,
                                              p.keys.key + (first_key + at) * HD, threadIdx.x);
        copy_floats<KT>(base + Shape::scale_at, p.keys.scale + first_key + at, threadIdx.x);
        copy_tile<KT, HD, Shape::threads>(base + Shape::value_at,
                                          p.value + p.value_stride(b, hk, at), p.value_stride.row,
                                          problem.S - at, p.value_columns, threadIdx.x);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();  // these have arrived
        make_finite<T>(shared + Shape::value_at, Shape::tile_bytes, threadIdx.x, Shape::threads);
        __syncthreads();
        int product[Shape::MTiles][KT / 8][4];
        typename Rows::Scores score;
        typename Rows::Weights weights;
        multiply_integers<Shape>(product, query, key_tile);
        take_steps<Shape>(
            product, score,
            reinterpret_cast<const float*>(shared + Shape::scale_at) + c_column(lane, 0));
        mask_scores_again<Shape>(score, problem, b, h, warp_row + lane / 4, at + c_column(lane, 0),
                                 factor);
        rows.grow(score, unit);
        rows.weigh(score, unit, weights);
        rows.add_values(weights, value_lane);
    }
    __syncthreads();  // all tiles have been read
    rows.finish_sums();
    write_int8_rows<Shape>(p, rows, unit, shared, p.queries.shift + of_all, b, h, first_row);
    repair_rows<Shape>(p, first_block);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::threads)
    int8_again_kernel(const __grid_constant__ Int8Problem p, bool natural, Index blocks, Index) {
    if constexpr (!left_to_wgmma<Shape>)
        for_marked(p.again, blocks,
                   [&](Index block) { int8_again<Shape>(p, natural, block - blockIdx.x); });
}

}  // namespace attn::gpu
