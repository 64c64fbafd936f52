/// \file
/// \brief Tier `cuda_fused`: shared-memory tiles and the online softmax, in one kernel.
///
/// Builds on `cuda_simple`. New here, and nothing else: the L x S matrix never leaves the chip. A
/// block owns 128 query rows and walks over the keys in tiles of 128; scores live in registers,
/// pass as weights through shared memory, and the running maximum and sum of each row (\ref
/// attn::RowState) make the result independent of what is still to come.
///
///     shared memory  stage   (2, 2, 128, 32)  two stages: a chunk of 32 columns of the query tile
///                                             and of the key tile, or 64 rows of values
///                    weight  (8, 2, 16, 32)   of each warp's 16 rows, for 64 keys at a time
///                    out     (128, 128)       for 128 columns; each thread has places of its own
///     registers      score   (8, 8)           of a thread: 8 rows x 8 keys
///                    tile_out (8, Columns/16) of a thread: what a tile of keys adds to out
///
/// While one stage is multiplied, `cp.async` fills the other: one barrier for 2048 or 4096
/// multiply-adds of a thread.
///
/// Why 8 x 8: four columns of a product read 8 + 8 vectors of 16 bytes for 256 multiply-adds. A
/// multiprocessor reads 128 bytes a cycle and does 128 multiply-adds; of a warp's vectors those of
/// the queries have 2 different addresses (1 cycle) and those of the keys 16 (2 cycles): 8 + 16
/// cycles of shared memory against 256 x 32 / 128 = 64 cycles of arithmetic.
///
/// Bank conflicts: see `swizzle` (cuda_fused_tile.cuh).
///
/// Occupancy: 96 KB of shared memory for 64 columns, 160 KB for 128 (a device with less takes 64 at
/// a time), and at most 255 registers for 256 threads: one block, 8 warps, on a multiprocessor.
/// That is enough because a thread has 64 independent multiply-adds in flight. Limits: E and Ev up
/// to 256; Ev above 128 is split over blocks, which then compute the scores again.
///
/// Taught in \ref tier_cuda_fused.
///
/// \par Source
/// Dao et al. 2022 (FlashAttention), algorithm 1; the loop order of FlashAttention-2.
#include "cuda_fused_tile.cuh"
#include "device.hpp"

#include "registry.hpp"

