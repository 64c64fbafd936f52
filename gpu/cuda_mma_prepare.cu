/// \file
/// \brief What `cuda_mma` may have to do before its main kernel: pack rows that `cp.async` cannot
///        read in pieces of 16 bytes, turn a boolean mask into bits and tile classes, cut float32
///        into three bfloat16 parts.
#include "cuda_mma.hpp"
#include "cuda_mma_float32.cuh"
#include "cuda_mma_plan.hpp"
#include "device.hpp"
#include "mma.cuh"

namespace attn::gpu {
namespace {

constexpr int threads_per_block = 256;
static_assert(threads_per_block == 4 * class_tile, "four threads a row of a tile of the mask");

/// Position in a rank-4 tensor of rows, of which only axes that are really there count.
struct RowGrid {
    Index size[3];  // batch, head, row: 1 where the axis repeats (stride 0)
    Index columns;  // to write; zeros from `valid` on
    Index valid;

    RowGrid(const TensorView& from, Index columns_) : columns(columns_), valid(from.shape[3]) {
        for (int axis = 0; axis < 3; ++axis)
            size[axis] = from.stride[axis] == 0 && from.shape[axis] != 0 ? 1 : from.shape[axis];
    }
    __host__ __device__ Index count() const { return size[0] * size[1] * size[2] * columns; }
    __device__ void locate(Index index, Index (&at)[4]) const {
        at[3] = index % columns;
        at[2] = (index /= columns) % size[2];
        at[1] = (index /= size[2]) % size[1];
        at[0] = index / size[1];
    }
};

template <class Element>
__global__ void pack_kernel(const TensorView from, Element* to, Strides to_stride, RowGrid grid,
                            Index first_block) {
    const Index index = (first_block + blockIdx.x) * threads_per_block + threadIdx.x;
    if (index >= grid.count()) return;
    Index at[4];
    grid.locate(index, at);
    to[to_stride(at[0], at[1], at[2]) + at[3]] =
        at[3] < grid.valid ? as<const Element, 4>(from)(at[0], at[1], at[2], at[3]) : Element{};
}

/// x = high + middle + low, each rounded to nearest: 8 + 8 + 8 bits are float32's 24.
__global__ void split_kernel(const TensorView from, std::uint16_t* to, Strides to_stride,
                             RowGrid grid, Index first_block) {
    const Index index = (first_block + blockIdx.x) * threads_per_block + threadIdx.x;
    if (index >= grid.count()) return;
    Index at[4];
    grid.locate(index, at);
    const float x =
        at[3] < grid.valid ? as<const float, 4>(from)(at[0], at[1], at[2], at[3]) : 0.0f;
    std::uint16_t part[parts];
    split_element(x, part);
    for (int n = 0; n < parts; ++n)
        to[to_stride(at[0], at[1], at[2]) + n * grid.columns + at[3]] = part[n];
}

/// float32 as one bfloat16.
__global__ void round_kernel(const TensorView from, std::uint16_t* to, Strides to_stride,
                             RowGrid grid, Index first_block) {
    const Index index = (first_block + blockIdx.x) * threads_per_block + threadIdx.x;
    if (index >= grid.count()) return;
    Index at[4];
    grid.locate(index, at);
    const float x =
        at[3] < grid.valid ? as<const float, 4>(from)(at[0], at[1], at[2], at[3]) : 0.0f;
    to[to_stride(at[0], at[1], at[2]) + at[3]] =
        static_cast<std::uint16_t>(pack_value<bfloat16>(x, 0.0f));
}

/// The lowest bits of four bytes that are 0 or 1, side by side: the multiplication moves byte n by
/// 24 - 7 n, to bit 24 + n.
__device__ inline std::uint32_t gather_bits(std::uint32_t bytes) {
    return bytes * 0x01020408u >> 24 & 0xf;
}

/// One block per (64 rows, 64 keys) tile, or (1, 64) when all rows are the same: four threads a row,
/// 16 keys each.
/// \param wide  16 bytes can be read at once
__global__ void __launch_bounds__(threads_per_block)
    pack_mask_kernel(const TensorView mask, std::uint32_t* bits, Strides bits_stride,
                     std::uint8_t* classes, Strides class_stride, RowGrid grid, bool wide,
                     Index first_block) {
    const Index key_tiles = (grid.valid + class_tile - 1) / class_tile;
    const Index row_tiles = (grid.size[2] + class_tile - 1) / class_tile;
    Index index = first_block + blockIdx.x;
    const Index key_tile = index % key_tiles;
    const Index row_tile = (index /= key_tiles) % row_tiles;
    const Index h = (index /= row_tiles) % grid.size[1], b = index / grid.size[1];
    const auto attend = as<const std::uint8_t, 4>(mask);
    const int quarter = threadIdx.x % 4;
    const Index i = row_tile * class_tile + threadIdx.x / 4;
    const Index first = key_tile * class_tile + 16 * quarter, left = grid.valid - first;
    const int keys = i >= grid.size[2] || left < 0 ? 0 : left < 16 ? static_cast<int>(left) : 16;
    std::uint32_t visible = 0;
    if (wide && keys == 16) {
        const uint4 sixteen = *reinterpret_cast<const uint4*>(&attend(b, h, i, first));
        const std::uint32_t four[4] = {sixteen.x, sixteen.y, sixteen.z, sixteen.w};
#pragma unroll
        for (int n = 0; n < 4; ++n) visible |= gather_bits(__vsetgtu4(four[n], 0)) << (4 * n);
    } else {
        for (int n = 0; n < keys; ++n)
            visible |= static_cast<std::uint32_t>(attend(b, h, i, first + n) != 0) << n;
    }
    // Of 16 keys each lane of a fragment has four: two neighbours, and the two 8 keys on.
    std::uint32_t word[2] = {0, 0};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
        const std::uint32_t four = (visible >> 2 * t & 3) | (visible >> (8 + 2 * t) & 3) << 2;
        word[t / 2] |= four << (16 * (t % 2) + 4 * quarter);
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (std::uint32_t& w : word) w |= __shfl_xor_sync(~0u, w, step);
    if (i < grid.size[2] && quarter < 2)
        bits[bits_stride(b, h, i) + 2 * key_tile + quarter] = quarter == 0 ? word[0] : word[1];
    const int found =
        (visible != 0 ? some_visible : 0) | (visible != (1u << keys) - 1 ? some_hidden : 0);
    const bool any_visible = __syncthreads_or(found & some_visible);
    const bool any_hidden = __syncthreads_or(found & some_hidden);
    if (threadIdx.x == 0)
        classes[class_stride(b, h, row_tile) + key_tile] = static_cast<std::uint8_t>(
            (any_visible ? some_visible : 0) | (any_hidden ? some_hidden : 0));
}

Index blocks_for(const RowGrid& grid) {
    return (grid.count() + threads_per_block - 1) / threads_per_block;
}

}  // namespace

void pack_rows(const TensorView& from, void* to, const Strides& to_stride, Index columns,
               cudaStream_t stream) {
    const RowGrid grid(from, columns);
    const auto run = [&]<class Element>(Element) {
        launch<pack_kernel<Element>>(blocks_for(grid), threads_per_block, 0, stream, from,
                                     static_cast<Element*>(to), to_stride, grid);
    };
    switch (size_of(from.dtype)) {
        case 1:
            return run(std::uint8_t{});
        case 2:
            return run(std::uint16_t{});
        default:
            return run(std::uint32_t{});
    }
}

void split_rows(const TensorView& from, std::uint16_t* to, const Strides& to_stride, Index columns,
                cudaStream_t stream) {
    const RowGrid grid(from, columns);
    launch<split_kernel>(blocks_for(grid), threads_per_block, 0, stream, from, to, to_stride, grid);
}

void round_rows(const TensorView& from, std::uint16_t* to, const Strides& to_stride, Index columns,
                cudaStream_t stream) {
    const RowGrid grid(from, columns);
    launch<round_kernel>(blocks_for(grid), threads_per_block, 0, stream, from, to, to_stride, grid);
}

void pack_mask(const TensorView& mask, std::uint32_t* bits, const Strides& bits_stride,
               std::uint8_t* classes, const Strides& class_stride, cudaStream_t stream) {
    const RowGrid grid(mask, mask.shape[3]);
    const auto tiles = [](Index size) { return (size + class_tile - 1) / class_tile; };
    launch<pack_mask_kernel>(grid.size[0] * grid.size[1] * tiles(grid.size[2]) * tiles(grid.valid),
                             threads_per_block, 0, stream, mask, bits, bits_stride, classes,
                             class_stride, grid, wide(mask));
}

}  // namespace attn::gpu
