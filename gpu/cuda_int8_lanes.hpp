/// \file
/// \brief How a row of channels is spread over lanes, and the rotation of quantize.hpp in that
///        spread: the same additions in the same order, so the same bits. For the kernels and for a
///        test on the host that plays a warp (tests/test_fragments.cpp).
///
/// A lane holds 16 neighbouring channels of one row: HeadDim / 16 neighbouring lanes hold a row,
/// and a warp 512 / HeadDim rows. Four stages of the Hadamard transform stay inside a lane, the
/// others exchange with the lane whose number differs in one bit.
#pragma once

#include <attn/quantize.hpp>

/// Registers cannot be indexed: on the device, loops over a lane's channels are written out.
#ifdef __CUDA_ARCH__
#define ATTN_UNROLL _Pragma("unroll")
#else
#define ATTN_UNROLL
#endif

namespace attn::gpu {

inline constexpr int lane_channels = 16;

ATTN_HD constexpr int lanes_of_row(int head_dim) { return head_dim / lane_channels; }
ATTN_HD constexpr int rows_of_warp(int head_dim) { return 32 / lanes_of_row(head_dim); }
/// \brief The row of a lane among those of its warp, and its first channel.
ATTN_HD constexpr int lane_row(int lane, int head_dim) { return lane / lanes_of_row(head_dim); }
ATTN_HD constexpr int first_channel(int lane, int head_dim) {
    return lane % lanes_of_row(head_dim) * lane_channels;
}

/// \brief One transform of `width` channels, seen by the lane that holds those from `first` on.
struct LaneRotation {
    Index width = 0;
    int first = 0;
    float factor = 1;
    std::uint32_t flips = 0;  ///< bit i: the sign of channel first + i changes

    LaneRotation() = default;
    ATTN_HD LaneRotation(Index width_, int first_, Operand operand, Index first_sign)
        : width(width_), first(first_), factor(rotation_factor(width_, operand)) {
        for (int i = 0; i < lane_channels; ++i)
            if (first + i < width && rotation_flips(first_sign + first + i)) flips |= 1u << i;
    }

    /// \brief The signs, and the stages between channels of the lane.
    ATTN_HD void begin(float (&x)[lane_channels]) const {
        ATTN_UNROLL
        for (int i = 0; i < lane_channels; ++i)
            if (flips >> i & 1) x[i] = -x[i];
        ATTN_UNROLL
        for (int half = 1; half < lane_channels; half *= 2) {
            if (half >= width) return;
            ATTN_UNROLL
            for (int i = 0; i < lane_channels; ++i) {
                if ((i & half) != 0 || first + i >= width) continue;
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
        }
    }
    /// \brief Lanes apart in the stage between channels `half` (16 or more) apart.
    static ATTN_HD constexpr int lanes_apart(int half) { return half / lane_channels; }
    /// \brief That stage for one channel, with the partner's.
    ATTN_HD float stage(float mine, float partner, int half) const {
        if (first >= width) return mine;
        return (first & half) == 0 ? mine + partner : partner - mine;
    }
    ATTN_HD void end(float (&x)[lane_channels]) const {
        ATTN_UNROLL
        for (int i = 0; i < lane_channels; ++i)
            if (first + i < width) x[i] *= factor;
    }
};

/// \brief A whole number x as the float 1.5 * 2^23 + x has these bits, for |x| < 2^22:
///        integers that start there turn into floats by one subtraction. (The conversion
///        instruction shares its unit with `ex2`, and is eight times slower.)
inline constexpr int float_bits_of_zero = 0x4b400000;
inline constexpr float float_of_zero = 12582912.0f;
static_assert(127 * 127 * 256 < 1 << 22, "the largest product");

/// \brief Four integers as bytes, the first one lowest.
ATTN_HD inline std::uint32_t four_bytes(const Quantizer& quantizer, const float* x) {
    std::uint32_t word = 0;
    ATTN_UNROLL
    for (int i = 0; i < 4; ++i)
        word |= (static_cast<std::uint32_t>(quantizer(x[i])) & 0xffu) << (8 * i);
    return word;
}

}  // namespace attn::gpu
