/// \file
/// \brief A tensor as the copy engine of sm_90 (TMA) wants it described: `copy_box` (wgmma.cuh)
///        then copies a box of it to shared memory, swizzled, with zeros for what lies outside. A box begins at
///        a multiple of 16 bytes of a row.
///
/// \par Source
/// CUDA driver API 13.0, section 6.34, "Tensor Map Object Management".
#pragma once

#include "cuda_mma.hpp"

#include <cuda.h>

namespace attn::gpu {

/// \brief (B, H, rows, columns) of elements of 32 or 16 bits or one byte, rows contiguous.
struct MappedRows {
    DType dtype = DType::bfloat16;
    const void* data = nullptr;  ///< a multiple of 16 bytes
    Index B = 1, H = 1, rows = 0, columns = 0;
    Strides stride;     ///< multiples of 16 bytes; 0: the original repeats, its coordinate is 0
    int together = 64;  ///< columns of a box: 32 of 32 bits, 64 of 16, 64 or 16 bytes
};

/// \brief Can the engine walk these strides? Not backwards.
bool can_map(const MappedRows& from);
/// \brief The map, for boxes of `box_rows` rows: of 128 bytes, swizzled as `swizzled<128>` says, or
///        of elements of one byte, row behind row.
/// \param promotion  to what length a read that misses the L2 cache is extended
CUtensorMap map_rows(const MappedRows& from, int box_rows,
                     CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B);

}  // namespace attn::gpu
