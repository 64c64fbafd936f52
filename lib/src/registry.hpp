/// \file
/// \brief Declares `tier_<name>` for every line of lib/tiers.def: what a tier's file defines.
#pragma once

#include <attn/tier.hpp>

namespace attn {
#define ATTN_CPU_TIER(name, builds_on, idea) extern const Tier tier_##name;
#define ATTN_GPU_TIER(name, builds_on, idea) extern const Tier tier_##name;
#include "tiers.def"
#undef ATTN_CPU_TIER
#undef ATTN_GPU_TIER
}  // namespace attn
