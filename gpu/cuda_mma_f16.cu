/// \file
/// \brief The main kernel of `cuda_mma` for float16.
#include "cuda_mma_launch.cuh"

namespace attn::gpu {
template void launch_mma<float16>(const MmaProblem&, Masking, cudaStream_t);
}  // namespace attn::gpu
