/// \file
/// \brief What the tiers `int8_pv32` and `int8` share: plan, memory, threads.
#pragma once

#include "int8_kernel.hpp"

#include <cstddef>
#include <string>

namespace attn {

std::size_t int8_scratch_bytes(const Problem& p, Int8Values values);
void int8_run(const Problem& p, Int8Values values);
std::string int8_variant(const Problem& p);

/// \brief Largest head dimension: 32-bit sums hold 2^31 / (255 * 127) products.
inline constexpr Index int8_max_head_dim = 65536;

}  // namespace attn
