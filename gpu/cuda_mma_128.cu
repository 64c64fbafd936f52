/// \file
/// \brief The main kernel of `cuda_mma` for HeadDim = 128: a file of its own, so that compilers can
///        work side by side.
#include "cuda_mma_launch.cuh"

namespace attn::gpu {
template void launch_masking<float16, 128>(const MmaProblem&, Masking, cudaStream_t);
template void launch_masking<bfloat16, 128>(const MmaProblem&, Masking, cudaStream_t);
}  // namespace attn::gpu
