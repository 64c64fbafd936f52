/// \file
/// \brief `cuda_int8` for small inputs: one kernel that quantizes as it loads.
///
/// At (4, 8, 128, 128) all the arithmetic takes less than a microsecond, and what counts is how
/// many kernels are launched one after the other. So each block of 64 queries does the pre-pass for
/// itself: it sums the keys of its head, takes their mean away, rotates and rounds them into shared
/// memory, where all S of them stay. Ceil(L / 64) blocks repeat the same work on K, which is why
/// longer inputs have the pre-pass. Then four of the eight warps compute, as those of the main
/// kernel do, while the others fill the next tiles of values and of the mask.
///
///     shared memory   query tile   (64, HeadDim)       bytes
///                     value tiles  (2, 64, HeadDim)    16 bits
///                     scales       (64), (64), mean (HeadDim)
///                     keys         (S, HeadDim)        bytes
///                     steps        (S)
///                     sums         (S / 64, HeadDim)   and which keys have integers
///                     staging      (128, HeadDim)      keys as they are; later mask tiles (2, 64, 72)
///                     queries      (64, HeadDim)       as they are
///
/// The integers are those of the pre-pass, bit for bit: the functions are the same.
#include "cuda_int8_fill.cuh"
#include "cuda_int8_kernel.cuh"
#include "cuda_int8_seen.cuh"
#include "cuda_mma_plan.hpp"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr Index most_keys = 512;
static_assert(most_keys <= smoothing_block * smoothing_samples, "all keys count for the mean");
constexpr int most_shared_bytes = 163 * 1024;  // of an A100
constexpr int staged_keys = 128;               // at once; behind them the block's queries

/// \brief The shape of the products by inputs of From.
template <class From, int HeadDim>
using FusedBase = MmaShape<std::conditional_t<std::is_same_v<From, float>, bfloat16, From>, HeadDim,
                           4, 1, 64, false>;
/// \brief The same with all keys behind everything else. \tparam masked  there is a mask
template <class From_, int HeadDim, bool masked_>
struct FusedShape : FusedBase<From_, HeadDim> {
    using From = From_;
    using Base = FusedBase<From, HeadDim>;
    static constexpr bool masked = masked_;
    static constexpr int computing = Base::threads, filling = 128;
    static constexpr int all_threads = computing + filling;
    static constexpr int row_elements_bytes = HeadDim * static_cast<int>(sizeof(From));
    static constexpr int int8_row_bytes = HeadDim;
    static constexpr int int8_tile_bytes = Base::Keys * HeadDim;
    static constexpr int value_at = Base::rows * HeadDim;
    static constexpr int factor_at = value_at + 2 * Base::tile_bytes;
    static constexpr int shift_at = factor_at + Base::rows * 4;
    static constexpr int without_at = shift_at + Base::rows * 4;
    static constexpr int mean_at = without_at + Base::rows;
    static constexpr int key_at = (mean_at + HeadDim * 4 + 1023) / 1024 * 1024;
    static_assert(value_at + 2 * Base::tile_bytes >= Base::query_bytes, "the out tile fits");
    // Eight rows of a mask tile that lanes read at once lie in different banks.
    static constexpr int mask_row = Base::Keys + 8;  // floats
    static constexpr int mask_bytes = Base::rows * mask_row * 4;
    static constexpr int staging_bytes = [] {
        const int keys = staged_keys * row_elements_bytes, masks = masked ? 2 * mask_bytes : 0;
        return keys > masks ? keys : masks;
    }();

    static constexpr ATTN_HD int scale_at(int blocks) { return key_at + blocks * int8_tile_bytes; }
    static constexpr ATTN_HD int sums_at(int blocks) { return scale_at(blocks) + blocks * 256; }
    static constexpr ATTN_HD int found_at(int blocks) {
        return sums_at(blocks) + blocks * HeadDim * 4;
    }
    static constexpr ATTN_HD int staging_at(int blocks) {
        return (found_at(blocks) + blocks * static_cast<int>(sizeof(KeyBlock)) + 1023) / 1024 *
               1024;
    }
    static constexpr ATTN_HD int query_staging_at(int blocks) {
        return staging_at(blocks) + staging_bytes;
    }
    static constexpr int shared_bytes(int blocks) {
        return query_staging_at(blocks) + Base::rows * row_elements_bytes;
    }
};

// ---- what all warps do first --------------------------------------------------------------------

/// \brief `measure_keys`, not inlined: keys with numbers that have no integers are rare.
template <class From, int HeadDim>
__device__ __noinline__ KeyBlock measure_keys_apart(const Problem& p, Index b, Index hk,
                                                    Index block, std::uint64_t seen, float* sums) {
    return measure_keys<From, HeadDim>(p, b, hk, block, seen, true, sums);
}

