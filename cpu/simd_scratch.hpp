/// \file
/// \brief A thread's working memory, handed out piece by piece.
#pragma once

#include <attn/tensor.hpp>

namespace attn::ATTN_ISA {
namespace {

/// \brief Floats rounded up to whole cache lines.
[[gnu::always_inline]] inline Index lines(Index floats) { return (floats + 15) / 16 * 16; }

/// \brief Returns take(count): the next `count` floats of `memory`, from a cache line on, counted
///        in `floats`. Without memory it only counts: the same constructor says how much is
///        needed.
[[gnu::always_inline]] inline auto taker(float* memory, Index& floats) {
    return [memory, &floats](Index count) {
        float* const at = memory == nullptr ? nullptr : memory + floats;
        floats += lines(count);
        return at;
    };
}

}  // namespace
}  // namespace attn::ATTN_ISA
