/// \file
/// \brief Tier `cuda_fused`: shared-memory tiles and the online softmax, in one kernel.
///
/// Builds on `cuda_simple`. New here, and nothing else: the L x S matrix never leaves the chip. A
/// block owns 128 query rows and walks over the keys in tiles of 64; scores live in registers, pass
/// as weights through shared memory, and the running maximum and sum of each row (\ref
/// attn::RowState) make the result independent of what is still to come.
///
///     shared memory  query_t  (32, 128)      a chunk of 32 columns of the query tile, transposed
///                    key_t    (32, 64)       the same of the key tile
///                    value    (64, Columns)  value tile
///                    weight_t (4, 64, 32)    weights of each warp's 32 rows, transposed
///     registers      score    (8, 8)         of a thread: 8 rows x 8 keys
///                    out      (8, Columns/8) of a thread: 8 rows x Columns/8 columns
///
/// Why 8 x 8: one step of a product reads 8 + 8 floats from shared memory for 64 multiply-adds. A
/// multiprocessor reads 128 bytes a cycle and does 128 multiply-adds; a warp's step reads 4 vectors
/// of 16 bytes a lane, of which most lanes share their address: 4 x 128 bytes = 4 cycles of shared
/// memory against 64 x 32 / 128 = 16 cycles of arithmetic.
///
/// Bank conflicts: in a transposed tile, element (e, row) lies at column row ^ 4 (e / 4 % 8).
/// Writing, the 32 lanes hold 4 rows x 8 values of e / 4: 32 different banks. Reading, lanes read
/// four neighbouring rows at equal e, which the XOR keeps together.
///
/// Occupancy: 72 KB (Columns = 64) or 88 KB (128) of shared memory and at most 255 registers for
/// 128 threads: two blocks, 8 warps, on a multiprocessor. That is enough because a thread has 64
/// independent multiply-adds in flight. Limits: E and Ev up to 256; Ev above 128 is split over
/// blocks, which then compute the scores again. Taught in \ref tier_cuda_fused.
///
/// \par Source
/// Dao et al. 2022 (FlashAttention), algorithm 1; the loop order of FlashAttention-2.
#include "cuda_mma_careful.cuh"
#include "device.hpp"

#include "registry.hpp"

