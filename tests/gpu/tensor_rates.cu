/// \file
/// \brief How fast a GPU's units are through the instructions that these kernels use: `mma.sync` on
///        16 and on 8 bits, and `ex2`. Prints JSON; run_gpu.py keeps it. The answer to "why are
///        8-bit scores not twice as fast" is one of its lines.
#include "mma.cuh"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <vector>

namespace {

using namespace attn;
using namespace attn::gpu;

constexpr int chains = 16;  // independent sums of a warp: more than the latency of any of the units
constexpr int rounds = 2000, warps = 4, blocks_each = 2;

template <class T>
__global__ void half_kernel(float* out) {
    float c[chains][4] = {};
    const std::uint32_t a[4] = {threadIdx.x, 1, 2, 3};
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < chains; ++i) multiply_add<T>(c[i], a, r, i);
    float sum = 0;
    for (auto& x : c) sum += x[0] + x[1] + x[2] + x[3];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void integer_kernel(float* out) {
    int c[chains][4] = {};
    const std::uint32_t a[4] = {threadIdx.x, 1, 2, 3};
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < chains; ++i) multiply_add(c[i], a, r, i, c[i]);
    int sum = 0;
    for (auto& x : c) sum += x[0] + x[1] + x[2] + x[3];
    out[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<float>(sum);
}

__global__ void exponential_kernel(float* out) {
    float c[chains];
    for (int i = 0; i < chains; ++i) c[i] = threadIdx.x + i;
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < chains; ++i) c[i] = exp2_fast(c[i]);
    float sum = 0;
    for (float x : c) sum += x;
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

/// 1e12 operations a second, the best of several runs.
double rate(void (*kernel)(float*), double operations_of_a_warp, int processors, float* out) {
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    float best = 1e30f;
    const int blocks = processors * blocks_each;
    for (int run = 0; run < 6; ++run) {
        cudaEventRecord(begin);
        kernel<<<blocks, 32 * warps>>>(out);
        cudaEventRecord(end);
        cudaEventSynchronize(end);
        float ms = 0;
        cudaEventElapsedTime(&ms, begin, end);
        best = std::min(best, ms);
    }
    return operations_of_a_warp * rounds * chains * warps * blocks / best * 1e-9;
}

}  // namespace

int main() {
    int processors = 0;
    if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0) != cudaSuccess) {
        std::fprintf(stderr, "tensor_rates: no GPU\n");
        return 2;
    }
    float* out = nullptr;
    cudaMalloc(&out, sizeof(float) * 32 * warps * processors * blocks_each);
    const double product16 = 2.0 * 16 * 8 * 16, product8 = 2.0 * 16 * 8 * 32;
    const double f16 = rate(half_kernel<float16>, product16, processors, out);
    const double bf16 = rate(half_kernel<bfloat16>, product16, processors, out);
    const double s8 = rate(integer_kernel, product8, processors, out);
    const double ex2 = rate(exponential_kernel, 32, processors, out);
    const cudaError_t code = cudaGetLastError();
    std::printf(
        "{\"processors\": %d, \"mma_f16_tflops\": %.1f, \"mma_bf16_tflops\": %.1f, "
        "\"mma_s8_tops\": %.1f, \"ex2_per_second_1e12\": %.3f}\n",
        processors, f16, bf16, s8, ex2);
    cudaFree(out);
    return code != cudaSuccess;
}
