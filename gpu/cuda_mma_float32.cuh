/// \file
/// \brief What the two float32 kernels of `cuda_mma` share: the three bfloat16 parts of a float32,
///        which of their products are kept, and how rows are written.
///
/// A float32 has 24 significant bits and is the sum of three bfloat16 of 8 bits each,
/// x = x0 + x1 + x2 with |x1| <= 2^-8 |x| (rounding to nearest) and |x2| <= 2^-16 |x|. Of the nine
/// products of two such sums six are kept, smallest first:
///
///     x y = x0 y2 + x1 y1 + x2 y0 + x0 y1 + x1 y0 + x0 y0      + error <= (2^-23 + 2^-32) |x y|
///
/// (left out: x1 y2 + x2 y1 and x2 y2; the three parts themselves are exact.) Each product of two
/// bfloat16 is exact in float32. The tensor cores add in float32 but truncate: the small products
/// are summed first, while the accumulator is small; no chain of x0 y0 is longer than 64 columns or
/// keys, four steps of 16, each of which loses at most 2^-23 of what is there; chains are added by
/// ordinary, rounding additions, however many tiles of keys there are.
///
/// Weights, exp(score - max), are split the same way in registers.
///
/// \par Source
/// Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for
/// higher-precision computations".
#pragma once

#include "cuda_mma_careful.cuh"
#include "cuda_mma_tile.cuh"

namespace attn::gpu {

constexpr int parts = 3;
/// \brief The small products (part of a, part of b), smallest first.
__device__ constexpr int small_a[5] = {0, 1, 2, 0, 1}, small_b[5] = {2, 1, 0, 1, 0};

/// \brief A float32 of any value as the bits of three bfloat16. Infinity and NaN live in the first
///        part alone: the rest would be inf - inf.
__device__ inline void split_element(float x, std::uint16_t (&part)[parts]) {
    bfloat16 high(x);
    const bool finite = fabsf(x) <= 3.4028234e38f;
    if (finite && fabsf(high) > 3.4028234e38f) high.bits -= 1;  // rounded up to infinity
    const bfloat16 middle(finite ? x - high : 0.0f);
    const bfloat16 low(finite ? x - high - middle : 0.0f);
    part[0] = high.bits, part[1] = middle.bits, part[2] = low.bits;
}

/// \brief Two weights as three pairs of bfloat16.
__device__ inline void split_pair(float x, float y, std::uint32_t (&part)[parts]) {
#pragma unroll
    for (int i = 0; i < parts; ++i) {
        part[i] = pack<bfloat16>(x, y);
        x -= __uint_as_float(part[i] << 16);
        y -= __uint_as_float(part[i] & 0xffff0000u);
    }
}

/// \brief Divides a warp's rows by their sums and writes them.
/// \param second  the second pass: rows that see a value that is not finite are computed key by key
/// \return whether this thread's results are all finite
template <class Shape, bool second, class Rows>
__device__ __forceinline__ bool write_float32_rows(Rows& rows, const Problem& problem, Index b,
                                                   Index h, Index warp_row, float unit) {
    const int lane = threadIdx.x % 32;
    rows.finish_sums();
    bool finite = true;
    std::uint32_t bad_rows = 0;  // bit 2 m + half
    const auto out = as<float, 4>(problem.out);
#pragma unroll
    for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Index row = warp_row + m * 16 + half * 8 + lane / 4;
            if (row >= problem.L) continue;
            const float sum = rows.sum[m][half], inverse = sum == 0 ? 0.0f : 1 / sum;
            float check = 0;  // NaN if any element is NaN or infinite
#pragma unroll
            for (int n = 0; n < Shape::HeadDim / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const Index e = 8 * n + lane % 4 * 2 + i;
                    const float x = rows.out[m][n][2 * half + i] * inverse;
                    check += 0 * x;
                    if (e < problem.Ev) out(b, h, row, e) = x;
                }
            finite = finite && check == 0;
            if (check != 0 || check != check) bad_rows |= 1u << (2 * m + half);
            if (!problem.logsumexp.absent() && lane % 4 == 0)
                as<float, 3>(problem.logsumexp)(b, h, row) = rows.logsumexp(m, half, unit);
        }
    if constexpr (second) {
        __syncwarp();  // the rows' first results are written before their second ones
        for (int row = 0; row < Shape::warp_rows; ++row) {
            // A part of an infinite query or key is 0, and their product NaN: such rows, too, are
            // computed key by key.
            const bool mine = bad_rows >> (row / 16 * 2 + row / 8 % 2) & 1;
            const bool bad = __ballot_sync(~0u, mine) >> (row % 8 * 4) & 0xf;
            if (warp_row + row < problem.L)
                careful_row_apart<float>(problem, b, h, warp_row + row, bad);
        }
    }
    return finite;
}

}  // namespace attn::gpu
