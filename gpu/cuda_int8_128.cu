/// \file
/// \brief The main kernel of `cuda_int8` for HeadDim = 128: a file of its own, so that compilers can
///        work side by side.
#include "cuda_int8_launch.cuh"

namespace attn::gpu {
template void launch_int8_masking<float16, 128>(const Int8Problem&, Masking, cudaStream_t);
template void launch_int8_masking<bfloat16, 128>(const Int8Problem&, Masking, cudaStream_t);
}  // namespace attn::gpu