namespace attn {
namespace {

using gpu::exp2_fast;
using gpu::to_float;

constexpr int threads = 128, tile_rows = 128, tile_keys = 64, chunk = 32, warp_rows = 32;
constexpr float log2_e = 1.44269504f;

template <int Columns>
struct Shared {
    float query_t[chunk][tile_rows];
    float key_t[chunk][tile_keys];
    float value[tile_keys][Columns];
    float weight_t[threads / 32][tile_keys][warp_rows];
};

/// Column of a transposed tile in which element (e, row) lies.
//! [swizzle]
__device__ constexpr int swizzle(int e, int row) { return row ^ (e / 4 % 8 * 4); }
//! [swizzle]

/// Four neighbours of a row as floats, zeros from `valid` on.
template <class T>
__device__ float4 load_four(const T* from, Index stride, Index valid, bool vector) {
    float4 x = make_float4(0, 0, 0, 0);
    if (vector && valid >= 4) {  // 16 or 8 bytes at once
        struct alignas(4 * sizeof(T)) Four {
            T element[4];
        };
        const Four four = *reinterpret_cast<const Four*>(from);
        return make_float4(to_float(four.element[0]), to_float(four.element[1]),
                           to_float(four.element[2]), to_float(four.element[3]));
    }
    if (valid > 0) x.x = to_float(from[0]);
    if (valid > 1) x.y = to_float(from[stride]);
    if (valid > 2) x.z = to_float(from[2 * stride]);
    if (valid > 3) x.w = to_float(from[3 * stride]);
    return x;
}

__device__ float4 only_finite(float4 x) {
    const auto keep = [](float y) { return fabsf(y) <= 3.4028234e38f ? y : 0.0f; };
    return make_float4(keep(x.x), keep(x.y), keep(x.z), keep(x.w));
}

/// Columns e .. e + 31 of `Rows` rows into a transposed tile; rows from `rows_left` on are zeros.
template <int Rows, class T>
__device__ void load_transposed(float (&tile)[chunk][Rows], const T* from, Index row_stride,
                                Index stride, Index rows_left, Index columns_left, bool vector) {
#pragma unroll
    for (int i = threadIdx.x; i < Rows * chunk / 4; i += threads) {
        const int row = i / (chunk / 4), e = i % (chunk / 4) * 4;
        const float4 x = load_four(from + row * row_stride + e * stride, stride,
                                   row < rows_left ? columns_left - e : 0, vector);
        tile[e][swizzle(e, row)] = x.x;
        tile[e + 1][swizzle(e, row)] = x.y;
        tile[e + 2][swizzle(e, row)] = x.z;
        tile[e + 3][swizzle(e, row)] = x.w;
    }
}

__device__ void read_four(float* to, const float* from) {
    const float4 x = *reinterpret_cast<const float4*>(from);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

//! [kernel]
/// \param vector  bit 0, 1, 2: query, key, value can be read four elements at a time
/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class T, int Columns, bool second>
__device__ __forceinline__ bool attend(const Problem& p, int vector, Index first_block) {
    extern __shared__ __align__(128) unsigned char memory[];
    auto& shared = *reinterpret_cast<Shared<Columns>*>(memory);
    constexpr int groups = Columns / 32;  // of 4 columns per thread
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tx = lane % 8, ty = lane / 8;  // keys and columns tx * 4 + 32 g ..; rows ty * 8 ..

    const Index row_tiles = (p.L + tile_rows - 1) / tile_rows;
    const Index column_tiles = (p.Ev + Columns - 1) / Columns;
    Index index = first_block + blockIdx.x;
    const Index first_column = index % max(column_tiles, Index{1}) * Columns;
    const Index first_row = (index /= max(column_tiles, Index{1})) % row_tiles * tile_rows;
    const Index h = (index /= row_tiles) % p.Hq, b = index / p.Hq, hk = p.key_head(h);
    const T* query = &as<const T, 4>(p.query)(b, h, first_row, 0);
    const T* key = &as<const T, 4>(p.key)(b, hk, 0, 0);
    const T* value = &as<const T, 4>(p.value)(b, hk, 0, first_column);
    const int local_row = warp * warp_rows + ty * 8;
    const Index row = first_row + local_row;

    float out[8][4 * groups] = {};
    float max_score[8], sum[8] = {};  // max in units of log 2; sum of this thread's keys
    for (float& m : max_score) m = -CUDART_INF_F;

    const Index last_row = (first_row + tile_rows < p.L ? first_row + tile_rows : p.L) - 1;
    for (Index first_key = 0; first_key < p.visible(last_row); first_key += tile_keys) {
        // ---- score = Q K^T, 32 columns at a time
        float score[8][8] = {};
        for (Index e0 = 0; e0 < p.E || e0 == 0; e0 += chunk) {
            __syncthreads();  // the chunks and values of the last round have been read
            load_transposed(shared.query_t, query + e0 * p.query.stride[3], p.query.stride[2],
                            p.query.stride[3], p.L - first_row, p.E - e0, vector & 1);
            load_transposed(shared.key_t, key + first_key * p.key.stride[2] + e0 * p.key.stride[3],
                            p.key.stride[2], p.key.stride[3], p.S - first_key, p.E - e0,
                            vector & 2);
            if (e0 == 0)
                for (int i = threadIdx.x; i < tile_keys * Columns / 4; i += threads) {
                    const int j = i / (Columns / 4), e = i % (Columns / 4) * 4;
                    float4 x = load_four(
                        value + (first_key + j) * p.value.stride[2] + e * p.value.stride[3],
                        p.value.stride[3], first_key + j < p.S ? p.Ev - first_column - e : 0,
                        vector & 4);
                    if (second) x = only_finite(x);
                    *reinterpret_cast<float4*>(&shared.value[j][e]) = x;
                }
            __syncthreads();  // chunks and values are there
#pragma unroll 8
            //! [product]
            for (int e = 0; e < chunk; ++e) {
                float q[8], k[8];
                read_four(q, &shared.query_t[e][swizzle(e, local_row)]);
                read_four(q + 4, &shared.query_t[e][swizzle(e, local_row + 4)]);
                read_four(k, &shared.key_t[e][swizzle(e, tx * 4)]);
                read_four(k + 4, &shared.key_t[e][swizzle(e, 32 + tx * 4)]);
#pragma unroll
                for (int r = 0; r < 8; ++r)
#pragma unroll
                    for (int c = 0; c < 8; ++c) score[r][c] = fmaf(q[r], k[c], score[r][c]);
                //! [product]
            }
        }

        // ---- scale and mask; only a mask, the diagonal and the end of the keys need a look. The
        //      warp reads its part of the mask along the keys, into the place of its weights.
        const float scale = static_cast<float>(p.scale);
        const bool whole =
            p.mask_kind == MaskKind::none && first_key + tile_keys <= p.visible(first_row);
        auto& weight_t = shared.weight_t[warp];
        __syncwarp();  // the weights of the last tile have been read
        if (!whole) {
#pragma unroll 1
            for (int i = lane; i < warp_rows * tile_keys; i += 32) {
                const int j = i % tile_keys, r = i / tile_keys;
                const Index mask_row = first_row + warp * warp_rows + r;
                weight_t[j][swizzle(j, r)] =
                    mask_row < p.L ? gpu::mask_at<float>(p, b, h, mask_row, first_key + j) : 0;
            }
            __syncwarp();  // the mask is there
        }
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int j = c / 4 * 32 + tx * 4 + c % 4;
            float mask[8] = {};
            if (!whole) {
                read_four(mask, &weight_t[j][swizzle(j, ty * 8)]);
                read_four(mask + 4, &weight_t[j][swizzle(j, ty * 8 + 4)]);
            }
#pragma unroll
            for (int r = 0; r < 8; ++r)
                score[r][c] =
                    mask[r] == -CUDART_INF_F ? mask[r] : fmaf(score[r][c], scale, mask[r]);
        }

        // ---- online softmax; weights go to shared memory, for the lanes of the same rows
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            //! [online]
            RowState<float> state{max_score[r], sum[r]};
            float largest = score[r][0];
#pragma unroll
            for (int c = 1; c < 8; ++c) largest = fmaxf(largest, score[r][c]);
#pragma unroll
            for (int step = 1; step < 8; step *= 2)
                largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
            if (largest > state.max) {
                const float shrink = exp2_fast((state.max - largest) * log2_e);
                state.max = largest;
                state.sum *= shrink;
#pragma unroll
                for (int c = 0; c < 4 * groups; ++c) out[r][c] *= shrink;
            }
            const float top = state.max == -CUDART_INF_F ? 0.0f : state.max;
            //! [online]
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                score[r][c] = exp2_fast((score[r][c] - top) * log2_e);
                state.sum += score[r][c];
            }
            max_score[r] = state.max;
            sum[r] = state.sum;
        }
        //! [weights]
        __syncwarp();  // the mask has been read
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int j = c / 4 * 32 + tx * 4 + c % 4;
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<float4*>(&weight_t[j][swizzle(j, ty * 8 + 4 * half)]) =
                    make_float4(score[4 * half][c], score[4 * half + 1][c], score[4 * half + 2][c],
                                score[4 * half + 3][c]);
        }
        __syncwarp();  // the weights of this one are there
                       //! [weights]