/// \brief The pre-pass for one head. The first `staged_keys` keys are on their way to `staging`.
template <class Shape>
__device__ void prepare_keys(const Int8Problem& p, Index b, Index h, Index hk,
                             unsigned char* shared, unsigned char* staging, float* mean,
                             float* scale, float* sums, KeyBlock* found) {
    using From = typename Shape::From;
    using Staged = StagedRows<From, Shape::HeadDim>;
    constexpr int HD = Shape::HeadDim, threads = Shape::all_threads;
    const Problem& problem = p.problem;
    const int thread = static_cast<int>(threadIdx.x), blocks = static_cast<int>(p.keys.blocks);
    const auto stage = [&](int first) {
        if (first > 0 || blocks * 64 > staged_keys) {
            __syncthreads();  // the last keys have been read
            const From* const key = static_cast<const From*>(problem.key.data) +
                                    b * problem.key.stride[0] + hk * problem.key.stride[1];
            Staged::template copy<staged_keys, threads>(
                shared_address(staging), key + first * problem.key.stride[2], problem.key.stride[2],
                problem.S - first, thread);
            copy_async_commit();
        }
        copy_async_wait<0>();
        __syncthreads();
    };
    for (int first = 0; first < blocks * 64; first += staged_keys) {
        stage(first);
        bool good = true;
        const int side = thread / HD, block = first / 64 + side;  // a thread a channel
        if (side < staged_keys / 64 && block < blocks) {
            const std::uint64_t seen = seen_keys<Shape::masked>(problem, b, h, block);
            good = sum_whole_keys<From, HD>(staging + side * 64 * Staged::row_bytes, thread % HD,
                                            seen, sums + block * HD);
            if (thread % HD == 0) found[block] = {seen, 0};
        }
        if (!__syncthreads_or(!good)) continue;
        for (int n = first / 64 + thread / 32; n < blocks && n < (first + staged_keys) / 64;
             n += threads / 32) {
            const KeyBlock bits =
                measure_keys_apart<From, HD>(problem, b, hk, n, found[n].integer, sums + n * HD);
            if (thread % 32 == 0) found[n] = bits;
        }
        __syncthreads();
    }
    for (int e = thread; e < HD; e += threads)
        mean[e] = flipped(mean_of(sums + e, HD, found, blocks), e);
    __syncthreads();
    const RowHalf at(thread);
    constexpr int at_once = threads / 2;  // keys
    static_assert(at_once == staged_keys);
#pragma unroll 1
    for (int first = 0; first < blocks * 64; first += at_once) {
        if (blocks * 64 > staged_keys) stage(first);
        const int j = first + at.row;
        if (j >= blocks * 64) continue;
        float x[HD / 2];
        Staged::read(x, staging, at.row, at.half);
        const float side = at.half == 0 ? 1.0f : -1.0f;
        smooth_key<HD>(x, mean, at.half, side);
        clear_rows(x, (found[j / 64].integer >> (j % 64) & 1) == 0);
        const float step = round_row<HD, Operand::key, false>(x, side, 1.0f, [&](int piece) {
                               return reinterpret_cast<uint4*>(
                                   shared + Shape::key_at + j / 64 * Shape::int8_tile_bytes +
                                   swizzled<HD>(j % 64, at.half * (HD / 32) + piece));
                           }).step;
        if (at.half == 0) scale[j] = step;
    }
    __syncthreads();
}

/// \brief The block's queries, which lie in `staging`, become integers in the query tile. The work of
///        the computing warps, two threads a row.
/// \param mean  (HeadDim) of K, its signs flipped
template <class Shape>
__device__ __forceinline__ void round_queries(const Int8Problem& p, const float* mean,
                                              unsigned char* shared, const unsigned char* staging) {
    constexpr int HD = Shape::HeadDim;
    static_assert(2 * Shape::rows == Shape::computing);
    const RowHalf at(static_cast<int>(threadIdx.x));
    const QueryScales scales{reinterpret_cast<float*>(shared + Shape::factor_at),
                             reinterpret_cast<float*>(shared + Shape::shift_at),
                             shared + Shape::without_at, nullptr};
    const ScaleOf scale(p.problem);
    const float unit =
        Shape::masked ? scale.size : scale.size * WarpRows<typename Shape::Base>::log2_e;
    if (p.problem.logsumexp.absent()) mean = nullptr;  // no shift is asked for
    float x[HD / 2];
    const float largest = StagedRows<typename Shape::From, HD>::read(x, staging, at.row, at.half);
    const auto to = [&](int piece) {
        return reinterpret_cast<uint4*>(shared + swizzled<HD>(at.row, at.half * (HD / 32) + piece));
    };
    round_query<HD, false>(x, at, at.half == 0 ? 1.0f : -1.0f, has_integers(largest), mean, unit,
                           scale.sign, to, scales);
}