namespace attn {
namespace {

using namespace gpu::fused;
using gpu::exp2_fast;

/// \param vector  bit 0, 1, 2: query, key, value can be read four elements at a time
/// \param second  values that are not finite are read as 0: see cuda_mma_careful.cuh
/// \return whether this thread's results are all finite
template <class T, int Columns>
__device__ __forceinline__ bool attend(const Problem& p, int vector, Index first_block,
                                       bool second) {
    extern __shared__ __align__(128) unsigned char memory[];
    auto& shared = *reinterpret_cast<Shared<Columns>*>(memory);
    constexpr int groups = Columns / 64;  // of 4 columns per thread
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tx = lane % 16,
              ty = lane / 16;  // keys tx + 16 c, columns 4 tx + 64 g ..; rows 2 r + ty

    const Index row_tiles = (p.L + tile_rows - 1) / tile_rows;
    const Index column_tiles = p.Ev <= Columns ? 1 : (p.Ev + Columns - 1) / Columns;
    Index index = first_block + blockIdx.x;
    const Index first_column = index % column_tiles * Columns;
    // The last rows come first: under a causal rule they have most keys.
    const Index first_row = (row_tiles - 1 - (index /= column_tiles) % row_tiles) * tile_rows;
    const Index h = (index /= row_tiles) % p.Hq, b = index / p.Hq, hk = p.key_head(h);
    const T* query = &as<const T, 4>(p.query)(b, h, first_row, 0);
    const T* key = &as<const T, 4>(p.key)(b, hk, 0, 0);
    const T* value = &as<const T, 4>(p.value)(b, hk, 0, first_column);
    const Index warp_row = first_row + warp * warp_rows;

    // Of a thread: in its own places of shared memory, or in registers.
    constexpr bool is_shared = out_is_shared<Columns>;
    float out[is_shared ? 1 : 8][4 * groups] = {};
    if constexpr (is_shared)
#pragma unroll
        for (auto& places : shared.out) places[threadIdx.x] = make_float4(0, 0, 0, 0);
    float max_score[8], sum[8] = {};  // sum of this thread's keys
    for (float& m : max_score) m = -CUDART_INF_F;

    const Index last_row = (first_row + tile_rows < p.L ? first_row + tile_rows : p.L) - 1;
    const Index keys = p.visible(last_row);
    const Index warp_keys =
        warp_row < p.L ? p.visible(min(warp_row + warp_rows, p.L) - 1) : Index{0};
    const int chunks = p.E > chunk ? static_cast<int>((p.E + chunk - 1) / chunk) : 1;
    constexpr int value_steps = tile_keys / value_keys;

    // A tile of keys is `chunks` steps of queries and keys, then two of values; the stages
    // alternate.
    int filled = 0;
    const auto start_copy = [&](Index first_key, int step) {
        if (step == chunks + value_steps) first_key += tile_keys, step = 0;
        Stage& stage = shared.stage[filled++ % 2];
        if (first_key < keys && step < chunks) {
            const Index e = step * chunk;
            copy_tile<tile_rows, chunk / 4, 2>(
                stage.query,
                Source<T>{query + e * p.query.stride[3], p.query.stride[2], p.query.stride[3],
                          p.L - first_row, p.E - e, (vector & 1) != 0},
                false);
            copy_tile<tile_keys, chunk / 4, 8>(
                stage.key,
                Source<T>{key + first_key * p.key.stride[2] + e * p.key.stride[3], p.key.stride[2],
                          p.key.stride[3], p.S - first_key, p.E - e, (vector & 2) != 0},
                false);
        } else if (first_key < keys) {
            const Index j = first_key + (step - chunks) * value_keys;
            copy_tile<value_keys, Columns / 4, 1>(
                stage.query,
                Source<T>{value + j * p.value.stride[2], p.value.stride[2], p.value.stride[3],
                          p.S - j, p.Ev - first_column, (vector & 4) != 0},
                second);
        }
        gpu::copy_async_commit();
    };
    int used = 0;
    const auto next_stage = [&](Index first_key, int step) -> Stage& {
        gpu::copy_async_wait<0>();
        __syncthreads();  // this stage has arrived, and the other one has been read
        start_copy(first_key, step + 1);
        return shared.stage[used++ % 2];
    };

    start_copy(0, 0);
    for (Index first_key = 0; first_key < keys; first_key += tile_keys) {
        // ---- score = Q K^T, 32 columns at a time
        const bool works = first_key < warp_keys;
        float score[8][8] = {};
        for (int step = 0; step < chunks; ++step) {
            Stage& stage = next_stage(first_key, step);
            if (!works) continue;
#pragma unroll 1
            //! [product]
            for (int piece = 0; piece < chunk / 4; ++piece) {
                float q[8][4], k[4][4];
#pragma unroll
                for (int r = 0; r < 8; ++r)
                    read_four(q[r],
                              &stage.query[swizzle<2>(warp * warp_rows + ty, piece) + r * 64]);
#pragma unroll
                for (int half = 0; half < 8; half += 4) {  // 128 multiply-adds for one wait
#pragma unroll
                    for (int c = 0; c < 4; ++c)
                        read_four(k[c], &stage.key[swizzle<8>(tx, piece) + (half + c) * 512]);
                    together(k);
#pragma unroll
                    for (int e = 0; e < 4; ++e)
#pragma unroll
                        for (int r = 0; r < 8; ++r)
#pragma unroll
                            for (int c = 0; c < 4; ++c)
                                score[r][half + c] = fmaf(q[r][e], k[c][e], score[r][half + c]);
                }
            }
            //! [product]
        }

        // ---- scale and mask; only a mask, the diagonal and the end of the keys need a look. The
        //      warp reads its part of the mask along the keys, into the place of its weights.
        const float scale = static_cast<float>(p.scale);
        float* weight = shared.weight[warp];
        const auto weight_at = [&](int r, int c) -> float& {  // of the thread's row r and key c
            return weight[c / 2 * warp_rows * 32 + swizzle<2>(2 * r + ty, tx / 4 + c % 2 * 4) +
                          tx % 4];
        };
        if (works && p.mask_kind != MaskKind::none) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {  // keys 32 pair .. 32 pair + 31
                __syncwarp();                       // the place has been read
#pragma unroll 1
                for (int r = 0; r < warp_rows; ++r)
                    weight[swizzle<2>(r, lane / 4) + lane % 4] =
                        warp_row + r < p.L ? gpu::mask_at<float>(p, b, h, warp_row + r,
                                                                 first_key + 32 * pair + lane)
                                           : 0;
                __syncwarp();  // the mask is there
#pragma unroll
                for (int c = 2 * pair; c < 2 * pair + 2; ++c)
#pragma unroll
                    for (int r = 0; r < 8; ++r) {
                        const float mask = weight_at(r, c % 2);
                        score[r][c] = mask == -CUDART_INF_F ? mask : fmaf(score[r][c], scale, mask);
                    }
            }
        } else if (works) {
#pragma unroll
            for (int r = 0; r < 8; ++r) {
                const Index left = p.visible(warp_row + 2 * r + ty) - first_key;
                const int limit = left < tile_keys ? static_cast<int>(left) : tile_keys;
#pragma unroll
                for (int c = 0; c < 8; ++c)
                    score[r][c] = tx + 16 * c < limit ? score[r][c] * scale : -CUDART_INF_F;
            }
        }

        // ---- online softmax; scores become weights
        float shrinks[8];  // of the tiles before this one
#pragma unroll
        for (float& shrink : shrinks) shrink = 1;
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            if (!works) break;
            //! [online]
            RowState<float> state{max_score[r], sum[r]};
            float largest = score[r][0];
#pragma unroll
            for (int c = 1; c < 8; ++c) largest = fmaxf(largest, score[r][c]);
#pragma unroll
            for (int step = 1; step < 16; step *= 2)
                largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
            if (largest > state.max) {
                const float shrink = exp2_fast((state.max - largest) * log2_e);
                state.max = largest;
                state.sum *= shrink;
#pragma unroll
                for (int c = 0; c < 4 * groups; ++c)
                    if constexpr (!is_shared) out[r][c] *= shrink;
                shrinks[r] = shrink;
            }
            const float top = state.max == -CUDART_INF_F ? 0.0f : state.max;
            //! [online]
            float tile_sum = 0;
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                score[r][c] = exp2_fast((score[r][c] - top) * log2_e);
                tile_sum += score[r][c];
            }
            max_score[r] = state.max;
            sum[r] = state.sum + tile_sum;
        }

