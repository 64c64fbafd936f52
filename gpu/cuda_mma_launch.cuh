/// \file
/// \brief Chooses the main kernel's shape for a head dim and its mask, for one element type.
#pragma once

#include "cuda_mma_kernel.cuh"
#include "device.hpp"

namespace attn::gpu {

/// Bytes of shared memory with one mask tile, of which two blocks fit a multiprocessor of an A100
/// (164 KB, and 1 KB per block for the system) and of Hopper (228 KB).
template <class Shape, Masking masking, class MaskElement>
inline constexpr int mma_shared_bytes = Shape::query_bytes + 4 * Shape::tile_bytes +
                                        MaskTile<Shape, masking, MaskElement>::shared_bytes;

template <class Shape, Masking masking, class MaskElement>
void launch_shape(MmaProblem p, cudaStream_t stream) {
    const Index tiles = (p.problem.L + Shape::rows - 1) / Shape::rows;
    p.query_tiles = static_cast<int>(tiles);
    // With longer heads it costs more than it gains: docs/steps_cuda.md.
    if (p.problem.S * 2 * Shape::row_bytes <= 1 << 20) set_turns(p, 2 * Shape::row_bytes);
    const Index blocks = tiles * p.problem.B * p.problem.Hq;
    using Mask = MaskTile<Shape, masking, MaskElement>;
    int bytes = mma_shared_bytes<Shape, masking, MaskElement>;
    constexpr int of_system = 1024;  // in each block
    if (Mask::staged && 2 * (bytes + Mask::bytes + of_system) <= shared_memory() + of_system) {
        p.mask_stages = 2;
        bytes += Mask::bytes;
    }
    launch<mma_kernel<Shape, masking, MaskElement>>(blocks, Shape::threads, bytes, stream, p);
    if (p.again == nullptr) return;
    launch_early<replay_kernel<Shape>>(second_blocks(blocks), Shape::threads,
                                       Shape::query_bytes + 2 * Shape::tile_bytes, stream, p,
                                       masking == Masking::additive, blocks);
}

/// \brief Registers decide the shapes: 255 a thread is all there is. At HeadDim = 128, `out` of 32
///        rows takes 128 of them and the scores of 64 keys 64.
template <class T, int HeadDim, bool SmallTile>
using MainShape = std::conditional_t<
    HeadDim == 64, MmaShape<T, 64, 4, 2, 64, true>,
    std::conditional_t<HeadDim == 128, MmaShape<T, 128, 4, 2, SmallTile ? 32 : 64, false>,
                       MmaShape<T, 256, 4, 1, 32, false>>>;

template <class T, int HeadDim>
void launch_masking(const MmaProblem& p, Masking masking, cudaStream_t stream) {
    using Shape = MainShape<T, HeadDim, false>;
    switch (masking) {
        case Masking::none:
            return launch_shape<Shape, Masking::none, std::uint8_t>(p, stream);
        case Masking::bits:
            return launch_shape<Shape, Masking::bits, std::uint32_t>(p, stream);
        case Masking::bytes:
            return launch_shape<Shape, Masking::bytes, std::uint8_t>(p, stream);
        case Masking::additive:
            if (p.problem.mask.dtype == DType::float32)
                return launch_shape<MainShape<T, HeadDim, true>, Masking::additive, float>(p,
                                                                                           stream);
            return launch_shape<Shape, Masking::additive, T>(p, stream);
    }
}

template <class T>
void launch_mma(const MmaProblem& p, Masking masking, cudaStream_t stream) {
    const Index widest = p.problem.E > p.problem.Ev ? p.problem.E : p.problem.Ev;
    if (widest <= 64) return launch_masking<T, 64>(p, masking, stream);
    if (widest <= 128) return launch_masking<T, 128>(p, masking, stream);
    return launch_masking<T, 256>(p, masking, stream);
}

}  // namespace attn::gpu
