/// \file
/// \brief The main kernel of `cuda_mma` for HeadDim = 64, and the choice among all three.
#include "cuda_mma_launch.cuh"

namespace attn::gpu {
extern template void launch_masking<float16, 128>(const MmaProblem&, Masking, cudaStream_t);
extern template void launch_masking<float16, 256>(const MmaProblem&, Masking, cudaStream_t);
extern template void launch_masking<bfloat16, 128>(const MmaProblem&, Masking, cudaStream_t);
extern template void launch_masking<bfloat16, 256>(const MmaProblem&, Masking, cudaStream_t);
template void launch_mma<float16>(const MmaProblem&, Masking, cudaStream_t);
template void launch_mma<bfloat16>(const MmaProblem&, Masking, cudaStream_t);
const void* some_mma_kernel() {
    return reinterpret_cast<const void*>(
        mma_kernel<MainShape<bfloat16, 64, false>, Masking::none, std::uint8_t>);
}
}  // namespace attn::gpu
