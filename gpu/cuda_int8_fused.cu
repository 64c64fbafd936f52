/// \file
/// \brief `cuda_int8` for small inputs: one kernel that quantizes as it loads.
///
/// At (4, 8, 128, 128) all the arithmetic takes less than a microsecond, and what counts is how
/// many kernels are launched one after the other. So each block of 64 queries does the pre-pass for
/// itself: it sums the keys of its head, takes their mean away, rotates and rounds them into shared
/// memory, where all S of them stay; then it goes on as the main kernel does. Ceil(L / 64) blocks
/// repeat the same work on K, which is why longer inputs have the pre-pass.
///
///     shared memory   query tile   (64, HeadDim)       bytes
///                     value tiles  (2, 64, HeadDim)    16 bits
///                     scales       (64), (64), mean (HeadDim)
///                     keys         (S, HeadDim)        bytes
///                     steps        (S)
///                     sums         (S / 64, HeadDim)   and which keys have integers
///
/// The integers are those of the pre-pass, bit for bit: the functions are the same.
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

/// \brief `Int8Shape` with all keys behind everything else.
template <class T, int HeadDim>
struct FusedShape : MmaShape<T, HeadDim, 4, 1, 64, false> {
    using Base = MmaShape<T, HeadDim, 4, 1, 64, false>;
    static constexpr int int8_row_bytes = HeadDim;
    static constexpr int int8_tile_bytes = Base::Keys * HeadDim;
    static constexpr int value_at = Base::rows * HeadDim;
    static constexpr int factor_at = value_at + 2 * Base::tile_bytes;
    static constexpr int shift_at = factor_at + Base::rows * 4;
    static constexpr int without_at = shift_at + Base::rows * 4;
    static constexpr int mean_at = without_at + Base::rows;
    static constexpr int key_at = (mean_at + HeadDim * 4 + 1023) / 1024 * 1024;
    static_assert(value_at + 2 * Base::tile_bytes >= Base::query_bytes, "the out tile fits");

    static constexpr ATTN_HD int scale_at(int blocks) { return key_at + blocks * int8_tile_bytes; }
    static constexpr ATTN_HD int sums_at(int blocks) { return scale_at(blocks) + blocks * 256; }
    static constexpr ATTN_HD int found_at(int blocks) {
        return sums_at(blocks) + blocks * HeadDim * 4;
    }
    static constexpr ATTN_HD int staging_at(int blocks) {
        return (found_at(blocks) + blocks * static_cast<int>(sizeof(KeyBlock)) + 1023) / 1024 *
               1024;
    }
    static constexpr int shared_bytes(int blocks, int element_bytes) {
        return staging_at(blocks) + (staged_keys + Base::rows) * HeadDim * element_bytes;
    }
};

/// \brief The tile of values from key `at` on, rounded to 16 bits where it is float32: for
///        rows that `cp.async` cannot read.
template <class Shape, class From>
__device__ void fill_values(const Problem& p, Index b, Index hk, Index at, bool wide,
                            unsigned char* tile) {
    using T = typename Shape::Element;
    constexpr int pieces = Shape::HeadDim / 8;
    const From* value = static_cast<const From*>(p.value.data) + b * p.value.stride[0] +
                        hk * p.value.stride[1] + at * p.value.stride[2];
#pragma unroll 4
    for (int index = threadIdx.x; index < Shape::Keys * pieces; index += Shape::threads) {
        const int row = index / pieces, piece = index % pieces;
        float x[8];
        const bool exists = at + row < p.S;
        load_channels<From>(x, value + (exists ? row : 0) * p.value.stride[2], p.value.stride[3],
                            piece * 8, exists ? p.Ev : 0, wide);
        uint4 packed;
        auto* pair = reinterpret_cast<std::uint32_t*>(&packed);
#pragma unroll
        for (int i = 0; i < 4; ++i) pair[i] = pack_value<T>(x[2 * i], x[2 * i + 1]);
        *reinterpret_cast<uint4*>(tile + swizzled<Shape::row_bytes>(row, piece)) = packed;
    }
}

/// \brief The same, not inlined: 16-bit values that `cp.async` cannot read are rare.
template <class Shape, class From>
__device__ __noinline__ void fill_values_apart(const Problem& p, Index b, Index hk, Index at,
                                               bool wide, unsigned char* tile) {
    fill_values<Shape, From>(p, b, hk, at, wide, tile);
}
/// \brief `measure_keys`, not inlined: keys with numbers that have no integers are rare.
template <class From, int HeadDim>
__device__ __noinline__ KeyBlock measure_keys_apart(const Problem& p, Index b, Index hk,
                                                    Index block, std::uint64_t seen, float* sums) {
    return measure_keys<From, HeadDim>(p, b, hk, block, seen, true, sums);
}

