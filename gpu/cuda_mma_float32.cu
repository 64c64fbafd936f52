/// \file
/// \brief `cuda_mma` for float32: products on bfloat16 tensor cores, exact to float32.
///
/// See cuda_mma_float32.cuh for the three parts. This is the kernel for any device; sm_90a has one
/// of its own (cuda_mma_float32_hopper.cu) up to 128 columns. Here each x0 y0 of 16 columns starts
/// from zero and is added by ordinary, rounding additions.
#include "cuda_mma_float32.cuh"
#include "device.hpp"

#include <type_traits>

namespace attn::gpu {
namespace {

/// \brief Tiles hold the three parts one after the other, each swizzled as usual.
template <int HeadDim, int Warps, int MTiles, int Keys, int Blocks>
struct Float32Shape : MmaShape<bfloat16, HeadDim, Warps, MTiles, Keys, false> {
    using Base = MmaShape<bfloat16, HeadDim, Warps, MTiles, Keys, false>;
    static constexpr int blocks = Blocks;  // per multiprocessor
    static constexpr int stage_bytes = parts * Base::tile_bytes;
    static constexpr int shared_bytes = parts * Base::query_bytes + 4 * stage_bytes;
};

/// score = Q K^T
template <class Shape, class Scores>
__device__ void multiply_parts(Scores& score, std::uint32_t query, std::uint32_t key) {
    constexpr int MT = Shape::MTiles, NS = Shape::Keys / 8, KS = Shape::HeadDim / 16;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NS; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) score[m][n][i] = 0;
    const auto load_a = [&](int m, int k, int part, std::uint32_t(&a)[4]) {
        load_matrices(a,
                      (query ^ (k * 32)) + part * Shape::query_bytes + m * 16 * Shape::row_bytes);
    };
    const auto load_b = [&](int n, int k, int part, std::uint32_t(&b)[4]) {
        load_matrices(b, (key ^ (k * 32)) + part * Shape::tile_bytes + n * 16 * Shape::row_bytes);
    };
    const auto add = [&](int m, int n, const std::uint32_t(&a)[4], const std::uint32_t(&b)[4]) {
        multiply_add<bfloat16>(score[m][2 * n], a, b[0], b[1]);
        multiply_add<bfloat16>(score[m][2 * n + 1], a, b[2], b[3]);
    };
#pragma unroll
    for (int k = 0; k < KS; ++k) {
        std::uint32_t a[MT][parts][4];
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int part = 0; part < parts; ++part) load_a(m, k, part, a[m][part]);
#pragma unroll
        for (int n = 0; n < NS / 2; ++n) {
            std::uint32_t b[parts][4];
#pragma unroll
            for (int part = 0; part < parts; ++part) load_b(n, k, part, b[part]);
#pragma unroll
            for (int product = 0; product < 5; ++product)
#pragma unroll
                for (int m = 0; m < MT; ++m) add(m, n, a[m][small_a[product]], b[small_b[product]]);
        }
    }
#pragma unroll
    for (int k = 0; k < KS; ++k) {
        std::uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; ++m) load_a(m, k, 0, a[m]);
#pragma unroll
        for (int n = 0; n < NS / 2; ++n) {
            std::uint32_t b[4];
            load_b(n, k, 0, b);
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    float sum[4] = {};  // 16 columns by the tensor core, rounded additions between
                    multiply_add<bfloat16>(sum, a[m], b[2 * side], b[2 * side + 1]);
#pragma unroll
                    for (int i = 0; i < 4; ++i) score[m][2 * n + side][i] += sum[i];
                }
        }
    }
}

/// Scores become weights, in parts; then out += weights V.
template <class Shape, class Rows>
__device__ void weigh_and_add(Rows& rows, const typename Rows::Scores& score, float unit,
                              std::uint32_t value) {
    constexpr int MT = Shape::MTiles, NS = Shape::Keys / 8;
    std::uint32_t weights[MT][NS][2][parts];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float top = rows.max[m][half] == -CUDART_INF_F ? 0.0f : rows.max[m][half];
#pragma unroll
            for (int n = 0; n < NS; ++n) {
                const float w0 = Rows::weight(score[m][n][2 * half], unit, top);
                const float w1 = Rows::weight(score[m][n][2 * half + 1], unit, top);
                rows.sum[m][half] += w0 + w1;
                split_pair(w0, w1, weights[m][n][half]);
            }
        }