        // ---- out += weights V
#pragma unroll 8
        for (int j = 0; j < tile_keys; ++j) {
            float w[8], v[4 * groups];
            read_four(w, &weight_t[j][swizzle(j, ty * 8)]);
            read_four(w + 4, &weight_t[j][swizzle(j, ty * 8 + 4)]);
#pragma unroll
            for (int g = 0; g < groups; ++g)
                read_four(v + 4 * g, &shared.value[j][32 * g + tx * 4]);
#pragma unroll
            for (int r = 0; r < 8; ++r)
#pragma unroll
                for (int c = 0; c < 4 * groups; ++c) out[r][c] = fmaf(w[r], v[c], out[r][c]);
        }
    }
    //! [kernel]

    const auto to = as<T, 4>(p.out);
    bool finite = true;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
        for (int step = 1; step < 8; step *= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], step);
        if (row + r >= p.L) continue;
        const float inverse = sum[r] == 0 ? 0.0f : 1 / sum[r];
#pragma unroll
        for (int c = 0; c < 4 * groups; ++c) {
            const Index e = first_column + c / 4 * 32 + tx * 4 + c % 4;
            if (e >= p.Ev) continue;
            const float x = out[r][c] * inverse;
            finite = finite && fabsf(x) <= 3.4028234e38f;
            to(b, h, row + r, e) = T(x);
        }
        if (tx == 0 && first_column == 0 && !p.logsumexp.absent())
            as<float, 3>(p.logsumexp)(b, h, row + r) =
                sum[r] == 0 ? -CUDART_INF_F : max_score[r] + logf(sum[r]);
    }
    if constexpr (second) {
        __syncwarp();  // the rows' first results are written before their second ones
        for (int r = 0; r < warp_rows && first_row + warp * warp_rows + r < p.L; ++r)
            gpu::careful_row<T>(p, b, h, first_row + warp * warp_rows + r, first_column, Columns);
    }
    return finite;
}

