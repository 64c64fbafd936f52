/// \file
/// \brief The steps of one warp in the tensor-core kernels, each on one tile of keys:
///        scores = Q K^T, the mask, the online softmax, out += weights V.
///
/// A warp owns 16 x MTiles query rows and sees all keys. Nothing but the two products' operands
/// goes through shared memory: the C fragment of the scores is, rounded to 16 bits, already the A
/// fragment of the second product (columns 2t, 2t+1 of two neighbouring (16, 8) tiles).
///
/// \par Source
/// Dao 2023 (FlashAttention-2), section 3.3, for the split of the work over warps.
#pragma once

#include "cuda_mma_copy.cuh"

#include <math_constants.h>

#include <limits>

namespace attn::gpu {

/// \brief Sizes of a kernel. HeadDim is E and Ev rounded up.
template <class T, int HeadDim_, int Warps_, int MTiles_, int Keys_, bool QueryInRegisters_>
struct MmaShape {
    using Element = T;
    static constexpr int HeadDim = HeadDim_;  ///< columns computed
    static constexpr int Warps = Warps_;
    static constexpr int MTiles = MTiles_;  ///< (16, .) tiles of rows of a warp
    static constexpr int Keys = Keys_;      ///< keys in a tile
    static constexpr bool QueryInRegisters = QueryInRegisters_;
    /// There are some to keep what is the same for all tiles in.
    static constexpr bool spare_registers = HeadDim <= 64 || Keys <= 32;
    static constexpr int threads = 32 * Warps;
    static constexpr int warp_rows = 16 * MTiles;
    static constexpr int rows = warp_rows * Warps;
    static constexpr int row_bytes = 2 * HeadDim;
    static constexpr int query_bytes = rows * row_bytes;
    static constexpr int tile_bytes = Keys * row_bytes;
    static constexpr int plane_bytes = 0;  ///< tiles in planes of 64 columns; 0: whole rows
};

/// \brief Columns 16 k .. 16 k + 15 of a swizzled row, from the address of its first ones.
template <class Shape>
__device__ inline std::uint32_t columns_at(std::uint32_t row, int k) {
    if constexpr (Shape::plane_bytes == 0) return row ^ (k * 32);
    return (row ^ (k % 4 * 32)) + k / 4 * Shape::plane_bytes;
}

/// \brief Which rows this block has. Reads the block's number anew at each call, so that the
///        place need not stay in registers across the loop.
template <class Shape>
struct Place {
    Index b, h, first_row;

    __device__ Place(const MmaProblem& p, Index first_block) {
        unsigned number;
        asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(number));
        const Index block = first_block + number;
        // Under a causal rule the last tile of a head has most keys. Long tiles first, so that short
        // ones fill the gaps at the end: of as many heads at a time as the L2 cache holds.
        const Index at_once = p.heads_in_turn;
        Index head, turn;
        if (at_once == 1) {  // the usual case, with a division less
            head = block / p.query_tiles;
            turn = block - head * p.query_tiles;
        } else {
            const Index heads = p.problem.B * p.problem.Hq;
            const Index first = block / (at_once * p.query_tiles) * at_once;
            const Index count = heads - first < at_once ? heads - first : at_once;
            const Index within = block - first * p.query_tiles;
            turn = within / count;
            head = first + within - turn * count;
        }
        const int tile = p.query_tiles - 1 - static_cast<int>(turn);
        first_row = static_cast<Index>(tile) * Shape::rows;
        b = head / p.problem.Hq;
        h = head - b * p.problem.Hq;
    }
};

/// \brief A warp's query rows as A fragments: read from shared memory at each use, or once and
/// kept.
template <class Shape, bool InRegisters = Shape::QueryInRegisters>
struct QueryFragments {
    std::uint32_t address;  ///< this lane's, in the first row tile

    __device__ explicit QueryFragments(std::uint32_t lane_address) : address(lane_address) {}
    /// \brief Row tile m, columns 16 k .. 16 k + 15 (two pieces: XOR steps the swizzle).
    __device__ void get(int m, int k, std::uint32_t (&a)[4]) const {
        load_matrices(a, (address ^ (k * 32)) + m * 16 * Shape::row_bytes);
    }
};
template <class Shape>
struct QueryFragments<Shape, true> {
    std::uint32_t kept[Shape::MTiles][Shape::HeadDim / 16][4];

    __device__ explicit QueryFragments(std::uint32_t lane_address) {
        const QueryFragments<Shape, false> source(lane_address);
#pragma unroll
        for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
            for (int k = 0; k < Shape::HeadDim / 16; ++k) source.get(m, k, kept[m][k]);
    }
    __device__ void get(int m, int k, std::uint32_t (&a)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = kept[m][k][i];
    }
};

