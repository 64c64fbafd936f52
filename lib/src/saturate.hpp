/// \file
/// \brief Byte counts that cannot wrap around: too large is SIZE_MAX, which no allocator grants.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>

namespace attn {

/// \brief A count of bytes or elements, at most SIZE_MAX.
struct Saturating {
    std::size_t count = 0;

    friend Saturating operator*(Saturating a, Saturating b) {
        if (__builtin_mul_overflow(a.count, b.count, &a.count)) a.count = SIZE_MAX;
        return a;
    }
    friend Saturating operator+(Saturating a, Saturating b) {
        if (__builtin_add_overflow(a.count, b.count, &a.count)) a.count = SIZE_MAX;
        return a;
    }
};

/// \brief A size as a count; sizes of a validated problem are not negative.
inline Saturating counted(Index size) { return {static_cast<std::size_t>(size)}; }

}  // namespace attn
