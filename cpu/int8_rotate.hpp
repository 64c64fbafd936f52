/// \file
/// \brief `rotate` of quantize.hpp in registers: the same additions in the same order, so the same
///        bits.
#pragma once

#include "simd_layout.hpp"

#include <attn/quantize.hpp>

#include <utility>

namespace attn::ATTN_ISA {
namespace {

/// \brief Neighbours at distance Half < width: (a, b) -> (a + b, a - b).
template <int Half, int... I>
[[gnu::always_inline]] inline Lanes butterfly(Lanes x, std::integer_sequence<int, I...>) {
    typedef float Floats __attribute__((vector_size(sizeof(float) * width)));
    const Bits bits = bits_of(x);
    const Bits partner = __builtin_shufflevector(bits, bits, (I ^ Half)...);
    const Bits negated = bits ^ Bits { ((I & Half) != 0 ? INT32_MIN : 0)... };
    return Lanes((Lanes::register_type)((Floats)partner + (Floats)negated));
}
template <int Half>
[[gnu::always_inline]] inline Lanes butterfly(Lanes x) {
    return butterfly<Half>(x, std::make_integer_sequence<int, width>());
}

/// \brief All stages among `Count` neighbouring registers, after the multiplication by `factor`.
template <int Count>
[[gnu::always_inline]] inline void transform_registers(float* channel, const float* factor) {
    Lanes x[Count];
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) {
        x[r] = Lanes::load_unaligned(channel + r * width) * load(factor + r * width);
        x[r] = butterfly<2>(butterfly<1>(x[r]));
        if constexpr (width > 4) x[r] = butterfly<4>(x[r]);
        if constexpr (width > 8) x[r] = butterfly<8>(x[r]);
    }
#pragma GCC unroll 3
    for (int half = 1; half < Count; half *= 2)
#pragma GCC unroll 8
        for (int r = 0; r < Count; ++r)
            if ((r & half) == 0) {
                const Lanes a = x[r], b = x[r + half];
                x[r] = a + b;
                x[r + half] = a - b;
            }
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) x[r].store_unaligned(channel + r * width);
}

/// \brief The signs and factors of both transforms, by which their channels are multiplied first.
///        (A power of two may as well be multiplied before the additions as after.)
class Rotation {
  public:
    /// \param memory  (2, E rounded up to whole cache lines), aligned; null to count only
    [[gnu::flatten]] Rotation(Index E, Operand operand, float* memory)
        : E_(E), width_(rotation_width(E)), first_(memory), second_(memory + lines(E)) {
        const float factor = rotation_factor(width_, operand);
        for (Index e = 0; e < width_ && E > 0; ++e) {
            first_[e] = rotation_flips(e) ? -factor : factor;
            second_[e] = rotation_flips(E + e) ? -factor : factor;
        }
    }
    static Index floats(Index E) { return 2 * lines(E); }

    /// \brief Rotates a row of E channels, in place.
    void operator()(float* row) const {
        if (E_ == 0) return;
        transform(row, first_);
        if (width_ < E_) transform(row + E_ - width_, second_);
    }

  private:
    [[gnu::flatten]] void transform(float* channel, const float* factor) const {
        if (width_ < width) {
            for (Index e = 0; e < width_; ++e) channel[e] *= factor[e];
            hadamard(channel, width_, 1);
            return;
        }
        const Index registers = width_ / width;
        if (registers == 1) return transform_registers<1>(channel, factor);
        if (registers == 2) return transform_registers<2>(channel, factor);
        if (registers == 4) return transform_registers<4>(channel, factor);
        for (Index e = 0; e < width_; e += 8 * width)
            transform_registers<8>(channel + e, factor + e);
        for (Index half = 8 * width; half < width_; half *= 2)
            for (Index e = 0; e < width_; e += width) {
                if ((e & half) != 0) continue;
                const Lanes a = Lanes::load_unaligned(channel + e);
                const Lanes b = Lanes::load_unaligned(channel + e + half);
                (a + b).store_unaligned(channel + e);
                (a - b).store_unaligned(channel + e + half);
            }
    }

    Index E_, width_;
    float *first_, *second_;
};

}  // namespace
}  // namespace attn::ATTN_ISA
