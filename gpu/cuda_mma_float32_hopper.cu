/// \file
/// \brief `cuda_mma` for float32 on sm_90a: the same six products (cuda_mma_float32.cuh) through
///        `wgmma`, which reads its operands from shared memory.
///
/// `mma.sync` needs every fragment in registers: at E = 128 a warp of 16 rows reads as many bytes
/// of shared memory as it has cycles of products. Here four warps share one read. Their rows, 64,
/// meet tiles of 64 keys; two such groups share a block's tiles, and a warp of its own keeps them
/// coming.
///
///     shared memory  query  (3, E / 64, 128, 64)  bfloat16: part, plane (wgmma.cuh), row, column
///                    key    (3, E / 64, 64, 64)   one stage: the next tile's keys are copied while
///                    value  (3, E / 64, 64, 64)   this tile's values are used, and its values
///                                                 while the next scores are computed
///
/// `tile_rows` lays the tensors out like that in global memory, so that a tile is one copy.
///
/// \par Source
/// Shah et al. 2024, "FlashAttention-3", section 3.1, for the warps that copy and the two groups
/// that take turns.
#include "cuda_mma_float32.cuh"
#include "cuda_mma_plan.hpp"
#include "device.hpp"
#include "wgmma.cuh"

#include <type_traits>

