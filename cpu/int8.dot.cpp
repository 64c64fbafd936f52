/// \file
/// \brief The kernels of the tiers `int8_pv32` and `int8` behind one table, compiled once per
///        instruction set.
#include "int8_tile.hpp"

namespace attn::ATTN_ISA {
namespace {

Index scratch_floats(const Problem& p, Int8Values values) {
    const Index tile = Int8Scratch(p, values, nullptr).floats;
    const Index rows = QuantizeScratch(p, nullptr).floats;
    return tile > rows ? tile : rows;
}

}  // namespace

extern const Int8Kernels int8_kernels = {
    .layout = {dot_depth, matrix_tiles},
    .scratch_floats = scratch_floats,
    .measure = measure,
    .average = average,
    .quantize = quantize,
    .attend = attend,
};

}  // namespace attn::ATTN_ISA
