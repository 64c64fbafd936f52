/// \file
/// \brief The table of tiers, made from lib/tiers.def. An explicit table and not objects that
///        register themselves: a linker drops those from a static library, and their order is not
///        the ladder's.
#include "registry.hpp"

#include <array>
#include <string_view>

namespace attn {
namespace {

constexpr Tier place(Tier tier, DeviceKind device, const char* name, const char* builds_on,
                     const char* idea) {
    tier.name = name;
    tier.builds_on = builds_on;
    tier.idea = idea;
    tier.device = device;
    return tier;
}

#ifndef ATTN_HAVE_CUDA
/// GPU tiers stay in the ladder of a build without CUDA, so that lists, docs and tests look the
/// same on every machine.
[[maybe_unused]] constexpr Tier not_built{
    .available =
        [] {
            return Availability{false, "built without CUDA"};
        },
    .scratch_bytes = [](const Problem&) { return std::size_t{0}; },
    .run = [](const Problem&) {}};
#endif

}  // namespace

std::span<const Tier* const> tiers() {
#define ATTN_CPU_TIER(name, builds_on, idea) \
    place(tier_##name, DeviceKind::cpu, #name, #builds_on, idea),
#ifdef ATTN_HAVE_CUDA
#define ATTN_GPU_TIER(name, builds_on, idea) \
    place(tier_##name, DeviceKind::gpu, #name, #builds_on, idea),
#else
#define ATTN_GPU_TIER(name, builds_on, idea) \
    place(not_built, DeviceKind::gpu, #name, #builds_on, idea),
#endif
    static const Tier table[] = {
#include "tiers.def"
    };
#undef ATTN_CPU_TIER
#undef ATTN_GPU_TIER

    constexpr std::size_t count = sizeof(table) / sizeof(table[0]);
    static const auto pointers = [] {
        std::array<const Tier*, count> list{};
        for (std::size_t i = 0; i < count; ++i) list[i] = &table[i];
        return list;
    }();
    return pointers;
}

const Tier* find_tier(std::string_view name) {
    for (const Tier* tier : tiers())
        if (name == tier->name) return tier;
    return nullptr;
}

Availability always_available() { return {}; }

}  // namespace attn
