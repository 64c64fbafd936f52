/// \file
/// \brief The main kernel of `cuda_mma` for bfloat16, HeadDim = 256: a file of its own, so that
///        compilers can work side by side.
#include "cuda_mma_launch.cuh"

namespace attn::gpu {
template void launch_masking<bfloat16, 256>(const MmaProblem&, Masking, cudaStream_t);
}  // namespace attn::gpu