/// Not inlined: the registers of the first time are not to know of the second.
template <class T, int Columns>
__device__ __noinline__ void attend_again(const Problem& p, int vector, Index first_block) {
    attend<T, Columns, true>(p, vector, first_block);
}

template <class T, int Columns>
__global__ void __launch_bounds__(threads, 2)
    fused_kernel(const __grid_constant__ Problem p, int vector, Index first_block) {
    const bool finite = attend<T, Columns, false>(p, vector, first_block);
    if (gpu::can_hide(p) && __syncthreads_or(!finite))
        attend_again<T, Columns>(p, vector, first_block);
}

template <class T, int Columns>
void launch_columns(const Problem& p) {
    const auto four = [](const TensorView& view) {
        const std::uintptr_t bytes = 4 * size_of(view.dtype);
        return reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0 && view.stride[3] == 1 &&
               view.stride[0] % 4 == 0 && view.stride[1] % 4 == 0 && view.stride[2] % 4 == 0;
    };
    const int vector = (four(p.query) ? 1 : 0) | (four(p.key) ? 2 : 0) | (four(p.value) ? 4 : 0);
    const Index row_tiles = (p.L + tile_rows - 1) / tile_rows;
    const Index column_tiles = p.Ev <= Columns ? 1 : (p.Ev + Columns - 1) / Columns;
    gpu::launch<fused_kernel<T, Columns>>(p.B * p.Hq * row_tiles * column_tiles, threads,
                                          int(sizeof(Shared<Columns>)), gpu::stream_of(p), p,
                                          vector);
}

template <class T>
void launch_type(const Problem& p) {
    p.Ev <= 64 ? launch_columns<T, 64>(p) : launch_columns<T, 128>(p);
}

void run_on_device(const Problem& p) {
    switch (p.dtype) {
        case DType::float16:
            return launch_type<float16>(p);
        case DType::bfloat16:
            return launch_type<bfloat16>(p);
        default:
            return launch_type<float>(p);
    }
}

}  // namespace

const Tier tier_cuda_fused = {
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16},
               .max_head_dim = 256,
               .requires_ = "sm_80"},
    .accuracy = {.weight_error = 0x1p-22,  // ex2.approx: 2 ulp
                 .weight_error_f16 = 0x1p-22,
                 .weight_error_bf16 = 0x1p-22},
    .available =
        [] { return gpu::probe(80, reinterpret_cast<const void*>(fused_kernel<float, 64>)); },
    .scratch_bytes = [](const Problem&) { return std::size_t{0}; },
    .run = [](const Problem& p) { gpu::on_device(p, run_on_device); },
};

}  // namespace attn