/// \brief A warp's rows: weighted sums of values, running maximum and sum.
///
/// weight = 2^((score - max) * unit): `unit`, see `of_row`, turns scores into units of log 2, so that
/// exp is one `ex2`. One `fma` before it, score * unit - max * unit, does for the difference and the
/// product: what is rounded, max * unit, is the same for all weights of a row, a factor that leaves
/// its result alone. Not so for a maximum that is `far` away (of scores around 1e18 the rounding is
/// more than all of exp's range): then the difference is taken first.
template <class Shape>
struct WarpRows {
    using T = typename Shape::Element;
    static constexpr int MT = Shape::MTiles, HD = Shape::HeadDim, KT = Shape::Keys;
    static constexpr int NS = KT / 8, NO = HD / 8;  // (16, 8) tiles of scores and of out
    using Scores = float[MT][NS][4];
    using Weights = std::uint32_t[MT][NS][2];

    float out[MT][NO][4];  // before division by sum
    float max[MT][2];      // of rows g and g + 8
    float sum[MT][2];      // of this lane's columns
    bool far;              // some row of the warp `is_far`

    static constexpr float log2_e = 1.44269504f, ln_2 = 0.69314718f;
    /// Up to it, max * unit is rounded by at most 2^-14: the maximum's weight is still 1 in 16 bits.
    static constexpr float far_max = 1024;
    /// More elements of `out` leave no registers for it.
    static constexpr bool one_step = MT * HD <= 128;
    /// Maximum of a row that has seen no key: no score is lower, and -inf less this is still -inf.
    static constexpr float lowest = std::numeric_limits<float>::lowest();

    __device__ void clear() {
        far = true;  // no row has seen a key
#pragma unroll
        for (int m = 0; m < MT; ++m) {
            max[m][0] = max[m][1] = lowest;
            sum[m][0] = sum[m][1] = 0;
#pragma unroll
            for (int n = 0; n < NO; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) out[m][n][i] = 0;
        }
    }

    /// \brief score = Q K^T.
    /// \param key  this lane's address in the key tile
    template <class Query>
    static __device__ void multiply(Scores& score, const Query& query, std::uint32_t key) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < NS; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) score[m][n][i] = 0;
#pragma unroll
        //! [multiply]
        for (int k = 0; k < HD / 16; ++k) {
            std::uint32_t a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; ++m) query.get(m, k, a[m]);
