/// \file
/// \brief Chooses the shape of the main kernel of `cuda_int8` for a head dim and its mask, for one
///        type of values.
#pragma once

#include "cuda_int8_wgmma.cuh"
#include "device.hpp"

namespace attn::gpu {

/// Every kernel of a shape has the same tiles: the second pass repeats the first one's operations.
template <class Shape, Masking masking, class MaskElement>
void launch_int8_shape(Int8Problem p, cudaStream_t stream) {
    const Index tiles = (p.problem.L + Shape::rows - 1) / Shape::rows;
    p.query_tiles = static_cast<int>(tiles);
    const Index blocks = tiles * p.problem.B * p.problem.Hq;
    launch<int8_kernel<Shape, masking, MaskElement>>(
        blocks, Shape::threads,
        Shape::mask_at + MaskTile<Shape, masking, MaskElement>::shared_bytes, stream, p);
    launch<int8_again_kernel<Shape>>(second_blocks(blocks), Shape::threads, Shape::mask_at, stream,
                                     p, masking == Masking::additive, blocks);
}

/// \brief As in cuda_mma_launch.cuh: smaller tiles where the mask needs registers.
template <class T, int HeadDim, bool SmallTile>
using Int8MainShape = std::conditional_t<HeadDim == 256, Int8Shape<T, 256, 4, 1, 32>,
                                         Int8Shape<T, HeadDim, 4, 2, SmallTile ? 32 : 64>>;

/// \brief The kernel of cuda_int8_wgmma.cuh: no more blocks than have a place at once.
template <class T, int HeadDim, Masking masking, class MaskElement = T>
void launch_int8_wgmma(Int8Problem p, cudaStream_t stream) {
    using Shape = Int8WgmmaShape<T, HeadDim, masking, MaskElement>;
    const Index tiles = (p.problem.L + Shape::rows - 1) / Shape::rows;
    p.query_tiles = static_cast<int>(tiles);
    const Index blocks = tiles * p.problem.B * p.problem.Hq;
    Int8Maps maps{map_rows(p.values(), Shape::Keys), {}};
    if constexpr (masking != Masking::none)
        maps.mask = map_rows(p.mask_rows(Shape::dense), Shape::rows);
    set_turns(p, 3 * HeadDim);
    const Index places = multiprocessors();
    launch_early<int8_wgmma_kernel<Shape>>(blocks < places ? blocks : places, Shape::all_threads,
                                           Shape::shared_bytes, stream, p, maps, blocks);
    using Again = Int8WgmmaShape<T, HeadDim, Masking::none, T, Shape::Keys>;  // one for all masks
    launch_early<int8_wgmma_again_kernel<Again>>(blocks < places ? blocks : places,
                                                 Again::all_threads, Again::shared_bytes, stream, p,
                                                 maps, blocks);
}

template <class T, int HeadDim>
void launch_int8_masking(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    using Shape = Int8MainShape<T, HeadDim, false>;
    if constexpr (HeadDim <= 128)
        if (p.wgmma) switch (masking) {
                case Masking::none:
                    return launch_int8_wgmma<T, HeadDim, Masking::none>(p, stream);
                case Masking::bits:
                    return launch_int8_wgmma<T, HeadDim, Masking::bits>(p, stream);
                case Masking::bytes:
                    return launch_int8_wgmma<T, HeadDim, Masking::bytes>(p, stream);
                case Masking::additive:
                    if (p.problem.mask.dtype == DType::float32)
                        return launch_int8_wgmma<T, HeadDim, Masking::additive, float>(p, stream);
                    return launch_int8_wgmma<T, HeadDim, Masking::additive>(p, stream);
            }
    switch (masking) {
        case Masking::none:
            return launch_int8_shape<Shape, Masking::none, std::uint8_t>(p, stream);
        case Masking::bits:
            return launch_int8_shape<Shape, Masking::bits, std::uint32_t>(p, stream);
        case Masking::bytes:
            return launch_int8_shape<Shape, Masking::bytes, std::uint8_t>(p, stream);
        case Masking::additive:
            if (p.problem.mask.dtype == DType::float32)
                return launch_int8_shape<Int8MainShape<T, HeadDim, true>, Masking::additive, float>(
                    p, stream);
            return launch_int8_shape<Shape, Masking::additive, T>(p, stream);
    }
}

template <class T>
void launch_int8(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    switch (p.keys.head_dim) {
        case 64:
            return launch_int8_masking<T, 64>(p, masking, stream);
        case 128:
            return launch_int8_masking<T, 128>(p, masking, stream);
        default:
            return launch_int8_masking<T, 256>(p, masking, stream);
    }
}

}  // namespace attn::gpu
