/// \file
/// \brief Which heads of `cuda_int8` are further off than the caller allows: the estimate of
///        cpu/int8_error.hpp on the device, without asking the host.
///
/// 32 rows of each head are computed a second time, in float32, and compared with what the
/// integers gave; what a sample may miss, the few rows that one loud key half decides, is estimated
/// from the steps of the keys. The heads that exceed the limit are marked in device memory, and the
/// kernels of `cuda_mma`, queued next, compute those and leave the others alone.
#include "cuda_int8.hpp"
#include "device.hpp"
#include "mask.cuh"

#include "saturate.hpp"

#include <attn/row_state.hpp>

namespace attn::gpu {
namespace {

constexpr int sampled_rows = 32;       // of 256, 8 were too few for heads with loud keys
constexpr double sample_margin = 1.5;  // samples scatter
constexpr int warps = 8, most_columns = 256, most = most_columns / 32;

/// Of one sampled row: |out - exact|^2, |exact|^2, |query|^2; in double, where no square of a float
/// overflows or vanishes.
struct Sample {
    double error, size, query;
};

template <class Real>
__device__ inline Real warp_sum(Real x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/// One block per (head, sampled row): its warps take turns at the keys, then merge.
template <class T>
__global__ void __launch_bounds__(32 * warps)
    sample_kernel(const __grid_constant__ Int8Problem given, Sample* samples, Index first_block) {
    const Problem& p = given.problem;
    const Index index = first_block + blockIdx.x, head = index / sampled_rows;
    const Index b = head / p.Hq, h = head % p.Hq, hk = p.key_head(h);
    const Index rows = p.L < sampled_rows ? p.L : sampled_rows, n = index % sampled_rows;
    if (n >= rows) {
        if (threadIdx.x == 0) samples[index] = {0, 0, 0};
        return;
    }
    const Index i = (2 * n + 1) * p.L / (2 * rows);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto query = as<const T, 4>(p.query);
    const auto key = as<const T, 4>(p.key);
    const auto value = as<const T, 4>(p.value);
    float q[most], out[most] = {};
    double query_size = 0;
#pragma unroll
    for (int c = 0; c < most; ++c) {
        const Index e = lane + 32 * c;
        q[c] = e < p.E ? to_float(query(b, h, i, e)) : 0.0f;
        query_size += static_cast<double>(q[c]) * q[c];
    }
    const MaskRow masks(p, b, h, i);
    RowState<float> row;
    for (Index j = warp; j < p.visible(i); j += warps) {
        const float mask = masks.at<float>(j);
        if (mask == -CUDART_INF_F) continue;
        float dot = 0;
#pragma unroll
        for (int c = 0; c < most; ++c)
            if (lane + 32 * c < p.E) dot += q[c] * to_float(key(b, hk, j, lane + 32 * c));
        const float score = static_cast<float>(p.scale) * warp_sum(dot) + mask;
        const float shrink = row.grow(score), weight = row.weight(score);
        row.sum += weight;
#pragma unroll
        for (int c = 0; c < most; ++c)
            if (lane + 32 * c < p.Ev)
                out[c] = out[c] * shrink + weight * to_float(value(b, hk, j, lane + 32 * c));
    }
    __shared__ float parts[warps][most_columns];
    __shared__ RowState<float> states[warps];
#pragma unroll
    for (int c = 0; c < most; ++c) parts[warp][lane + 32 * c] = out[c];
    if (lane == 0) states[warp] = row;
    __syncthreads();
    if (warp != 0) return;
    RowState<float> whole;
    for (int w = 0; w < warps; ++w) whole = merge(whole, states[w]).state;
    const auto got = as<T, 4>(p.out);
    double error = 0, size = 0;
    for (int c = 0; c < most; ++c) {
        const int e = lane + 32 * c;
        if (e >= p.Ev) break;
        float exact = 0;
        for (int w = 0; w < warps; ++w)
            if (states[w].sum != 0) exact += std::exp(states[w].max - whole.max) * parts[w][e];
        exact *= whole.normalizer();
        const double off = static_cast<double>(to_float(got(b, h, i, e))) - exact;
        error += off * off, size += static_cast<double>(exact) * exact;
    }
    error = warp_sum(error), size = warp_sum(size), query_size = warp_sum(query_size);
    if (lane == 0) samples[index] = {error, size, query_size};
}

/// One warp per query head: the samples, and the loudest of its keys.
__global__ void __launch_bounds__(32)
    mark_kernel(const __grid_constant__ Int8Problem given, const Sample* samples,
                std::uint8_t* above, Index first_block) {
    const Problem& p = given.problem;
    const Index head = first_block + blockIdx.x, b = head / p.Hq, h = head % p.Hq;
    const int lane = threadIdx.x;
    const float* scale = given.keys.scale + given.keys.place(p, b, h) * given.keys.blocks * 64;
    float largest = 0, squares = 0;
    for (Index j = lane; j < p.S; j += 32)
        largest = fmaxf(largest, scale[j]), squares += scale[j] * scale[j];
    for (int step = 16; step > 0; step /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    squares = warp_sum(squares);
    if (lane != 0) return;
    double error = 0, size = 0, query = 0;
    for (int n = 0; n < sampled_rows; ++n) {
        const Sample& s = samples[head * sampled_rows + n];
        error += s.error, size += s.size, query += s.query;
    }
    const double limit = p.max_relative_error;
    // Comparisons for which NaN counts as too much.
    bool exceeds = !(sample_margin * sqrt(error) <= limit * sqrt(size));
    const double loudest = largest;
    if (loudest * loudest * static_cast<double>(p.S) > 4.0 * squares) {
        const double rows = static_cast<double>(p.L < sampled_rows ? p.L : sampled_rows);
        const double length = sqrt(query / rows);
        exceeds |= !(0.41 * 0.25 * sqrt(2.0) * fabs(p.scale) * loudest * length <= limit);
    }
    above[head] = exceeds;
}

}  // namespace

std::size_t int8_sample_floats(const Problem& p) {
    return (counted(p.B) * counted(p.Hq) * Saturating{sampled_rows * sizeof(Sample) / 4}).count;
}

void find_heads_above(const Int8Problem& p, float* memory, std::uint8_t* above,
                      cudaStream_t stream) {
    auto* samples = reinterpret_cast<Sample*>(memory);
    const Index heads = p.problem.B * p.problem.Hq;
    const auto sample = [&]<class T>(T) {
        launch<sample_kernel<T>>(heads * sampled_rows, 32 * warps, 0, stream, p, samples);
    };
    switch (p.problem.dtype) {
        case DType::float32:
            sample(float{});
            break;
        case DType::float16:
            sample(float16{});
            break;
        default:
            sample(bfloat16{});
    }
    launch<mark_kernel>(heads, 32, 0, stream, p, static_cast<const Sample*>(samples), above);
}

}  // namespace attn::gpu
