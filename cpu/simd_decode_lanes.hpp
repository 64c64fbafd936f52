/// \file
/// \brief One row in a register, for few queries: neighbouring elements of any dtype become
///        lanes, and the lanes of a register are summed at the end.
#pragma once

#include "simd_rows.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief How elements lie in memory, and the register of floats they become.
struct Float32 {
    using Memory = float;
    static Lanes load(const float* from) { return Lanes::load_unaligned(from); }
};
struct Float16 {
    using Memory = std::uint16_t;
    static Lanes load(const std::uint16_t* from) { return widen_float16(from); }
};
struct Bfloat16 {
    using Memory = std::uint16_t;
    static Lanes load(const std::uint16_t* from) { return widen_bfloat16(from); }
};

/// \brief The first `count` < width elements, zeros behind them; nothing behind them is read.
template <class Element>
[[gnu::always_inline]] inline Lanes load_part(const typename Element::Memory* from, Index count) {
    typename Element::Memory part[width] = {};
    for (Index n = 0; n < count; ++n) part[n] = from[n];
    return Element::load(part);
}

typedef float Four __attribute__((vector_size(16)));

/// \brief Adds the lanes of a register in fours: halves on top of each other until four are left.
template <class Floats>
[[gnu::always_inline]] inline Four fold_halves(Floats v) {
    if constexpr (sizeof(Floats) == 64) {
        return fold_halves(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
    } else if constexpr (sizeof(Floats) == 32) {
        return __builtin_shufflevector(v, v, 0, 1, 2, 3) +
               __builtin_shufflevector(v, v, 4, 5, 6, 7);
    } else {
        return v;
    }
}
[[gnu::always_inline]] inline Four fold(Lanes x) {
    typedef float Floats __attribute__((vector_size(sizeof(float) * width)));
    return fold_halves((Floats) static_cast<Lanes::register_type>(x));
}

/// \brief The sums of all lanes of four registers.
[[gnu::always_inline]] inline Four sums(Lanes a, Lanes b, Lanes c, Lanes d) {
    const Four fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
    const Four ab =
        __builtin_shufflevector(fa, fb, 0, 4, 1, 5) + __builtin_shufflevector(fa, fb, 2, 6, 3, 7);
    const Four cd =
        __builtin_shufflevector(fc, fd, 0, 4, 1, 5) + __builtin_shufflevector(fc, fd, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

}  // namespace
}  // namespace attn::ATTN_ISA
