/// \file
/// \brief The pre-pass of `cuda_int8` over K, two kernels: the first sums the keys of each block of
///        64 and finds those that some query may see; the second takes their mean away, rotates and
///        rounds. Between them lies the mean over all S keys, which each block of the second kernel
///        adds up again: a few additions for each channel, in the order of quantize.hpp.
///
/// Cost: K is read twice (the second time from the L2 cache where it fits) and written once in half
/// the bytes. V is not touched.
#include "cuda_int8_rows.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr int threads_per_block = 128, warps = threads_per_block / 32;

/// Batch, first query head and key head of head n of the integers.
struct KeyHead {
    Index b, h, hk;
    __device__ KeyHead(const Int8Problem& p, Index n)
        : b(n / p.keys.heads), h(n % p.keys.heads * (p.problem.Hq / p.keys.heads)) {
        hk = p.problem.key_head(h);
    }
};

/// `seen_keys` where the mask has been packed to bits and tile classes.
__device__ std::uint64_t seen_in_bits(const Int8Problem& p, Index b, Index h, Index block) {
    static_assert(class_tile == smoothing_block);
    const Problem& problem = p.problem;
    const Index first = block * smoothing_block;
    const Index limit = problem.L == 0 ? 0 : problem.visible(problem.L - 1) - first;
    if (limit <= 0) return 0;
    const std::uint64_t all = limit >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << limit) - 1;
    const int lane = threadIdx.x % 32;
    const std::uint8_t* cell = p.tile_class + p.class_stride(b, h, 0) + block;
    const std::uint32_t* words =
        static_cast<const std::uint32_t*>(p.mask) + p.mask_stride(b, h, 0) + 2 * block;
    const bool one_row = p.mask_stride.row == 0;  // the same for all queries: ask the last
    std::uint64_t seen = 0;
    for (Index tile = one_row ? 0 : (problem.L - 1) / class_tile; tile >= 0; --tile) {
        if ((cell[tile * p.class_stride.row] & some_visible) == 0) continue;
        std::uint64_t mine = 0;
        for (int side = 0; side < class_tile; side += 32) {
            const Index i = (one_row ? problem.L - 1 : tile * class_tile) + side + lane;
            const Index left = i < problem.L ? problem.visible(i) - first : 0;
            if (left <= 0) continue;
            const std::uint32_t* word = words + i * p.mask_stride.row;
            mine |= (word[0] | static_cast<std::uint64_t>(word[1]) << 32) &
                    (left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1);
        }
        seen |= __reduce_or_sync(~0u, static_cast<std::uint32_t>(mine)) |
                static_cast<std::uint64_t>(
                    __reduce_or_sync(~0u, static_cast<std::uint32_t>(mine >> 32)))
                    << 32;
        if (seen == all) break;
    }
    return seen;
}

/// One warp per block of 64 keys.
template <int HeadDim>
__global__ void __launch_bounds__(threads_per_block)
    measure_kernel(const __grid_constant__ Int8Problem p, bool bits, Index first_block) {
    const Index index = (first_block + blockIdx.x) * warps + threadIdx.x / 32;
    const Index n = index / p.keys.blocks, block = index % p.keys.blocks;
    if (n >= p.problem.B * p.keys.heads) return;
    const KeyHead head(p, n);
    const std::uint64_t seen =
        bits ? seen_in_bits(p, head.b, head.h, block) : seen_keys(p.problem, head.b, head.h, block);
    KeyBlock found;
    visit_element(p.problem.dtype, [&]<class T>(T) {
        found = measure_keys<T, HeadDim>(p.problem, head.b, head.hk, block, seen, p.wide_key,
                                         p.keys.sums + index * HeadDim);
    });
    if (threadIdx.x % 32 == 0) p.keys.block[index] = found;
}

/// One block per `chunk` blocks of 64 keys.
template <int HeadDim>
__global__ void __launch_bounds__(threads_per_block)
    quantize_kernel(const __grid_constant__ Int8Problem p, int chunk, Index first_block) {
    __shared__ float mean[HeadDim];
    __shared__ float staging[warps * Rotation<HeadDim>::staging_floats];
    const Index chunks = (p.keys.blocks + chunk - 1) / chunk;
    const Index index = first_block + blockIdx.x, n = index / chunks;
    const Index begin = index % chunks * chunk;
    const Index end = begin + chunk < p.keys.blocks ? begin + chunk : p.keys.blocks;
    const KeyHead head(p, n);
    const KeyBlock* block = p.keys.block + n * p.keys.blocks;
    const float* sums = p.keys.sums + n * p.keys.blocks * HeadDim;
    for (int e = threadIdx.x; e < HeadDim; e += threads_per_block) {
        mean[e] = mean_of(sums + e, HeadDim, block, p.keys.blocks);
        if (begin == 0) p.keys.mean[n * HeadDim + e] = mean[e];
    }
    if (begin == 0) {
        bool floating = false;
        for (Index i = threadIdx.x; i < p.keys.blocks; i += threads_per_block)
            floating |= block[i].floating != 0;
        floating = __syncthreads_or(floating);
        if (threadIdx.x == 0) p.keys.floating[n] = floating;
    }
    __syncthreads();
    const Rotation<HeadDim> rotate(p.problem.E, Operand::key);
    visit_element(p.problem.dtype, [&]<class T>(T) {
        for (Index i = begin; i < end; ++i) {
            const Index first_key = n * p.keys.blocks * 64 + i * 64;  // of all heads
            std::int8_t* const key = p.keys.key + first_key * HeadDim;
            round_keys<T, HeadDim, 64, threads_per_block>(
                p.problem, head.b, head.hk, i * 64, block[i], p.wide_key, mean,
                [&](int j, int piece) {
                    return reinterpret_cast<uint4*>(key + j * HeadDim + piece * lane_channels);
                },
                p.keys.scale + first_key, rotate, staging);
        }
    });
}

template <int HeadDim>
void launch_both(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    const Index heads = p.problem.B * p.keys.heads, blocks = p.keys.blocks;
    launch<measure_kernel<HeadDim>>((heads * blocks + warps - 1) / warps, threads_per_block, 0,
                                    stream, p, masking == Masking::bits);
    // Each chunk adds up the mean again: longer ones for longer sequences.
    const int chunk = static_cast<int>(blocks < 32 ? 1 : blocks < 256 ? blocks / 16 : 16);
    launch<quantize_kernel<HeadDim>>(heads * ((blocks + chunk - 1) / chunk), threads_per_block, 0,
                                     stream, p, chunk);
}

}  // namespace

void quantize_keys(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    if (p.keys.blocks == 0) return;
    switch (p.keys.head_dim) {
        case 64:
            return launch_both<64>(p, masking, stream);
        case 128:
            return launch_both<128>(p, masking, stream);
        default:
            return launch_both<256>(p, masking, stream);
    }
}

}  // namespace attn::gpu