namespace attn::gpu {
namespace {

constexpr int groups = 2;  // of four warps
constexpr int query_rows = 64 * groups, keys = 64;
constexpr int consumers = 128 * groups;   // threads
constexpr int threads = consumers + 128;  // and four warps, of which one copies
constexpr int plane_columns = 64;

template <int HeadDim>
struct HopperShape : MmaShape<bfloat16, HeadDim, 4 * groups, 1, keys, false> {
    static constexpr int planes = HeadDim / plane_columns;
    static constexpr int query_plane = query_rows * 128, key_plane = keys * 128;  // bytes
    static constexpr int query_bytes = parts * planes * query_plane;
    static constexpr int tile_bytes = parts * planes * key_plane;
    static constexpr int key_at = query_bytes, value_at = key_at + tile_bytes;
    static constexpr int barriers_at = value_at + tile_bytes;
    static constexpr int shared_bytes = barriers_at + 64 + 1024;  // planes start at 1024 bytes
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// 168 registers of a thread at the start, 64512 in all, are dealt out anew.
constexpr int consumer_registers = 232, copier_registers = 40;

/// Descriptor steps: units of 16 bytes.
template <class Shape>
__device__ constexpr int query_step(int part, int plane, int k) {
    return ((part * Shape::planes + plane) * Shape::query_plane + k * 32) / 16;
}
template <class Shape>
__device__ constexpr int key_step(int part, int plane, int k) {
    return ((part * Shape::planes + plane) * Shape::key_plane + k * 32) / 16;
}
template <class Shape>
__device__ constexpr int value_step(int part, int plane, int k) {
    return ((part * Shape::planes + plane) * Shape::key_plane + k * 2048) / 16;
}

/// score = Q K^T: a chain of products for each plane of columns, then one addition.
template <class Shape>
__device__ __forceinline__ void multiply(float (&score)[keys / 8][4], Descriptor query,
                                         Descriptor key) {
    constexpr int KS = plane_columns / 16;
    float other[keys / 8][4];  // of the second plane
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < Shape::planes; ++plane) {
        auto& sum = plane == 0 ? score : other;
#pragma unroll
        for (int product = 0; product < 5; ++product)
#pragma unroll
            for (int k = 0; k < KS; ++k)
                wgmma_rows(sum, query + query_step<Shape>(small_a[product], plane, k),
                           key + key_step<Shape>(small_b[product], plane, k), product + k > 0);
#pragma unroll
        for (int k = 0; k < KS; ++k)
            wgmma_rows(sum, query + query_step<Shape>(0, plane, k),
                       key + key_step<Shape>(0, plane, k), true);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_use(score);
    if constexpr (Shape::planes == 2) {
        wgmma_use(other);
#pragma unroll
        for (int n = 0; n < keys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) score[n][i] += other[n][i];
    }
}

/// Scores become weights, in parts, as A fragments.
template <class Rows>
__device__ __forceinline__ void split_weights(Rows& rows, const typename Rows::Scores& score,
                                              float unit,
                                              std::uint32_t (&weights)[parts][keys / 16][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float top = rows.max[0][half] == -CUDART_INF_F ? 0.0f : rows.max[0][half];
        float sum = 0;  // of this tile
#pragma unroll
        for (int n = 0; n < keys / 8; ++n) {
            const float w0 = Rows::weight(score[0][n][2 * half], unit, top);
            const float w1 = Rows::weight(score[0][n][2 * half + 1], unit, top);
            sum += w0 + w1;
            std::uint32_t part[parts];
            split_pair(w0, w1, part);
#pragma unroll
            for (int i = 0; i < parts; ++i) weights[i][n / 2][n % 2 * 2 + half] = part[i];
        }
        rows.sum[0][half] += sum;
    }
}

/// out += weights V, a plane of columns at a time.
template <class Shape, class Rows>
__device__ __forceinline__ void add_values(Rows& rows,
                                           const std::uint32_t (&weights)[parts][keys / 16][4],
                                           Descriptor value) {
    float sum[Shape::planes][8][4];
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < Shape::planes; ++plane) {
#pragma unroll
        for (int product = 0; product < 5; ++product)
#pragma unroll
            for (int k = 0; k < keys / 16; ++k)
                wgmma_columns(sum[plane], weights[small_a[product]][k],
                              value + value_step<Shape>(small_b[product], plane, k),
                              product + k > 0);
#pragma unroll
        for (int k = 0; k < keys / 16; ++k)
            wgmma_columns(sum[plane], weights[0][k], value + value_step<Shape>(0, plane, k), true);
        wgmma_commit();
    }
#pragma unroll
    for (int plane = 0; plane < Shape::planes; ++plane) {
        if (plane + 1 < Shape::planes)
            wgmma_wait<1>();
        else
            wgmma_wait<0>();
        wgmma_use(sum[plane]);
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) rows.out[0][8 * plane + n][i] += sum[plane][n][i];
    }
}

/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class Shape, bool masked, bool second>
__device__ __forceinline__ bool attend(const MmaProblem& p, Index first_block) {
    using Rows = WarpRows<Shape>;
    extern __shared__ unsigned char raw[];
    const std::uint32_t start = shared_address(raw), memory = (start + 1023) / 1024 * 1024;
    const Problem& problem = p.problem;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 4;
    const std::uint32_t barriers = memory + Shape::barriers_at;
    const std::uint32_t key_full = barriers, key_empty = barriers + 8, value_full = barriers + 16,
                        value_empty = barriers + 24, query_full = barriers + 32, go = barriers + 40;

    const Place<Shape> place(p, first_block);
    const Index b = place.b, h = place.h, hk = problem.key_head(h);
    if (p.leaves(b, h)) return true;
    const auto tiles_of = [&](Index row) {  // tiles up to the last key that rows .. row may see
        const Index last = row < problem.L ? row : problem.L - 1;
        return static_cast<int>((problem.visible(last) + keys - 1) / keys);
    };
    const int tiles = tiles_of(place.first_row + query_rows - 1);

    if (threadIdx.x == 0) {
        for (const std::uint32_t barrier : {key_full, value_full, query_full})
            barrier_set(barrier, 1);
        for (const std::uint32_t barrier : {key_empty, value_empty})
            barrier_set(barrier, consumers / 32);
        barrier_set(go, 4);
        fence_shared_for_wgmma();
    }
    __syncthreads();  // the barriers are there

    if (group == groups) {
        fewer_registers<copier_registers>();
        if (threadIdx.x == consumers) {
            copy_bulk(memory,
                      p.query + p.query_stride(b, h, 0) +
                          place.first_row / query_rows * (Shape::query_bytes / 2),
                      Shape::query_bytes, query_full);
            const std::uint16_t* key = p.key + p.key_stride(b, hk, 0);
            const std::uint16_t* value = p.value + p.value_stride(b, hk, 0);
            for (int j = 0; j < tiles; ++j) {
                if (j > 0) barrier_wait(key_empty, (j - 1) % 2);
                copy_bulk(memory + Shape::key_at, key, Shape::tile_bytes, key_full);
                key += Shape::tile_bytes / 2;
                if (j > 0) barrier_wait(value_empty, (j - 1) % 2);
                copy_bulk(memory + Shape::value_at, value, Shape::tile_bytes, value_full);
                value += Shape::tile_bytes / 2;
            }
        }
        __syncwarp();  // together to the barrier at the end
        return true;
    }
    more_registers<consumer_registers>();
    const Descriptor query = plane_at(memory + group * 64 * 128);
    const Descriptor key = plane_at(memory + Shape::key_at);
    const Descriptor value = plane_at(memory + Shape::value_at);
    const Index group_row = place.first_row + group * 64, warp_row = place.first_row + warp * 16;
    const int group_tiles = group_row < problem.L ? min(tiles, tiles_of(group_row + 63)) : 0;
    const int first_partial = static_cast<int>(problem.visible(group_row) / keys);
    const float unit = masked ? Rows::log2_e : p.unit;
    Rows rows;
    rows.clear();
    barrier_wait(query_full, 0);
    for (int j = 0; j < tiles; ++j) {
        typename Rows::Scores score;
        barrier_wait(key_full, j % 2);
        // The second group starts when the first has its scores: from then on one computes
        // products while the other computes weights.
        if (j == 0 && group == 1) barrier_wait(go, 0);
        if (j < group_tiles) multiply<Shape>(score[0], query, key);
        if (j == 0 && group == 0 && lane == 0) barrier_arrive(go);
        if (lane == 0) barrier_arrive(key_empty);
        std::uint32_t weights[parts][keys / 16][4];
        if (j < group_tiles) {
            const Index row = warp_row + lane / 4,
                        first_key = static_cast<Index>(j) * keys + lane % 4 * 2;
            if constexpr (masked)
                mask_scores<Shape, true>(score, problem, b, h, row, first_key, p.scale);
            else if (j >= first_partial)
                hide_beyond<Shape>(score, problem, row, first_key);
            rows.grow(score, unit);
            split_weights(rows, score, unit, weights);
        }
        barrier_wait(value_full, j % 2);
        if constexpr (second) {
            make_finite<bfloat16>(raw + (memory - start) + Shape::value_at, Shape::tile_bytes,
                                  threadIdx.x, consumers);
            fence_shared_for_wgmma();
            barrier_of(2, consumers);
        }
        if (j < group_tiles) add_values<Shape>(rows, weights, value);
        if (lane == 0) barrier_arrive(value_empty);
    }
    return write_float32_rows<Shape, second>(rows, problem, b, h, warp_row, unit);
}

#else

template <class Shape, bool masked, bool second>
__device__ bool attend(const MmaProblem&, Index) {
    return true;  // never launched: `tiled_float32` asks for the device
}

#endif

template <class Shape, bool masked>
__global__ void __launch_bounds__(threads, 1)
    tiled_float32_kernel(const __grid_constant__ MmaProblem p, Index first_block) {
    const bool again = __syncthreads_or(!attend<Shape, masked, false>(p, first_block));
    if (threadIdx.x == 0) p.again[first_block + blockIdx.x] = again;
}

/// A kernel of its own, queued behind the first: a call in that one would cost it registers.
template <class Shape, bool masked>
__global__ void __launch_bounds__(threads, 1)
    tiled_float32_again_kernel(const __grid_constant__ MmaProblem p, Index first_block) {
    if (p.again[first_block + blockIdx.x] != 0) attend<Shape, masked, true>(p, first_block);
}

/// Eight columns of a row as three parts, to their places in a tile.
constexpr int layout_threads = 256;
__global__ void __launch_bounds__(layout_threads)
    layout_kernel(const TensorView from, std::uint16_t* to, Strides to_stride, int planes, int rows,
                  Index tiles, Index heads, Index pieces, float factor, Index first_block) {
    Index index = (first_block + blockIdx.x) * layout_threads + threadIdx.x;
    if (index >= pieces) return;
    const int piece = static_cast<int>(index % (8 * planes));
    const int row = static_cast<int>((index /= 8 * planes) % rows);
    const Index tile = (index /= rows) % tiles, h = (index /= tiles) % heads, b = index / heads;
    const Index i = tile * rows + row;
    std::uint32_t part[parts][4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
        float x[2];
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const Index e = 8 * piece + 2 * pair + side;
            x[side] = i < from.shape[2] && e < from.shape[3]
                          ? as<const float, 4>(from)(b, h, i, e) * factor
                          : 0.0f;
        }
        std::uint16_t low[parts], high[parts];
        split_element(x[0], low);
        split_element(x[1], high);
#pragma unroll
        for (int n = 0; n < parts; ++n) part[n][pair] = low[n] | std::uint32_t{high[n]} << 16;
    }
    unsigned char* plane = reinterpret_cast<unsigned char*>(
        to + to_stride(b, h, 0) + ((tile * parts * planes + piece / 8) * rows) * plane_columns);
#pragma unroll
    for (int n = 0; n < parts; ++n)
        *reinterpret_cast<uint4*>(plane + n * planes * rows * 128 + swizzled<128>(row, piece % 8)) =
            make_uint4(part[n][0], part[n][1], part[n][2], part[n][3]);
}

