/// \file
/// \brief The main kernel of `cuda_int8` with values in float16.
#include "cuda_int8_launch.cuh"

namespace attn::gpu {
template void launch_int8<float16>(const Int8Problem&, Masking, cudaStream_t);
}  // namespace attn::gpu