/// \brief Quantizes the block's queries, which lie in `staging`, into the query tile.
/// \param mean  (HeadDim) of K, its signs flipped
/// \tparam natural  the kernel adds a mask before it turns to units of log 2
template <class From, class Shape, bool natural>
__device__ __forceinline__ void round_queries(const Int8Problem& p, Index b, Index h,
                                              Index first_row, const float* mean,
                                              unsigned char* shared, unsigned char* staging) {
    constexpr int HD = Shape::HeadDim;
    const auto tile = [&](int row, int piece) {
        return reinterpret_cast<uint4*>(shared + swizzled<HD>(row, piece));
    };
    const QueryScales scales{reinterpret_cast<float*>(shared + Shape::factor_at),
                             reinterpret_cast<float*>(shared + Shape::shift_at),
                             shared + Shape::without_at, nullptr};
    const ScaleOf scale(p.problem);
    const float unit = natural ? scale.size : scale.size * WarpRows<typename Shape::Base>::log2_e;
    if (p.problem.logsumexp.absent()) mean = nullptr;  // no shift is asked for
    quantize_whole_queries<From, HD, Shape::rows, Shape::threads, Shape::rows * HD * 4>(
        p.problem, b, h, first_row, unit, scale.sign, mean, tile, scales, staging, true);
}

/// \brief Has a row of this thread's number no integers?
template <class Shape>
__device__ inline bool without_integers(const unsigned char* shared) {
    return threadIdx.x < Shape::rows && shared[Shape::without_at + threadIdx.x] != 0;
}