        // ---- out += weights V. The tile has a sum of its own: of S equal terms, each rounded the
        //      same way, one long sum would drift.
        float tile_out[8][4 * groups] = {};
#pragma unroll
        for (int step = 0; step < value_steps; ++step) {
            const float* values = next_stage(first_key, chunks + step).query;
            if (first_key + step * value_keys >= warp_keys) continue;
            //! [weights]
            __syncwarp();  // the weights of the last step have been read
#pragma unroll
            for (int c = 0; c < value_keys / 16; ++c)
#pragma unroll
                for (int r = 0; r < 8; ++r) weight_at(r, c) = score[r][4 * step + c];
            __syncwarp();  // the weights of this one are there
                           //! [weights]
#pragma unroll 1
            for (int piece = 0; piece < value_keys / 4; ++piece) {
                float v[4][4 * groups], w[8][4];
                const float* weights =
                    &weight[piece / 8 * warp_rows * 32 + swizzle<2>(ty, piece % 8)];
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int g = 0; g < groups; ++g)
                        read_four(&v[j][4 * g],
                                  &values[(piece * 4 + j) * Columns + 64 * g + 4 * tx]);
#pragma unroll
                for (int r = 0; r < 8; ++r) read_four(w[r], weights + r * 64);
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int r = 0; r < 8; ++r)
#pragma unroll
                        for (int c = 0; c < 4 * groups; ++c)
                            tile_out[r][c] = fmaf(w[r][j], v[j][c], tile_out[r][c]);
            }
        }
        if (!works) continue;
