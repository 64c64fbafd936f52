/// \file
/// \brief The main kernel of `cuda_int8` with values in float16, HeadDim = 64, and the choice among
///        all three.
#include "cuda_int8_launch.cuh"

namespace attn::gpu {
extern template void launch_int8_masking<float16, 128>(const Int8Problem&, Masking, cudaStream_t);
extern template void launch_int8_masking<float16, 256>(const Int8Problem&, Masking, cudaStream_t);
template void launch_int8<float16>(const Int8Problem&, Masking, cudaStream_t);
}  // namespace attn::gpu
