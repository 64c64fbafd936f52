/// \file
/// \brief What the kernel of cuda_int8_wgmma.cuh hides of a tile's scores, by bits, by the causal rule
///        or by a mask of bytes, and what an additive mask adds to them.
#pragma once

#include "cuda_int8_pipeline.cuh"

namespace attn::gpu {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief Hides scores of 64 keys by bits, for one row of a lane.
/// \param bits  16 of them, in the order of `mask_bit`
/// \param first  of the tile's blocks of 8 keys
template <int Blocks>
__device__ __forceinline__ void hide_by(float (&score)[Blocks][4], std::uint32_t bits, int first,
                                        int half) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
            hide_unless(score[first + n][2 * half + i], bits, 1u << (2 * n + i));
}
/// \brief The same by the bits of a tile's mask, for the two rows of a lane.
/// \param mask  address in shared memory: (rows, 16) bytes, of 128 keys
/// \param tile  number of the tile of keys
template <class Shape>
__device__ inline void hide_by_bits(float (&score)[Shape::Keys / 8][4], std::uint32_t mask,
                                    int warp, int tile) {
    const int lane = fresh_lane();
    if constexpr (Shape::Keys == 64) mask += tile % 2 * 8;
    const std::uint32_t own = mask + (warp * 16 + c_row(lane, 0)) * Shape::mask_row_bytes +
                              lane % 4 * 2;  // see `mask_bit`
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int block = 0; block < Shape::Keys / 64; ++block)
            hide_by(score, load_two_bytes(own + half * 8 * Shape::mask_row_bytes + block * 8),
                    8 * block, half);
}
/// \brief Hides what lies behind the causal rule, or behind the last key, for the two rows of a lane.
/// \param row  the first one
/// \param key  the tile's first one
template <class Shape>
__device__ inline void hide_behind(float (&score)[Shape::Keys / 8][4], const Problem& p, int row,
                                   int key) {
    const int column = c_column(fresh_lane(), 0), last = static_cast<int>(p.S) - key;
    // What row 0 may see of the tile, and more; not so much that a sum overflows.
    const int of_first =
        static_cast<int>(p.diagonal - key < Shape::Keys ? p.diagonal - key : Shape::Keys);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int left = min(row + half * 8 + 1 + of_first, last) - column;
#pragma unroll
        for (int block = 0; block < Shape::Keys / 64; ++block) {
            const int seen =
                max(min(left - block * 64, 64), 0);           // of 64 keys from the lane's first
            const int own = seen / 8 * 2 + min(seen % 8, 2);  // of its own among them
            hide_by(score, (1u << own) - 1, 8 * block, half);
        }
    }
}

/// \brief Which of 16 bytes are not 0: a bit for each, the first one lowest.
__device__ inline unsigned set_bytes(uint4 raw) {
    if (((raw.x | raw.y | raw.z | raw.w) & 0xfefefefe) != 0)  // not as a compiler writes `bool`
        raw = {__vsetne4(raw.x, 0), __vsetne4(raw.y, 0), __vsetne4(raw.z, 0), __vsetne4(raw.w, 0)};
    constexpr unsigned low = 0x08040201, high = 0x80402010;  // a byte's place among eight
    return __dp4a(raw.y, high, __dp4a(raw.x, low, 0u)) | __dp4a(raw.w, high, __dp4a(raw.z, low, 0u))
                                                             << 8;
}

/// \brief The mask of a tile, if it is dense, for the two rows of a lane: hides scores, or scales them
///        and is added.
/// \param mask  shared memory: (planes, rows, 64) bytes or 16-bit elements, (planes, rows, 32) floats
template <class Shape>
__device__ inline void apply_dense_mask(float (&score)[Shape::Keys / 8][4],
                                        const unsigned char* mask, int warp,
                                        const float (&factor)[2]) {
    const int lane = fresh_lane(), t = lane % 4;
#pragma unroll
    for (int plane = 0; plane < Shape::mask_planes; ++plane, mask += Shape::mask_plane_bytes) {
        if constexpr (Shape::floats) {
            const std::uint32_t own =
                shared_address(mask) + swizzled<128>(warp * 16 + c_row(lane, 0), t / 2) + t % 2 * 8;
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float2 two = load_two_floats((own ^ (n * 32)) + half * 8 * 128);
                    float* pair = &score[4 * plane + n][2 * half];
                    pair[0] = fmaf(pair[0], factor[half], two.x);
                    pair[1] = fmaf(pair[1], factor[half], two.y);
                }
        } else if constexpr (Shape::natural) {
            const std::uint32_t own =
                shared_address(mask) +
                swizzled<128>(warp * 16 + a_lane_row(lane), a_lane_piece(lane));
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                std::uint32_t two[4];  // rows g, g + 8 of columns 16 n .., then of 16 n + 8 ..
                load_matrices(two, own ^ (n * 32));
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float* pair = &score[8 * plane + 2 * n + i / 2][i % 2 * 2];
                    pair[0] =
                        fmaf(pair[0], factor[i % 2], low_float<typename Shape::Element>(two[i]));
                    pair[1] =
                        fmaf(pair[1], factor[i % 2], high_float<typename Shape::Element>(two[i]));
                }
            }
        } else {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // The lane reads keys 16 t .. 16 t + 15 of the 64, and needs 8 n + 2 t and the next.
                const unsigned own = set_bytes(*reinterpret_cast<const uint4*>(
                                         mask + (warp * 16 + c_row(lane, 2 * half)) * 64 + 16 * t))
                                     << (t % 2 * 16);
                const unsigned pair = own | __shfl_xor_sync(~0u, own, 1);
                const unsigned other = __shfl_xor_sync(~0u, pair, 2);
                const unsigned word[] = {(t < 2 ? pair : other) >> (2 * t),
                                         (t < 2 ? other : pair) >> (2 * t)};
#pragma unroll
                for (int n = 0; n < 8; ++n) {
                    const unsigned first = 1u << (8 * (n % 4));
                    float* two = &score[8 * plane + n][2 * half];
                    if ((word[n / 4] & first) == 0) two[0] = -CUDART_INF_F;
                    if ((word[n / 4] & 2 * first) == 0) two[1] = -CUDART_INF_F;
                }
            }
        }
    }
}

#endif  // sm_90a

}  // namespace attn::gpu
