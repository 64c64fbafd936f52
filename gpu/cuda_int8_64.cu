/// \file
/// \brief The main kernel of `cuda_int8` for HeadDim = 64, and the choice among all three.
#include "cuda_int8_launch.cuh"

namespace attn::gpu {
extern template void launch_int8_masking<float16, 128>(const Int8Problem&, Masking, cudaStream_t);
extern template void launch_int8_masking<float16, 256>(const Int8Problem&, Masking, cudaStream_t);
extern template void launch_int8_masking<bfloat16, 128>(const Int8Problem&, Masking, cudaStream_t);
extern template void launch_int8_masking<bfloat16, 256>(const Int8Problem&, Masking, cudaStream_t);
template void launch_int8<float16>(const Int8Problem&, Masking, cudaStream_t);
template void launch_int8<bfloat16>(const Int8Problem&, Masking, cudaStream_t);
const void* some_int8_kernel() {
    return reinterpret_cast<const void*>(
        int8_kernel<Int8MainShape<bfloat16, 64, false>, Masking::none, std::uint8_t>);
}
}  // namespace attn::gpu
