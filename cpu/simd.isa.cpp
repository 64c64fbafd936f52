/// \file
/// \brief The kernels of tier `simd`, compiled once per instruction set: everything in the headers
///        below, behind one table.
#include "simd_decode.hpp"
#include "simd_tile.hpp"

namespace attn::ATTN_ISA {
namespace {

Index scratch_floats(const Problem& p) {
    const Index tile = TileScratch(p, nullptr).floats, rows = RowScratch(p, nullptr).floats;
    return tile > rows ? tile : rows;
}

void exp2_of_array(const float* x, float* y, Index count) {
    for (Index n = 0; n < count; n += width) store(y + n, exp2(load(x + n)));
}

}  // namespace

extern const SimdKernels simd_kernels = {
    .scratch_floats = scratch_floats,
    .most_rows = simd_tile_rows,
    .attend_tile = attend_tile,
    .attend_rows = attend_rows,
    .merge = merge,
    .finish = finish,
    .exp2 = exp2_of_array,
};

}  // namespace attn::ATTN_ISA