#pragma unroll
        for (int r = 0; r < 8; ++r)
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                float* sum = &tile_out[r][4 * g];
                if constexpr (is_shared) {
                    float4& place = shared.out[r * groups + g][threadIdx.x];
                    const float shrink = shrinks[r];
                    place =
                        make_float4(fmaf(place.x, shrink, sum[0]), fmaf(place.y, shrink, sum[1]),
                                    fmaf(place.z, shrink, sum[2]), fmaf(place.w, shrink, sum[3]));
                } else {
#pragma unroll
                    for (int c = 0; c < 4; ++c) out[r][4 * g + c] += sum[c];
                }
            }
    }

    const auto to = as<T, 4>(p.out);
    bool finite = true;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
        for (int step = 1; step < 16; step *= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], step);
        const Index row = warp_row + 2 * r + ty;
        if (row >= p.L) continue;
        const float inverse = sum[r] == 0 ? 0.0f : 1 / sum[r];
        float row_out[4 * groups];
#pragma unroll
        for (int g = 0; g < groups; ++g)
            if constexpr (is_shared)
                read_four(&row_out[4 * g],
                          reinterpret_cast<const float*>(&shared.out[r * groups + g][threadIdx.x]));
            else
                for (int c = 0; c < 4; ++c) row_out[4 * g + c] = out[r][4 * g + c];
#pragma unroll
        for (int c = 0; c < 4 * groups; ++c) {
            const Index e = first_column + c / 4 * 64 + tx * 4 + c % 4;
            if (e >= p.Ev) continue;
            const float x = row_out[c] * inverse;
            finite = finite && fabsf(x) <= 3.4028234e38f;
            to(b, h, row, e) = T(x);
        }
        if (tx == 0 && first_column == 0 && !p.logsumexp.absent())
            as<float, 3>(p.logsumexp)(b, h, row) =
                sum[r] == 0 ? -CUDART_INF_F : max_score[r] + logf(sum[r]);
    }
    if (second) {
        __syncwarp();  // the rows' first results are written before their second ones
        for (int r = 0; r < warp_rows && warp_row + r < p.L; ++r)
            gpu::careful_row<T>(p, b, h, warp_row + r, first_column, Columns);
    }
    return finite;
}

template <class T, int Columns>
__global__ void __launch_bounds__(threads, 1)
    fused_kernel(const __grid_constant__ Problem p, int vector, Index first_block) {
    for (int pass = 0; pass < 2; ++pass) {
        const bool finite = attend<T, Columns>(p, vector, first_block, pass == 1);
        if (!gpu::can_hide(p) || !__syncthreads_or(!finite)) return;
    }
}

template <class T, int Columns>
void launch_columns(const Problem& p) {
    const auto four = [](const TensorView& view) {
        const std::uintptr_t bytes = 4 * size_of(view.dtype);
        return reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0 && view.stride[3] == 1 &&
               view.shape[3] % 4 == 0 && view.stride[0] % 4 == 0 && view.stride[1] % 4 == 0 &&
               view.stride[2] % 4 == 0;
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
    const bool narrow = p.Ev <= 64 || gpu::shared_memory() < int(sizeof(Shared<128>));
    narrow ? launch_columns<T, 64>(p) : launch_columns<T, 128>(p);
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
