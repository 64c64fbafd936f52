/// \file
/// \brief The main kernel of `cuda_mma` for bfloat16.
#include "cuda_mma_launch.cuh"

namespace attn::gpu {
template void launch_mma<bfloat16>(const MmaProblem&, Masking, cudaStream_t);
const void* some_mma_kernel() {
    return reinterpret_cast<const void*>(
        mma_kernel<MainShape<bfloat16, 64, false>, Masking::none, std::uint8_t>);
}
}  // namespace attn::gpu