#pragma unroll
    for (int n = 0; n < Shape::HeadDim / 16; ++n) {
        float sum[MT][2][4] = {};  // of this tile of keys
        const auto add = [&](int m, int k, int part, const std::uint32_t(&b)[4]) {
            const std::uint32_t a[4] = {weights[m][2 * k][0][part], weights[m][2 * k][1][part],
                                        weights[m][2 * k + 1][0][part],
                                        weights[m][2 * k + 1][1][part]};
            multiply_add<bfloat16>(sum[m][0], a, b[0], b[1]);
            multiply_add<bfloat16>(sum[m][1], a, b[2], b[3]);
        };
        std::uint32_t first[Shape::Keys / 16][4];
#pragma unroll
        for (int k = 0; k < Shape::Keys / 16; ++k) {
            std::uint32_t b[parts][4];
#pragma unroll
            for (int part = 0; part < parts; ++part)
                load_matrices_transposed(b[part], (value ^ (n * 32)) + part * Shape::tile_bytes +
                                                      k * 16 * Shape::row_bytes);
#pragma unroll
            for (int product = 0; product < 5; ++product)
#pragma unroll
                for (int m = 0; m < MT; ++m) add(m, k, small_a[product], b[small_b[product]]);
#pragma unroll
            for (int i = 0; i < 4; ++i) first[k][i] = b[0][i];
        }
#pragma unroll
        for (int k = 0; k < Shape::Keys / 16; ++k)
#pragma unroll
            for (int m = 0; m < MT; ++m) add(m, k, 0, first[k]);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                rows.out[m][2 * n][i] += sum[m][0][i];
                rows.out[m][2 * n + 1][i] += sum[m][1][i];
            }
    }
}

/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool masked, bool second>
__device__ __forceinline__ bool attend(const MmaProblem& p, Index first_block) {
    using Rows = WarpRows<typename Shape::Base>;
    constexpr int HD = Shape::HeadDim, KT = Shape::Keys;
    extern __shared__ __align__(1024) unsigned char shared[];
    const Problem& problem = p.problem;
    const std::uint32_t query_tile = shared_address(shared);
    const std::uint32_t key_tiles = query_tile + parts * Shape::query_bytes;
    const std::uint32_t value_tiles = key_tiles + 2 * Shape::stage_bytes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h);
    if (p.leaves(b, h)) return true;
    const Index rows_left = problem.L - place.first_row;
    const Index warp_row = place.first_row + warp * Shape::warp_rows;
    const std::uint16_t* query = p.query + p.query_stride(b, h, place.first_row);
    const std::uint16_t* key = p.key + p.key_stride(b, hk, 0);
    const std::uint16_t* value = p.value + p.value_stride(b, hk, 0);
    const auto tiles_of = [&](Index row) {
        return static_cast<int>((problem.visible(row) + KT - 1) / KT);
    };
    const int tiles =
        tiles_of(place.first_row + (rows_left < Shape::rows ? rows_left : Shape::rows) - 1);
    const int warp_tiles =
        warp_row < problem.L ? min(tiles, tiles_of(warp_row + Shape::warp_rows - 1)) : 0;
    const int first_partial = static_cast<int>(problem.visible(warp_row) / KT);

    const auto copy_keys = [&](int j) {
        const Index at = static_cast<Index>(j) * KT;
        for (int part = 0; part < parts; ++part) {
            const std::uint32_t to = j % 2 * Shape::stage_bytes + part * Shape::tile_bytes;
            copy_tile<KT, HD, Shape::threads>(
                key_tiles + to, key + at * p.key_stride.row + part * p.query_columns,
                p.key_stride.row, problem.S - at, p.query_columns, threadIdx.x);
            copy_tile<KT, HD, Shape::threads>(
                value_tiles + to, value + at * p.value_stride.row + part * p.value_columns,
                p.value_stride.row, problem.S - at, p.value_columns, threadIdx.x);
        }
    };
    for (int part = 0; part < parts; ++part)
        copy_tile<Shape::rows, HD, Shape::threads>(
            query_tile + part * Shape::query_bytes, query + part * p.query_columns,
            p.query_stride.row, rows_left, p.query_columns, threadIdx.x);
    if (tiles > 0) copy_keys(0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    if (p.query_factor != 1) {
        multiply_tile<bfloat16>(reinterpret_cast<std::uint16_t*>(shared),
                                parts * Shape::query_bytes / 2, p.query_factor, Shape::threads);
        __syncthreads();
    }

    const std::uint32_t query_lane =
        query_tile + swizzled<Shape::row_bytes>(warp * Shape::warp_rows + lane % 16, lane / 16);
    const std::uint32_t key_lane =
        key_tiles + swizzled<Shape::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const std::uint32_t value_lane = value_tiles + swizzled<Shape::row_bytes>(lane % 16, lane / 16);
    const float unit = masked ? Rows::log2_e : p.unit;
    Rows rows;
    rows.clear();
    for (int j = 0; j < tiles; ++j) {
        if (j + 1 < tiles) copy_keys(j + 1);  // its stage was last read before the barrier
        copy_async_commit();
        if (second) {
            make_finite<bfloat16>(shared + (value_tiles - query_tile) + j % 2 * Shape::stage_bytes,
                                  Shape::stage_bytes, threadIdx.x, Shape::threads);
            __syncthreads();
        }
        if (j < warp_tiles) {
            typename Rows::Scores score;
            multiply_parts<Shape>(score, query_lane, key_lane + j % 2 * Shape::stage_bytes);
            const Index row = warp_row + lane / 4,
                        first_key = static_cast<Index>(j) * KT + lane % 4 * 2;
            if constexpr (masked)
                mask_scores<Shape, true>(score, problem, b, h, row, first_key, p.scale);
            else if (j >= first_partial)
                hide_beyond<Shape>(score, problem, row, first_key);
            rows.grow(score, unit);
            weigh_and_add<Shape>(rows, score, unit, value_lane + j % 2 * Shape::stage_bytes);
        }
        copy_async_wait<0>();
        __syncthreads();  // tile j + 1 has arrived, tile j's stage is free
    }

    return write_float32_rows<Shape, second>(rows, problem, b, h, warp_row, unit);
}

