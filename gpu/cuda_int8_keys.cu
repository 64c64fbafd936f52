/// \file
/// \brief The pre-pass of `cuda_int8` over K, three kernels: the first sums the keys of each block
///        of 64 and finds those that some query may see; the second, a small one, adds the sums up
///        to the mean, in the order of quantize.hpp; the third takes it away, rotates and rounds.
///
/// Cost: K is read twice (the second time from the L2 cache where it fits) and written once in half
/// the bytes. V is not touched.
#include "cuda_int8_whole.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr int threads_per_block = 128, keys_at_once = 128;

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

/// The work of a block of threads: the sums of one block of 64 keys for each group of HeadDim
/// threads.
/// \param seen  known to the group's first thread
/// \param exists  false: a group without work
/// \return false if a block of keys holds a number without an integer: its sums are void
template <int HeadDim>
__device__ bool measure_whole_keys(const Int8Problem& p, Index b, Index hk, Index block,
                                   std::uint64_t seen, int group, bool exists, Index index) {
    constexpr int groups = threads_per_block / HeadDim;
    __shared__ __align__(1024) unsigned char tile[32 * 1024];
    __shared__ std::uint64_t seen_of[groups];
    const int thread = static_cast<int>(threadIdx.x) % HeadDim;
    if (thread == 0) seen_of[group] = seen;
    bool good = true;
    visit_element(p.problem.dtype, [&]<class T>(T) {
        using Staged = StagedRows<T, HeadDim>;
        constexpr int bytes = 64 * Staged::row_bytes;
        static_assert(groups * bytes <= static_cast<int>(sizeof tile));
        const Problem& problem = p.problem;
        const T* const key = static_cast<const T*>(problem.key.data) + b * problem.key.stride[0] +
                             hk * problem.key.stride[1] + block * 64 * problem.key.stride[2];
        unsigned char* const own = tile + group * bytes;
        Staged::template copy<64, HeadDim>(shared_address(own), key, problem.key.stride[2],
                                           problem.S - block * 64, thread);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        if (exists)
            good = sum_whole_keys<T, HeadDim>(own, thread, seen_of[group],
                                              p.keys.sums + index * HeadDim);
    });
    return !__syncthreads_or(!good);
}

/// One group of threads per block of 64 keys: HeadDim threads, or a warp where rows are not whole.
template <int HeadDim, bool whole>
__global__ void __launch_bounds__(threads_per_block, whole ? 5 : 1)
    measure_kernel(const __grid_constant__ Int8Problem p, bool bits, Index first_block) {
    start_next_kernel();
    constexpr int group_threads = whole ? HeadDim : 32;
    const int group = static_cast<int>(threadIdx.x) / group_threads;
    const Index index = (first_block + blockIdx.x) * (threads_per_block / group_threads) + group;
    const Index n = index / p.keys.blocks, block = index % p.keys.blocks;
    const bool exists = n < p.problem.B * p.keys.heads;
    if (!whole && !exists) return;
    const KeyHead head(p, exists ? n : 0);
    const bool first_warp = static_cast<int>(threadIdx.x) % group_threads < 32;
    std::uint64_t seen = 0;
    if (first_warp && exists)
        seen = bits ? seen_in_bits(p, head.b, head.h, block)
                    : seen_keys(p.problem, head.b, head.h, block);
    KeyBlock found{seen, 0};
    bool by_warp = true;
    if constexpr (whole)
        by_warp = !measure_whole_keys<HeadDim>(p, head.b, head.hk, exists ? block : 0, seen, group,
                                               exists, index);
    if (!exists || !first_warp) return;
    if (by_warp)
        visit_element(p.problem.dtype, [&]<class T>(T) {
            found = measure_keys<T, HeadDim>(p.problem, head.b, head.hk, block, seen, p.wide_key,
                                             p.keys.sums + index * HeadDim);
        });
    if (threadIdx.x % group_threads == 0) p.keys.block[index] = found;
}

/// One block per head: the mean over all S keys, and whether one of them has no integers.
template <int HeadDim>
__global__ void __launch_bounds__(threads_per_block)
    mean_kernel(const __grid_constant__ Int8Problem p, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    const Index n = first_block + blockIdx.x;
    const KeyBlock* block = p.keys.block + n * p.keys.blocks;
    const float* sums = p.keys.sums + n * p.keys.blocks * HeadDim;
    for (int e = threadIdx.x; e < HeadDim; e += threads_per_block)
        p.keys.mean[n * HeadDim + e] = mean_of(sums + e, HeadDim, block, p.keys.blocks);
    bool floating = false;
    for (Index i = threadIdx.x; i < p.keys.blocks; i += threads_per_block)
        floating |= block[i].floating != 0;
    floating = __syncthreads_or(floating);
    if (threadIdx.x == 0) p.keys.floating[n] = floating;
}

