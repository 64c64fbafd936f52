/// \file
/// \brief Whether a tile of keys is computed at all, and with which mask. What the tiles of a mask
///        hold is remembered for the heads that share it.
#pragma once

#include "simd_layout.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief What the first head found in a tile of its mask, for the heads that share it: they read
///        mixed tiles alone. Threads that find the same at the same time write the same byte.
class CoverNote {
  public:
    CoverNote(const RowMap& map, Index first_key)
        : byte_(map.covers == nullptr ? nullptr : map.covers + first_key / simd_tile_keys) {}
    Cover read() const {
        return byte_ == nullptr ? Cover::unknown
                                : static_cast<Cover>(__atomic_load_n(byte_, __ATOMIC_RELAXED));
    }
    Cover write(Cover cover) const {
        if (byte_ != nullptr)
            __atomic_store_n(byte_, static_cast<std::uint8_t>(cover), __ATOMIC_RELAXED);
        return cover;
    }

  private:
    std::uint8_t* byte_;
};

/// \brief Looks for rows, from the first on, that see nothing of a quarter of the tile's keys.
void find_stairs(const std::uint64_t (&allowed)[64], KeyTile& tile) {
    for (Index n = 0; n < 4; ++n) {
        std::uint64_t any = 0;  // bit r: row r sees one of these keys
        for (Index j = n * KeyTile::step; j < (n + 1) * KeyTile::step; ++j) any |= allowed[j];
        tile.first_row[n] = any == 0 ? simd_tile_rows : std::countr_zero(any);
        tile.stairs = tile.stairs || tile.first_row[n] >= width;
    }
}

/// \brief Reads the masks of a tile of keys. A tile that no row may see is `none`; `tile.allowed`
///        and `tile.bias` are set only where some may and some may not.
/// \param allowed  memory for one word per key
Cover mask_tile(const Problem& p, const SimdTask& task, const RowMap& map, Index first,
                const TileScratch& scratch, std::uint64_t (&allowed)[64], KeyTile& tile) {
    const CoverNote note(map, first);
    const Cover known = note.read();
    if (known == Cover::none || known == Cover::all) return known;
    const Cover cover = read_bits(p, map, first, tile.keys, allowed, known);
    if (cover == Cover::none) return note.write(Cover::none);
    if (cover == Cover::mixed) {
        turn_to_lanes(map, allowed);
        tile.allowed = allowed;
        find_stairs(allowed, tile);
    }
    if (p.mask_kind != MaskKind::additive) return note.write(cover);
    const Cover bias = read_bias(p, task.b, map, first, tile.keys, scratch.bias, scratch.line);
    if (bias == Cover::mixed) tile.bias = scratch.bias;
    if (bias == Cover::none) return note.write(Cover::none);
    return note.write(bias == Cover::all ? cover : Cover::mixed);
}

}  // namespace
}  // namespace attn::ATTN_ISA
