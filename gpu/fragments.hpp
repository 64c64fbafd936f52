/// \file
/// \brief Where the elements of a tile lie: in the registers of a warp's lanes, and in shared
///        memory. Plain functions of numbers, for the kernels and for a test on the host that plays
///        a warp (tests/test_fragments.cpp).
///
/// `mma.m16n8k32` multiplies A (16, 32) by B (32, 8), elements of one byte, four in a register;
/// `mma.m16n8k16` the same shapes in bytes, elements of two bytes, two in a register. So a lane's
/// place in a fragment is one of bytes, the same for both:
///
///     A register r of lane 4 g + t: row g + 8 (r % 2), bytes 4 t + 16 (r / 2) .. + 3
///     B register r:              column g,           bytes 4 t + 16 r       .. + 3
///     C register i:              row g + 8 (i / 2),  column 2 t + i % 2
///
/// \par Source
/// PTX ISA 9.0, sections 9.7.15.5.8 (m16n8k16), 9.7.15.5.10 (m16n8k32), 9.7.15.5.15 (ldmatrix).
#pragma once

#include <attn/dtype.hpp>

#include <cstdint>

namespace attn::gpu {

/// \brief A fragment: the row of register r, and the first of its four bytes along the sum.
ATTN_HD constexpr int a_row(int lane, int r) { return lane / 4 + r % 2 * 8; }
ATTN_HD constexpr int a_byte(int lane, int r) { return lane % 4 * 4 + r / 2 * 16; }
/// \brief B fragment: the column (a key) of both registers, and the first byte of register r.
ATTN_HD constexpr int b_column(int lane) { return lane / 4; }
ATTN_HD constexpr int b_byte(int lane, int r) { return lane % 4 * 4 + r * 16; }
/// \brief C fragment: row and column of element i.
ATTN_HD constexpr int c_row(int lane, int i) { return (lane >> 2) + i / 2 * 8; }
ATTN_HD constexpr int c_column(int lane, int i) { return (lane & 3) * 2 + i % 2; }

/// \brief A boolean mask's bits for 64 keys of a row: 16 bits for each t = lane % 4, those of the keys
///        that the lane has in the C fragments n of eight tiles side by side: bit 2 n + i % 2.
ATTN_HD constexpr int mask_bit(int key) { return key % 8 / 2 * 16 + key / 8 * 2 + key % 2; }
/// \brief The same bits in the order of the keys.
ATTN_HD constexpr std::uint64_t in_key_order(std::uint64_t bits) {
    std::uint64_t keys = 0;
    for (int key = 0; key < 64; key += 2) keys |= (bits >> mask_bit(key) & 3) << key;
    return keys;
}

/// \brief The row of 16 bytes whose address a lane gives to `ldmatrix` x4: of an A fragment (16
///        rows, pieces 0 and 1), and of two B fragments (keys 0 .. 7 and 8 .. 15).
ATTN_HD constexpr int a_lane_row(int lane) { return lane % 16; }
ATTN_HD constexpr int a_lane_piece(int lane) { return lane / 16; }
ATTN_HD constexpr int b_lane_row(int lane) { return lane % 8 + lane / 16 * 8; }
ATTN_HD constexpr int b_lane_piece(int lane) { return lane / 8 % 2; }

/// \brief Byte offset of the 16-byte piece `piece` of row `row` in a tile whose rows are
///        `RowBytes` (64, or a multiple of 128) long. The eight rows that one `ldmatrix` phase
///        reads at equal `piece` land in eight different groups of four banks. An even number of
///        pieces further along the row: XOR with 16 times that number.
template <int RowBytes>
//! [swizzled]
ATTN_HD constexpr std::uint32_t swizzled(int row, int piece) {
    static_assert(RowBytes % 128 == 0 || RowBytes == 64, "rows must share the 32 banks evenly");
    const int turn = RowBytes == 64 ? row >> 1 & 3 : row & 7;
    return static_cast<std::uint32_t>(row * RowBytes + ((piece ^ turn) << 4));
    //! [swizzled]
}

}  // namespace attn::gpu