template <int HeadDim>
void launch_shape(MmaProblem p, cudaStream_t stream) {
    using Shape = HopperShape<HeadDim>;
    const Index tiles = (p.problem.L + query_rows - 1) / query_rows;
    p.query_tiles = static_cast<int>(tiles);
    const Index blocks = tiles * p.problem.B * p.problem.Hq;
    const auto both = [&]<bool masked>(std::bool_constant<masked>) {
        launch<tiled_float32_kernel<Shape, masked>>(blocks, threads, Shape::shared_bytes, stream,
                                                    p);
        launch<tiled_float32_again_kernel<Shape, masked>>(blocks, threads, Shape::shared_bytes,
                                                          stream, p);
    };
    if (p.problem.mask_kind == MaskKind::none)
        both(std::false_type{});
    else
        both(std::true_type{});
}

Index planes_of(const Problem& p) { return p.E > plane_columns || p.Ev > plane_columns ? 2 : 1; }

Index tiled_rows(bool is_query) { return is_query ? query_rows : keys; }

}  // namespace

bool tiled_float32(const Problem& p) { return can_tile_float32(p) && has_wgmma(); }

Strides tiled_strides(const Problem& p, const TensorView& view, bool is_query, Saturating& size) {
    const Index rows = tiled_rows(is_query), tiles = (view.shape[2] + rows - 1) / rows;
    Strides stride;
    size = counted(tiles) * counted(rows * parts * planes_of(p) * plane_columns);
    const auto bytes = [&] { return static_cast<Index>(size.count == SIZE_MAX ? 0 : size.count); };
    if (view.stride[1] != 0) stride.head = bytes(), size = size * counted(view.shape[1]);
    if (view.stride[0] != 0) stride.batch = bytes(), size = size * counted(view.shape[0]);
    return stride;
}

void tile_rows(const Problem& p, const TensorView& from, bool is_query, std::uint16_t* to,
               const Strides& to_stride, float factor, cudaStream_t stream) {
    const Index rows = tiled_rows(is_query), tiles = (from.shape[2] + rows - 1) / rows;
    const Index heads = to_stride.head == 0 ? 1 : from.shape[1];
    const Index batches = to_stride.batch == 0 ? 1 : from.shape[0];
    const Index planes = planes_of(p), pieces = batches * heads * tiles * rows * planes * 8;
    launch<layout_kernel>((pieces + layout_threads - 1) / layout_threads, layout_threads, 0, stream,
                          from, to, to_stride, static_cast<int>(planes), static_cast<int>(rows),
                          tiles, heads, pieces, factor);
}

void launch_tiled_float32(const MmaProblem& p, cudaStream_t stream) {
    planes_of(p.problem) == 1 ? launch_shape<64>(p, stream) : launch_shape<128>(p, stream);
}

}  // namespace attn::gpu