#pragma unroll
            for (int n = 0; n < NS / 2; ++n) {
                std::uint32_t b[4];  // keys 16 n .. 16 n + 15
                load_matrices(b, columns_at<Shape>(key, k) + n * 16 * Shape::row_bytes);
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    multiply_add<T>(score[m][2 * n], a[m], b[0], b[1]);
                    multiply_add<T>(score[m][2 * n + 1], a[m], b[2], b[3]);
                    //! [multiply]
                }
            }
        }
    }

    /// \brief Raises the maxima to cover a tile's scores. A maximum moves only when it would grow
    ///        by more than 2^8: weights up to 256 harm neither float32 nor 16-bit formats, and most
    ///        tiles then leave the sums alone. Whether a row moves depends on that row alone.
    template <class Unit>
    __device__ void grow(const Scores& score, const Unit& unit) {
        raise(
            score, unit, [](int, int) { return false; },
            [&](int m, int half, float shrink) {
#pragma unroll
                for (int n = 0; n < NO; ++n) {
                    out[m][n][2 * half] *= shrink;
                    out[m][n][2 * half + 1] *= shrink;
                }
            });
    }
    /// \brief The same for maxima and sums.
    /// \param held(m, half)  the row's maximum stays where it is
    /// \param then(m, half, shrink)  is to multiply the row's `out` by `shrink`
    /// \return false if no row of the warp moves: `then` was not called
    template <class Unit, class Held, class Then>
    __device__ bool raise(const Scores& score, const Unit& unit, Held&& held, Then&& then) {
        constexpr float slack = 8;
        float largest[MT][2];  // of this lane's columns
        bool grows = false;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float even = score[m][0][2 * half], odd = score[m][0][2 * half + 1];
#pragma unroll
                for (int n = 1; n < NS; ++n) {
                    even = fmaxf(even, score[m][n][2 * half]);
                    odd = fmaxf(odd, score[m][n][2 * half + 1]);
                }
                const float x = fmaxf(even, odd);
                largest[m][half] = x;
                grows =
                    grows || (!held(m, half) && (x - max[m][half]) * of_row(unit, m, half) > slack);
            }
        if (!__any_sync(~0u, grows)) return false;
        far = false;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float x = largest[m][half];
                x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
                x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
                const float own = of_row(unit, m, half);
                const bool moves = !held(m, half) && (x - max[m][half]) * own > slack;
                const float shrink = moves ? exp2_fast((max[m][half] - x) * own) : 1.0f;
                if (moves) max[m][half] = x;
                sum[m][half] =
                    __fmul_rn(sum[m][half], shrink);  // never half of an fma: same bits anywhere
                far = far || is_far(own, m, half);
                then(m, half, shrink);
            }
        far = __any_sync(~0u, far);
        return true;
    }

    /// \brief 2^(score - max).
    static __device__ float weight(float score, float unit, float max) {
        return exp2_fast((score - max) * unit);
    }
    /// \brief Is the maximum of the lane's row (m, half) too far from 0 for one `fma`?
    __device__ bool is_far(float unit, int m, int half) const {
        return !(fabsf(max[m][half] * unit) <= far_max);
    }
    /// \brief Takes far maxima from a tile's scores, see `weight`.
    template <class Unit>
    __device__ void approach(Scores& score, const Unit& unit) const {
        if constexpr (one_step) {
            if (!far) return;
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    if (!is_far(of_row(unit, m, half), m, half)) continue;
#pragma unroll
                    for (int n = 0; n < NS; ++n) {
                        score[m][n][2 * half] -= max[m][half];
                        score[m][n][2 * half + 1] -= max[m][half];
                    }
                }
        }
    }

    //! [weigh]
    /// \brief 2^(score - max) of the lane's row (m, half); a far maximum has been taken from the score.
    /// \tparam near  the caller knows that no row of the warp `is_far`
    template <bool near = false>
    __device__ float weight(float score, float unit, int m, int half) const {
        if constexpr (!one_step) return weight(score, unit, max[m][half]);
        const bool taken = !near && is_far(unit, m, half);
        return exp2_fast(fmaf(score, unit, taken ? 0.0f : -(max[m][half] * unit)));
    }

    /// \brief Scores become weights; their sum is of the unrounded ones.
    template <class Unit>
    __device__ void weigh(Scores& score, const Unit& unit, Weights& weights) {
        approach(score, unit);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float own = of_row(unit, m, half);
#pragma unroll
                for (int n = 0; n < NS; ++n) {
                    const float w0 = weight(score[m][n][2 * half], own, m, half);
                    const float w1 = weight(score[m][n][2 * half + 1], own, m, half);
                    sum[m][half] += w0 + w1;
                    weights[m][n][half] = pack<T>(w0, w1);
                    //! [weigh]
                }
            }
    }

    /// \brief The same in place, the weights not yet rounded.
    template <bool near = false, class Unit>
    __device__ void exponentiate(Scores& score, const Unit& unit) {
        if constexpr (!near) approach(score, unit);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < NS; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    score[m][n][i] = weight<near>(score[m][n][i], of_row(unit, m, i / 2), m, i / 2);
                sum[m][0] += score[m][n][0] + score[m][n][1];
                sum[m][1] += score[m][n][2] + score[m][n][3];
            }
    }

    /// \brief out += weights V.
    /// \param value  this lane's address in the value tile
    //! [add values]
    __device__ void add_values(const Weights& weights, std::uint32_t value) {
#pragma unroll
        for (int k = 0; k < KT / 16; ++k)
#pragma unroll
            for (int n = 0; n < NO / 2; ++n) {
                std::uint32_t b[4];  // columns 16 n .. 16 n + 15
                load_matrices_transposed(b,
                                         columns_at<Shape>(value, n) + k * 16 * Shape::row_bytes);
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    const std::uint32_t a[4] = {weights[m][2 * k][0], weights[m][2 * k][1],
                                                weights[m][2 * k + 1][0], weights[m][2 * k + 1][1]};
                    multiply_add<T>(out[m][2 * n], a, b[0], b[1]);
                    multiply_add<T>(out[m][2 * n + 1], a, b[2], b[3]);
                    //! [add values]
                }
            }
    }

    /// \brief Adds up the four lanes of each row.
    __device__ void finish_sums() {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                sum[m][half] += __shfl_xor_sync(~0u, sum[m][half], 1);
                sum[m][half] += __shfl_xor_sync(~0u, sum[m][half], 2);
            }
    }
    __device__ float logsumexp(int m, int half, float unit) const {
        if (sum[m][half] == 0) return -CUDART_INF_F;
        return max[m][half] * (unit * ln_2) + logf(sum[m][half]);
    }
};

}  // namespace attn::gpu
