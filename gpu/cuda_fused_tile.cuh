/// \file
/// \brief The shared memory of tier `cuda_fused`: where rows lie so that lanes do not meet in its banks,
///        and how tiles come there, of any type and strides.
#pragma once

#include "cuda_mma_careful.cuh"

#include <type_traits>

namespace attn::gpu::fused {

constexpr int threads = 256, warps = threads / 32, warp_rows = 16;
constexpr int tile_rows = 128, tile_keys = 128;
constexpr int chunk = 32;       // columns of query and key in a stage
constexpr int value_keys = 64;  // rows of values in a stage
constexpr float log2_e = 1.44269504f;

struct Stage {
    float query[tile_rows * chunk];  // in the place of both: values (64, Columns)
    float key[tile_keys * chunk];
};
/// For 64 columns `out` stays in registers.
template <int Columns>
constexpr bool out_is_shared = Columns > 64;
template <int Columns>
struct Shared {
    Stage stage[2];
    float weight[warps][warp_rows * value_keys];
    float4 out[out_is_shared<Columns> ? 8 * Columns / 64 : 1][threads];
};

/// Where, in rows of 32 floats, the piece of four floats `piece` of a row lies. A row fills all 32
/// banks, so equal pieces of different rows would meet in four of them. A warp reads such a piece
/// of 2 rows at once (queries, weights) or of 16 (keys): `Turns` neighbours are turned apart.
template <int Turns>
//! [swizzle]
__device__ constexpr int swizzle(int row, int piece) {
    return row * 32 + 4 * (piece ^ (row % Turns * (8 / Turns)));
}
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

/// A matrix that tiles are copied from: rows and columns from `left` on are zeros.
template <class T>
struct Source {
    const T* from;
    Index row_stride, stride, rows_left, columns_left;
    bool vector;  ///< pieces of four can be read at once, and none is cut by the last column
};

/// Starts the copy of `Rows` rows of `Pieces` pieces of four to shared memory; what is not already
/// float32 in whole pieces goes through registers.
/// \param finite  values that are not finite become 0
template <int Rows, int Pieces, int Turns, class T>
__device__ __forceinline__ void copy_tile(float* to, const Source<T>& source, bool finite) {
    constexpr int step = threads / Pieces;
    const int piece = threadIdx.x % Pieces;
    const Index valid = source.columns_left - piece * 4;
#pragma unroll
    for (int i = 0; i < Rows / step; ++i) {
        const int row = threadIdx.x / Pieces + i * step;
        float* at = to + (Turns > 1 ? swizzle<Turns>(row, piece) : 4 * (row * Pieces + piece));
        const T* from = source.from + row * source.row_stride + piece * 4 * source.stride;
        const bool exists = row < source.rows_left && valid > 0;
        if (std::is_same_v<T, float> && source.vector && !finite) {
            copy_async_16(shared_address(at), from, exists);
            continue;
        }
        float4 x = load_four(from, source.stride, exists ? valid : 0, source.vector);
        if (finite) x = only_finite(x);
        *reinterpret_cast<float4*>(at) = x;
    }
}

__device__ void read_four(float* to, const float* from) {
    const float4 x = *reinterpret_cast<const float4*>(from);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

/// What is read must be there from here on: left to itself, the compiler moves each read down to
/// where its result is needed, and waits for every one.
__device__ __forceinline__ void together(float (&x)[4][4]) {
    asm volatile(""
                 : "+f"(x[0][0]), "+f"(x[0][1]), "+f"(x[0][2]), "+f"(x[0][3]), "+f"(x[1][0]),
                   "+f"(x[1][1]), "+f"(x[1][2]), "+f"(x[1][3]), "+f"(x[2][0]), "+f"(x[2][1]),
                   "+f"(x[2][2]), "+f"(x[2][3]), "+f"(x[3][0]), "+f"(x[3][1]), "+f"(x[3][2]),
                   "+f"(x[3][3]));
}

}  // namespace attn::gpu::fused
