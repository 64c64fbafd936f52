/// \file
/// \brief Seeded inputs: normal tensors, and the ten generators that quantized tiers are judged on.
///        The same seed gives the same bits on every machine.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <span>
#include <string_view>

namespace attn {

/// \brief A contiguous tensor of independent N(0, 1) values, rounded to `dtype`. On the host.
/// \throws Error `bad_shape` or `no_memory` for a shape that cannot be allocated.
Tensor random_normal(std::span<const Index> shape, std::uint64_t seed,
                     DType dtype = DType::float32);
/// \brief The same, for a shape written in braces.
inline Tensor random_normal(std::initializer_list<Index> shape, std::uint64_t seed,
                            DType dtype = DType::float32) {
    return random_normal(std::span<const Index>(shape.begin(), shape.size()), seed, dtype);
}

/// \brief The sizes of one problem.
struct Sizes {
    Index B = 1;   ///< batch size
    Index Hq = 1;  ///< query heads, a multiple of H
    Index H = 1;   ///< key heads
    Index L = 1;   ///< query rows
    Index S = 1;   ///< key rows
    Index E = 1;   ///< channels of a query or key row
    Index Ev = 1;  ///< channels of a value row
};

/// \brief Inputs of one problem.
struct Qkv {
    Tensor query;  ///< (B, Hq, L, E)
    Tensor key;    ///< (B, H, S, E)
    Tensor value;  ///< (B, H, S, Ev)
};

/// \brief A distribution of inputs.
struct Generator {
    const char* name;   ///< what `generate` takes
    const char* about;  ///< what it draws, in one line
};

/// \brief All generators: "gauss" first, then the ones that are hard for quantized kernels.
std::span<const Generator> generators();

/// \brief Draws the inputs of one problem.
/// \throws Error `bad_option` for an unknown name, `bad_shape` for sizes that cannot be allocated.
Qkv generate(std::string_view generator, const Sizes& sizes, std::uint64_t seed,
             DType dtype = DType::float32);

}  // namespace attn