/// `keys_at_once` keys of head n become integers: one thread a key.
template <int HeadDim>
__device__ void round_whole_keys(const Int8Problem& p, const KeyHead& head, Index n, Index first,
                                 const float* mean) {
    __shared__ __align__(1024) unsigned char tile[32 * 1024];
    const Problem& problem = p.problem;
    const int thread = static_cast<int>(threadIdx.x);
    visit_element(problem.dtype, [&]<class T>(T) {
        using Staged = StagedRows<T, HeadDim>;
        constexpr int fit = static_cast<int>(sizeof tile) / Staged::row_bytes;
        constexpr int rows = fit < keys_at_once ? fit : keys_at_once;
        const T* const key = static_cast<const T*>(problem.key.data) +
                             head.b * problem.key.stride[0] + head.hk * problem.key.stride[1];
        for (Index at = first; at < first + keys_at_once && at < p.keys.blocks * 64; at += rows) {
            const Index left = p.keys.blocks * 64 - at;  // keys, those behind S included
            Staged::template copy<rows, threads_per_block>(
                shared_address(tile), key + at * problem.key.stride[2], problem.key.stride[2],
                problem.S - at, thread);
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            const bool mine = thread < rows && thread < left;
            const Index of_all = n * p.keys.blocks * 64 + at;  // of all heads
            float x[HeadDim];
            if (mine) {
                Staged::read(x, tile, thread);
                const Index own = of_all + thread;
                const bool integers = p.keys.block[own / 64].integer >> (own % 64) & 1;
#pragma unroll
                for (int e = 0; e < HeadDim; ++e) x[e] = integers ? x[e] - mean[e] : 0.0f;
            }
            __syncthreads();  // the rows have been read; their integers take their place
            if (mine)
                p.keys.scale[of_all + thread] = round_row<HeadDim>(
                    x, rotation_factor(HeadDim, Operand::key), 1.0f, [&](int piece) {
                        return reinterpret_cast<uint4*>(tile + swizzled<HeadDim>(thread, piece));
                    });
            __syncthreads();
            constexpr int pieces = HeadDim / 16;
            auto* const to = reinterpret_cast<uint4*>(p.keys.key + of_all * HeadDim);
            for (int index = thread; index < rows * pieces && index / pieces < left;
                 index += threads_per_block)
                to[index] = reinterpret_cast<const uint4*>(tile)[index];
            __syncthreads();  // before the next rows
        }
    });
}

/// One block per `keys_at_once` keys of a head.
template <int HeadDim, bool whole>
__global__ void __launch_bounds__(threads_per_block, whole ? 3 : 1)
    quantize_kernel(const __grid_constant__ Int8Problem p, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    __shared__ float mean[HeadDim];
    const Index parts = (p.keys.blocks * 64 + keys_at_once - 1) / keys_at_once;
    const Index n = (first_block + blockIdx.x) / parts;
    const Index first = (first_block + blockIdx.x) % parts * keys_at_once;
    const KeyHead head(p, n);
    for (int e = threadIdx.x; e < HeadDim; e += threads_per_block)
        mean[e] = p.keys.mean[n * HeadDim + e];
    __syncthreads();
    if constexpr (whole) {
        round_whole_keys<HeadDim>(p, head, n, first, mean);
    } else {
        __shared__ float staging[threads_per_block / 32 * Rotation<HeadDim>::staging_floats];
        const Rotation<HeadDim> rotate(p.problem.E, Operand::key);
        visit_element(p.problem.dtype, [&]<class T>(T) {
            for (Index i = first / 64; i < p.keys.blocks && i * 64 < first + keys_at_once; ++i) {
                const Index block = n * p.keys.blocks + i, first_key = block * 64;  // of all heads
                std::int8_t* const key = p.keys.key + first_key * HeadDim;
                round_keys<T, HeadDim, 64, threads_per_block>(
                    p.problem, head.b, head.hk, i * 64, p.keys.block[block], p.wide_key, mean,
                    [&](int j, int piece) {
                        return reinterpret_cast<uint4*>(key + swizzled<HeadDim>(j, piece));
                    },
                    p.keys.scale + first_key, rotate, staging);
            }
        });
    }
}

template <int HeadDim, bool whole>
void launch_both(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    const Index heads = p.problem.B * p.keys.heads, blocks = p.keys.blocks;
    constexpr int groups = threads_per_block / (whole ? HeadDim : 32);
    launch<measure_kernel<HeadDim, whole>>((heads * blocks + groups - 1) / groups,
                                           threads_per_block, 0, stream, p,
                                           masking == Masking::bits);
    launch_early<mean_kernel<HeadDim>>(heads, threads_per_block, 0, stream, p);
    const Index parts = (blocks * 64 + keys_at_once - 1) / keys_at_once;
    launch_early<quantize_kernel<HeadDim, whole>>(heads * parts, threads_per_block, 0, stream, p);
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    if (is_whole<HeadDim>(p.problem.E, p.wide_key))
        return launch_both<HeadDim, (HeadDim <= 128)>(p, masking, stream);
    launch_both<HeadDim, false>(p, masking, stream);
}

}  // namespace

void quantize_keys(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    if (p.keys.blocks == 0) return;
    switch (p.keys.head_dim) {
        case 64:
            return launch_head_dim<64>(p, masking, stream);
        case 128:
            return launch_head_dim<128>(p, masking, stream);
        default:
            return launch_head_dim<256>(p, masking, stream);
    }
}

}  // namespace attn::gpu