/// Is the kernel ever launched on the devices that this code is for? On sm_90a it would only cost
/// time to build.
template <class Shape>
__device__ constexpr bool wanted() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    return Shape::HeadDim > 128;
#else
    return true;
#endif
}

template <class Shape, bool masked>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    float32_kernel(const __grid_constant__ MmaProblem p, Index first_block) {
    if constexpr (wanted<Shape>()) {
        const bool again = __syncthreads_or(!attend<Shape, masked, false>(p, first_block));
        if (threadIdx.x == 0) p.again[first_block + blockIdx.x] = again;
    }
}

/// A kernel of its own, queued behind the first: a call in that one would cost it registers.
template <class Shape, bool masked>
__global__ void __launch_bounds__(Shape::threads)
    float32_again_kernel(const __grid_constant__ MmaProblem p, Index first_block) {
    if constexpr (wanted<Shape>())
        if (p.again[first_block + blockIdx.x] != 0) attend<Shape, masked, true>(p, first_block);
}

template <class Shape>
void launch_shape(MmaProblem p, cudaStream_t stream) {
    const Index tiles = (p.problem.L + Shape::rows - 1) / Shape::rows;
    p.query_tiles = static_cast<int>(tiles);
    const Index blocks = tiles * p.problem.B * p.problem.Hq;
    const auto both = [&]<bool masked>(std::bool_constant<masked>) {
        launch<float32_kernel<Shape, masked>>(blocks, Shape::threads, Shape::shared_bytes, stream,
                                              p);
        launch<float32_again_kernel<Shape, masked>>(blocks, Shape::threads, Shape::shared_bytes,
                                                    stream, p);
    };
    if (p.problem.mask_kind == MaskKind::none)
        both(std::false_type{});
    else
        both(std::true_type{});
}

}  // namespace

void launch_float32(const MmaProblem& p, cudaStream_t stream) {
    const Index widest = p.problem.E > p.problem.Ev ? p.problem.E : p.problem.Ev;
    if (widest <= 64) return launch_shape<Float32Shape<64, 4, 2, 32, 2>>(p, stream);
    if (widest <= 128) return launch_shape<Float32Shape<128, 4, 1, 32, 1>>(p, stream);
    return launch_shape<Float32Shape<256, 4, 1, 16, 1>>(p, stream);
}

}  // namespace attn::gpu