/// \brief The pre-pass for one head whose keys are whole rows. The first `staged_keys` of them are
///        on their way to `staging`.
template <class Shape, class From, bool masked>
__device__ void prepare_whole_keys(const Int8Problem& p, Index b, Index h, Index hk,
                                   unsigned char* shared, unsigned char* staging, float* mean,
                                   float* scale, float* sums, KeyBlock* found) {
    constexpr int HD = Shape::HeadDim, groups = Shape::threads / HD;
    using Staged = StagedRows<From, HD>;
    const Problem& problem = p.problem;
    const int thread = static_cast<int>(threadIdx.x), blocks = static_cast<int>(p.keys.blocks);
    const From* const key = static_cast<const From*>(problem.key.data) + b * problem.key.stride[0] +
                            hk * problem.key.stride[1];
    const auto stage = [&](int first) {
        if (first > 0 || blocks * 64 > staged_keys) {
            __syncthreads();  // the last keys have been read
            Staged::template copy<staged_keys, Shape::threads>(
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
        for (int side = thread / HD; side < staged_keys / 64; side += groups) {
            const int block = first / 64 + side;
            if (block >= blocks) break;
            const std::uint64_t seen = seen_keys<masked>(problem, b, h, block);
            good = sum_whole_keys<From, HD>(staging + side * 64 * Staged::row_bytes, thread % HD,
                                            seen, sums + block * HD) &&
                   good;
            if (thread % HD == 0) found[block] = {seen, 0};
        }
        if (!__syncthreads_or(!good)) continue;
        for (int block = first / 64 + thread / 32;
             block < blocks && block < (first + staged_keys) / 64; block += Shape::Warps) {
            const KeyBlock bits = measure_keys_apart<From, HD>(
                problem, b, hk, block, found[block].integer, sums + block * HD);
            if (thread % 32 == 0) found[block] = bits;
        }
        __syncthreads();
    }
    for (int e = thread; e < HD; e += Shape::threads)
        mean[e] = flipped(mean_of(sums + e, HD, found, blocks), e);
    __syncthreads();
    const RowHalf at(thread);
    constexpr int at_once = Shape::threads / 2;  // keys
    for (int first = 0; first < blocks * 64; first += at_once) {
        if (blocks * 64 > staged_keys && first % staged_keys == 0) stage(first);
        const int j = first + at.row;
        if (j >= blocks * 64) continue;
        float x[HD / 2];
        Staged::read(x, staging, j % staged_keys, at.half);
        const float side = at.half == 0 ? 1.0f : -1.0f;
        smooth_key<HD>(x, mean, at.half, side);
        clear_rows(x, (found[j / 64].integer >> (j % 64) & 1) == 0);
        const float step = round_row<HD, Operand::key>(x, side, 1.0f, [&](int piece) {
                               return reinterpret_cast<uint4*>(
                                   shared + Shape::key_at + j / 64 * Shape::int8_tile_bytes +
                                   swizzled<HD>(j % 64, at.half * (HD / 32) + piece));
                           }).step;
        if (at.half == 0) scale[j] = step;
    }
    __syncthreads();
}

template <class From, int HeadDim, bool masked>
__global__ void __launch_bounds__(128)
    int8_fused_kernel(const __grid_constant__ Int8Problem p, Index first_block) {
    using T = std::conditional_t<std::is_same_v<From, float>, bfloat16, From>;  // of P V
    using Shape = FusedShape<T, HeadDim>;
    using Staged = StagedRows<From, HeadDim>;
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = HeadDim, KT = Shape::Keys;
    extern __shared__ __align__(1024) unsigned char shared[];
    const std::uint32_t base = shared_address(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Problem& problem = p.problem;
    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h), first_row = place.first_row;
    const Index rows_left = problem.L - first_row;
    const Index warp_row = first_row + warp * Shape::warp_rows;
    const int blocks = static_cast<int>(p.keys.blocks);
    float* const mean = reinterpret_cast<float*>(shared + Shape::mean_at);
    float* const scale = reinterpret_cast<float*>(shared + Shape::scale_at(blocks));
    float* const sums = reinterpret_cast<float*>(shared + Shape::sums_at(blocks));
    auto* const found = reinterpret_cast<KeyBlock*>(shared + Shape::found_at(blocks));
    unsigned char* const key_staging = shared + Shape::staging_at(blocks);
    unsigned char* const query_staging = key_staging + staged_keys * Staged::row_bytes;

    const int tiles = static_cast<int>(
        (problem.visible(first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1) + KT -
         1) /
        KT);
    const int first_partial = static_cast<int>(problem.visible(warp_row) / KT);
    const auto copy_values = [&](int j) {
        const Index at = static_cast<Index>(j) * KT;
        const int to = Shape::value_at + j % 2 * Shape::tile_bytes;
        if constexpr (std::is_same_v<From, float>)
            fill_values<Shape, From>(problem, b, hk, at, p.wide_value, shared + to);
        else if (p.wide_value)
            copy_tile<KT, HD, Shape::threads>(base + to, p.value + p.value_stride(b, hk, at),
                                              p.value_stride.row, problem.S - at, p.value_columns,
                                              threadIdx.x);
        else
            fill_values_apart<Shape, From>(problem, b, hk, at, false, shared + to);
    };
    //! [fused]
    // All that is read for the first time is on its way at once.
    const auto rows_of = [&](const TensorView& view, Index head, Index first) {
        return static_cast<const From*>(view.data) + b * view.stride[0] + head * view.stride[1] +
               first * view.stride[2];
    };
    const int thread = static_cast<int>(threadIdx.x);
    if (blocks * 64 <= staged_keys)
        Staged::template copy<staged_keys, Shape::threads>(
            shared_address(key_staging), rows_of(problem.key, hk, 0), problem.key.stride[2],
            problem.S, thread);
    Staged::template copy<Shape::rows, Shape::threads>(shared_address(query_staging),
                                                       rows_of(problem.query, h, first_row),
                                                       problem.query.stride[2], rows_left, thread);
    if (tiles > 0) copy_values(0);
    copy_async_commit();

    prepare_whole_keys<Shape, From, masked>(p, b, h, hk, shared, key_staging, mean, scale, sums,
                                            found);
    //! [fused]
    bool floating = false;
    for (int block = 0; block < blocks; ++block) floating |= found[block].floating != 0;

    const std::uint32_t query = query_lane<HD>(base, warp * Shape::warp_rows, lane);
    const std::uint32_t key_tile = key_lane<HD>(base + Shape::key_at, lane);
    const std::uint32_t value_lane =
        base + Shape::value_at + swizzled<Shape::row_bytes>(lane % 16, lane / 16);

    // ---- attention; a second time, with values that are not finite read as 0, if it must be
    bool second = false;
    for (;; second = true) {
        round_queries<From, Shape, masked>(p, b, h, first_row, mean, shared, query_staging);
        if (tiles > 0 && second) copy_values(0);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float factor[1][2];
        read_factors(factor, lane_factors<Shape>(shared, warp, lane));
        Rows rows;
        rows.clear();
        for (int j = 0; j < tiles; ++j) {
            if (j + 1 < tiles) copy_values(j + 1);  // its place was last read before the barrier
            copy_async_commit();
            if (second) {
                make_finite<T>(shared + Shape::value_at + j % 2 * Shape::tile_bytes,
                               Shape::tile_bytes, threadIdx.x, Shape::threads);
                __syncthreads();
            }
            int product[1][KT / 8][4];
            typename Rows::Scores score;
            typename Rows::Weights weights;
            multiply_integers<Shape>(product, query, key_tile + j * Shape::int8_tile_bytes);
            take_steps<Shape>(product, score, scale + j * KT + c_column(lane, 0));
            const Index row = warp_row + lane / 4,
                        first_key = static_cast<Index>(j) * KT + c_column(lane, 0);
            if constexpr (masked) {
                mask_scores<Shape, true>(score, problem, b, h, row, first_key, factor);
                rows.grow(score, float{Rows::log2_e});
                rows.weigh(score, float{Rows::log2_e}, weights);
            } else {
                if (j >= first_partial) hide_beyond<Shape>(score, problem, row, first_key);
                rows.grow(score, factor);
                rows.weigh(score, factor, weights);
            }
            rows.add_values(weights, value_lane + j % 2 * Shape::tile_bytes);
            copy_async_wait<0>();
            __syncthreads();  // tile j + 1 has arrived, tile j's place is free
        }
        rows.finish_sums();
        const bool without = without_integers<Shape>(shared);
        __syncthreads();  // the out tile takes the queries' place
        const float* shift = reinterpret_cast<const float*>(shared + Shape::shift_at);
        const auto finish = [&](const auto& unit) {
            return write_int8_rows<Shape>(p, rows, unit, shared, shift, b, h, first_row);
        };
        bool finite;
        if constexpr (masked)
            finite = finish(float{Rows::log2_e});
        else
            finite = finish(factor);
        if (second || !__syncthreads_or(without || floating || (!finite && can_hide(problem))))
            break;
    }
    if (!second) return;
    __syncwarp();  // the rows' first results are written before their second ones
    for (int row = 0; row < Shape::warp_rows; ++row) {
        const Index i = warp_row + row;
        if (i >= problem.L) break;
        const bool always = shared[Shape::without_at + warp * Shape::warp_rows + row] != 0 ||
                            (floating && meets_floating(problem, b, h, i, found, blocks));
        careful_row_apart<From>(problem, b, h, i, always);
    }
}

template <class From, int HeadDim>
void launch_masked(const Int8Problem& p, cudaStream_t stream) {
    using Shape = FusedShape<float16, HeadDim>;
    const Index blocks = p.query_tiles * p.problem.B * p.problem.Hq;
    const int bytes = Shape::shared_bytes(static_cast<int>(p.keys.blocks), sizeof(From));
    if (p.problem.mask_kind == MaskKind::none)
        launch<int8_fused_kernel<From, HeadDim, false>, most_shared_bytes>(blocks, Shape::threads,
                                                                           bytes, stream, p);
    else
        launch<int8_fused_kernel<From, HeadDim, true>, most_shared_bytes>(blocks, Shape::threads,
                                                                          bytes, stream, p);
}

template <class From>
void launch_head_dim(const Int8Problem& p, cudaStream_t stream) {
    if (p.keys.head_dim == 64) return launch_masked<From, 64>(p, stream);
    launch_masked<From, 128>(p, stream);
}

}  // namespace

bool fits_int8_fused(const Problem& p) {
    const int head_dim = int8_head_dim(p);
    if (p.S == 0 || p.S > most_keys || head_dim > 128 || p.E != head_dim || !wide(p.query) ||
        !wide(p.key))
        return false;
    const int blocks = static_cast<int>((p.S + 63) / 64), size = p.dtype == DType::float32 ? 4 : 2;
    const int bytes = head_dim == 64 ? FusedShape<float16, 64>::shared_bytes(blocks, size)
                                     : FusedShape<float16, 128>::shared_bytes(blocks, size);
    return bytes <= most_shared_bytes;
}

void launch_int8_fused(const Int8Problem& given, cudaStream_t stream) {
    Int8Problem p = given;
    p.query_tiles = static_cast<int>((p.problem.L + 63) / 64);
    if (p.problem.dtype == DType::float16) return launch_head_dim<float16>(p, stream);
    if (p.problem.dtype == DType::bfloat16) return launch_head_dim<bfloat16>(p, stream);
    launch_head_dim<float>(p, stream);
}

}  // namespace attn::gpu