/// \brief Has a row of this thread's number no integers?
template <class Shape>
__device__ inline bool without_integers(const unsigned char* shared) {
    return threadIdx.x < Shape::rows && shared[Shape::without_at + threadIdx.x] != 0;
}

/// \brief Adds a tile of the mask to a warp's scores, which it scales first.
/// \param mask  (rows, mask_row), from the lane's first element on
template <class Shape>
__device__ inline void add_mask(float (&score)[1][Shape::Keys / 8][4], const float* mask,
                                const float (&factor)[1][2]) {
#pragma unroll
    for (int n = 0; n < Shape::Keys / 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float2 two =
                *reinterpret_cast<const float2*>(mask + half * 8 * Shape::mask_row + 8 * n);
            float* const pair = &score[0][n][2 * half];
            // A hidden score may be NaN.
            pair[0] = two.x == -CUDART_INF_F ? two.x : fmaf(pair[0], factor[0][half], two.x);
            pair[1] = two.y == -CUDART_INF_F ? two.y : fmaf(pair[1], factor[0][half], two.y);
        }
}

/// Two blocks a multiprocessor where their registers allow it.
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, Shape::HeadDim == 64 ? 2 : 1)
    int8_fused_kernel(const __grid_constant__ Int8Problem p, Index first_block) {
    using From = typename Shape::From;
    using Staged = StagedRows<From, Shape::HeadDim>;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    constexpr bool masked = Shape::masked;
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t base = shared_address(shared);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const bool fills = thread >= Shape::computing;
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h), first_row = place.first_row;
    const Index rows_left = problem.L - first_row;
    const int blocks = static_cast<int>(p.keys.blocks);
    float* const mean = reinterpret_cast<float*>(shared + Shape::mean_at);
    float* const scale = reinterpret_cast<float*>(shared + Shape::scale_at(blocks));
    float* const sums = reinterpret_cast<float*>(shared + Shape::sums_at(blocks));
    auto* const found = reinterpret_cast<KeyBlock*>(shared + Shape::found_at(blocks));
    unsigned char* const staging = shared + Shape::staging_at(blocks);
    unsigned char* const query_staging = shared + Shape::query_staging_at(blocks);
    float* const masks =
        reinterpret_cast<float*>(staging);  // two tiles, when the keys are integers

    const int tiles = static_cast<int>(
        (problem.visible(first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1) + KT -
         1) /
        KT);
    const auto rows_of = [&](const TensorView& view, Index head, Index first) {
        return static_cast<const From*>(view.data) + b * view.stride[0] + head * view.stride[1] +
               first * view.stride[2];
    };
    const auto copy_values = [&](int j) {
        const Index at = static_cast<Index>(j) * KT;
        fill_values<Shape>(shared + Shape::value_at + j % 2 * Shape::tile_bytes,
                           rows_of(problem.value, hk, at), problem.value.stride[2],
                           problem.value.stride[3], problem.S - at, static_cast<int>(problem.Ev),
                           p.wide_value);
    };
    const auto copy_mask = [&](int j) {
        if constexpr (masked)
            fill_mask<Shape>(masks + j % 2 * (Shape::mask_bytes / 4), problem, b, h, first_row,
                             static_cast<Index>(j) * KT);
    };
    //! [fused]
    // All that is read for the first time is on its way at once.
    if (blocks * 64 <= staged_keys)
        Staged::template copy<staged_keys, Shape::all_threads>(
            shared_address(staging), rows_of(problem.key, hk, 0), problem.key.stride[2], problem.S,
            thread);
    Staged::template copy<Shape::rows, Shape::all_threads>(
        shared_address(query_staging), rows_of(problem.query, h, first_row),
        problem.query.stride[2], rows_left, thread);
    if (fills && tiles > 0) copy_values(0);
    copy_async_commit();

    prepare_keys<Shape>(p, b, h, hk, shared, staging, mean, scale, sums, found);
    //! [fused]
    bool floating = false;
    for (int block = 0; block < blocks; ++block) floating |= found[block].floating != 0;

    const Index warp_row = first_row + warp * Shape::warp_rows;
    const int first_partial = static_cast<int>(problem.visible(warp_row) / KT);
    const std::uint32_t query = query_lane<HD>(base, warp * Shape::warp_rows, lane);
    const std::uint32_t key_tile = key_lane<HD>(base + Shape::key_at, lane);
    const std::uint32_t value_lane =
        base + Shape::value_at + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    const float* const mask_lane =
        masks + (warp * Shape::warp_rows + c_row(lane, 0)) * Shape::mask_row + c_column(lane, 0);

    // ---- attention; a second time, with values that are not finite read as 0, if it must be
    for (bool second = false;; second = true) {
        if (!fills) {
            round_queries<Shape>(p, mean, shared, query_staging);
        } else if (tiles > 0) {
            if (second) copy_values(0);
            copy_mask(0);
        }
        copy_async_wait<0>();
        __syncthreads();
        bool again = floating;
        float factor[1][2];
        read_factors(factor, lane_factors<Shape>(shared, fills ? 0 : warp, lane));
        Rows rows;
        rows.clear();
        for (int j = 0; j < tiles; ++j) {
            if (second) {
                make_finite<typename Shape::Element>(
                    shared + Shape::value_at + j % 2 * Shape::tile_bytes, Shape::tile_bytes, thread,
                    Shape::all_threads);
                __syncthreads();
            }
            if (fills) {
                if (j + 1 < tiles) {  // their places were last read before the barrier
                    copy_values(j + 1);
                    copy_mask(j + 1);
                }
                copy_async_wait<0>();
            } else {
                int product[1][KT / 8][4];
                typename Rows::Scores score;
                typename Rows::Weights weights;
                multiply_integers<Shape>(product, query, key_tile + j * Shape::int8_tile_bytes);
                take_steps<Shape>(product, score, scale + j * KT + c_column(lane, 0));
                if constexpr (masked) {
                    add_mask<Shape>(score, mask_lane + j % 2 * (Shape::mask_bytes / 4), factor);
                    rows.grow(score, float{Rows::log2_e});
                    rows.weigh(score, float{Rows::log2_e}, weights);
                } else {
                    if (j >= first_partial)
                        hide_beyond<Shape>(score, problem, warp_row + c_row(lane, 0),
                                           static_cast<Index>(j) * KT + c_column(lane, 0));
                    rows.grow(score, factor);
                    rows.weigh(score, factor, weights);
                }
                rows.add_values(weights, value_lane + j % 2 * Shape::tile_bytes);
            }
            __syncthreads();  // tile j + 1 has arrived, tile j's place is free
        }
        if (!fills) {
            rows.finish_sums();
            // The out tile takes the place of queries and values.
            const float* shift = reinterpret_cast<const float*>(shared + Shape::shift_at);
            const auto finish = [&](const auto& unit) {
                return write_int8_rows<Shape>(p, rows, unit, shared, shift, b, h, first_row);
            };
            bool finite;
            if constexpr (masked)
                finite = finish(float{Rows::log2_e});
            else
                finite = finish(factor);
            again = again || without_integers<Shape>(shared) || (!finite && can_hide(problem));
        }
        if (second) {
            if (fills) return;
            break;
        }
        if (!__syncthreads_or(again)) return;
    }
    __syncwarp();  // the rows' first results are written before their second ones
    for (int row = 0; row < Shape::warp_rows; ++row) {
        const Index i = warp_row + row;
        if (i >= problem.L) break;
        const bool always = shared[Shape::without_at + warp * Shape::warp_rows + row] != 0 ||
                            (floating && meets_floating(problem, b, h, i, found, blocks));
        careful_row_apart<From>(problem, b, h, i, always);
    }
}

