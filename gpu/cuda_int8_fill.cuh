/// \file
/// \brief What half of the warps of `cuda_int8`'s kernel for small inputs do: tiles of values and of the
///        mask, of whatever type, come to shared memory.
///
/// Not inlined: the code is needed at several places, and a kernel that runs for a few microseconds
/// waits for every instruction that it runs for the first time.
#pragma once

#include "cuda_int8_rows.cuh"
#include "cuda_mma_copy.cuh"
#include "mask.cuh"

namespace attn::gpu {

/// \brief A tile of values, rounded to 16 bits where they are float32. 16-bit values may come as a
///        group of asynchronous copies.
/// \param from  of the tile's first key
/// \param rows_left  keys that exist, from there on
/// \param wide  16 bytes of a row at a time may be read
template <class Shape>
__device__ __noinline__ void fill_values(unsigned char* tile, const typename Shape::From* from,
                                         Index stride, Index channel_stride, Index rows_left,
                                         int columns, bool wide) {
    using From = typename Shape::From;
    constexpr int pieces = Shape::HeadDim / 8, count = Shape::Keys * pieces / Shape::filling;
    const int thread = static_cast<int>(threadIdx.x) - Shape::computing;
    const auto store = [&](int row, int piece, const float(&x)[8]) {
        uint4 packed;
        auto* pair = reinterpret_cast<std::uint32_t*>(&packed);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            pair[i] = pack_value<typename Shape::Element>(x[2 * i], x[2 * i + 1]);
        *reinterpret_cast<uint4*>(tile + swizzled<Shape::row_bytes>(row, piece)) = packed;
    };
    if constexpr (!std::is_same_v<From, float>) {
        if (wide) {
            copy_tile<Shape::Keys, Shape::HeadDim, Shape::filling>(
                shared_address(tile), reinterpret_cast<const std::uint16_t*>(from), stride,
                rows_left, columns, static_cast<unsigned>(thread));
            return copy_async_commit();
        }
    } else if (wide && columns == Shape::HeadDim) {
        const int row = thread / pieces, piece = thread % pieces;
        constexpr int step = Shape::filling / pieces;
        float4 x[count][2];  // all that the thread reads is under way at once
#pragma unroll
        for (int n = 0; n < count; ++n) {
            const int own = row + n * step;
            const auto* at = reinterpret_cast<const float4*>(
                from + (own < rows_left ? own : 0) * stride + piece * 8);
            x[n][0] = __ldg(at), x[n][1] = __ldg(at + 1);
        }
#pragma unroll
        for (int n = 0; n < count; ++n) {
            const float4 zero{0, 0, 0, 0};
            const bool exists = row + n * step < rows_left;
            const float4 a = exists ? x[n][0] : zero, b = exists ? x[n][1] : zero;
            store(row + n * step, piece, {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w});
        }
        return;
    }
#pragma unroll 1
    for (int index = thread; index < Shape::Keys * pieces; index += Shape::filling) {
        const int row = index / pieces, piece = index % pieces;
        float x[8];
        const bool exists = row < rows_left;
        load_channels<From>(x, from + (exists ? row : 0) * stride, channel_stride, piece * 8,
                            exists ? columns : 0, wide);
        store(row, piece, x);
    }
}

/// \brief A tile of the mask as what is added to scores: -inf for what is hidden, by it or by the
///        causal rule.
/// \param tile  (rows, mask_row)
template <class Shape>
__device__ __noinline__ void fill_mask(float* tile, const Problem& p, Index b, Index h,
                                       Index first_row, Index first_key) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 - Shape::Warps;
    visit_mask_element(p.mask.dtype, [&]<class Element>(Element) {
        const auto* const mask =
            static_cast<const Element*>(p.mask.data) + b * p.mask.stride[0] + h * p.mask.stride[1];
#pragma unroll 8
        for (int row = warp; row < Shape::rows; row += Shape::filling / 32) {
            const Index i = first_row + row < p.L ? first_row + row : p.L - 1;
            const Index visible = p.visible(i) - first_key;
#pragma unroll
            for (int key = lane; key < Shape::Keys; key += 32)
                tile[row * Shape::mask_row + key] =
                    key < visible
                        ? mask_value(
                              mask[i * p.mask.stride[2] + (first_key + key) * p.mask.stride[3]])
                        : -CUDART_INF_F;
        }
    });
}

}  // namespace attn::gpu
