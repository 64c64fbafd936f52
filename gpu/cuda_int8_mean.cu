/// \file
/// \brief The first kernel of the pre-pass of `cuda_int8`: the mean of at most 512 keys of each head,
///        in the order of quantize.hpp.
#include "cuda_int8_rows.cuh"
#include "cuda_int8_seen.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

/// Blocks of a multiprocessor: few registers, since the next kernel begins beside them.
constexpr int blocks_at_once(int head_dim) { return head_dim == 64 ? 4 : head_dim == 128 ? 3 : 2; }

/// One block per head, one warp per block of keys that counts.
/// \param beside  the next kernel may begin at once: with more heads than have a place. Else it begins
///                when the first keys have been read, or it would slow these down and gain nothing
template <int HeadDim>
__global__ void __launch_bounds__(32 * smoothing_samples, blocks_at_once(HeadDim))
    mean_kernel(const __grid_constant__ Int8Problem p, bool bits, bool beside, Index first_block) {
    if (beside) start_next_kernel();
    __shared__ float sums[smoothing_samples * HeadDim];
    __shared__ KeyBlock found[smoothing_samples];
    const Index n = first_block + blockIdx.x;
    const KeyHead head(p, n);
    const Index stride = smoothing_stride(p.problem.S);
    const int samples = static_cast<int>((p.keys.blocks + stride - 1) / stride);
    const int warp = threadIdx.x / 32;
    if (warp < samples) {
        const Index block = warp * stride;
        const std::uint64_t seen = seen_of(p, head, block, bits);
        visit_element(p.problem.dtype, [&]<class T>(T) {
            // Nearly all the time is waiting for keys: rather few times, for many at once.
            constexpr int under_way = HeadDim == 256 ? 64 : 128;
            const KeyBlock of_block = measure_keys<T, HeadDim, under_way>(
                p.problem, head.b, head.hk, block, seen, p.wide_key, sums + warp * HeadDim);
            if (threadIdx.x % 32 == 0) found[warp] = of_block;
        });
    }
    start_next_kernel();
    __syncthreads();
    for (int e = threadIdx.x; e < HeadDim; e += blockDim.x)
        p.keys.mean[n * HeadDim + e] = mean_of(sums + e, HeadDim, found, samples);
    if (threadIdx.x == 0) p.keys.floating[n] = false;  // until the next kernel finds one
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, bool bits, cudaStream_t stream) {
    const Index heads = p.problem.B * p.keys.heads;
    prefer_shared_memory<mean_kernel<HeadDim>>();  // so does the next kernel
    launch<mean_kernel<HeadDim>>(heads, 32 * smoothing_samples, 0, stream, p, bits,
                                 heads > blocks_at_once(HeadDim) * multiprocessors());
}

}  // namespace

void average_keys(const Int8Problem& p, bool bits, cudaStream_t stream) {
    if (p.keys.blocks == 0) return;
    switch (p.keys.head_dim) {
        case 64:
            return launch_head_dim<64>(p, bits, stream);
        case 128:
            return launch_head_dim<128>(p, bits, stream);
        default:
            return launch_head_dim<256>(p, bits, stream);
    }
}

}  // namespace attn::gpu