/// \brief Calls f(FusedShape) with the shape for a problem.
template <class F>
auto visit_shape(const Problem& p, F&& f) {
    const auto of_dim = [&]<class From, int HeadDim>() {
        if (p.mask_kind == MaskKind::none) return f(FusedShape<From, HeadDim, false>{});
        return f(FusedShape<From, HeadDim, true>{});
    };
    const auto of_type = [&]<class From>(From) {
        if (int8_head_dim(p) == 64) return of_dim.template operator()<From, 64>();
        return of_dim.template operator()<From, 128>();
    };
    if (p.dtype == DType::float16) return of_type(float16{});
    if (p.dtype == DType::bfloat16) return of_type(bfloat16{});
    return of_type(float{});
}

}  // namespace

bool fits_int8_fused(const Problem& p) {
    const int head_dim = int8_head_dim(p);
    if (p.S == 0 || p.S > most_keys || head_dim > 128 || p.E != head_dim || !wide(p.query) ||
        !wide(p.key))
        return false;
    const int blocks = static_cast<int>((p.S + 63) / 64);
    return visit_shape(
        p, [&]<class Shape>(Shape) { return Shape::shared_bytes(blocks) <= most_shared_bytes; });
}

void launch_int8_fused(const Int8Problem& given, cudaStream_t stream) {
    Int8Problem p = given;
    visit_shape(p.problem, [&]<class Shape>(Shape) {
        p.query_tiles = static_cast<int>((p.problem.L + Shape::rows - 1) / Shape::rows);
        launch<int8_fused_kernel<Shape>, most_shared_bytes>(
            p.query_tiles * p.problem.B * p.problem.Hq, Shape::all_threads,
            Shape::shared_bytes(static_cast<int>(p.keys.blocks)), stream, p);
    });
}

}  // namespace attn::gpu
