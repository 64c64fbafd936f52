/// \file
/// \brief Queries become integers, each row once, before the main kernel of `cuda_int8`: a prologue
///        of that kernel would be compiled into every one of its forms, and hold up its first tile.
///
/// Cost: Q is read once and written once in half the bytes.
#include "cuda_int8_whole.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr int threads_per_block = 128;

/// One block per tile of `Rows` rows of a head.
/// \param natural  the main kernel adds a mask before
/// it turns to units of log 2
template <int HeadDim, int Rows, bool whole>
__global__ void __launch_bounds__(threads_per_block, whole ? 3 : 1)
    queries_kernel(const __grid_constant__ Int8Problem p, bool natural, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    const Index index = first_block + blockIdx.x, tiles = p.queries.rows / Rows;
    const Index head = index / tiles, first_row = index % tiles * Rows;
    if (threadIdx.x == 0) {  // what the main kernel expects: see Int8Problem
        p.again[index] = false;
        if (index == 0) *p.next_block = 0;
    }
    const Index b = head / p.problem.Hq, h = head % p.problem.Hq;
    const Index at = head * p.queries.rows + first_row;  // of all heads
    std::int8_t* const query = p.queries.query + at * HeadDim;
    const QueryScales scales{p.queries.factor + at, p.queries.shift + at, p.queries.without + at};
    const float size = fabsf(static_cast<float>(p.problem.scale));
    const float unit = natural ? size : size * 1.44269504f;
    const float sign = p.problem.scale < 0 ? -1.0f : 1.0f;
    const float* mean = p.problem.logsumexp.absent()
                            ? nullptr  // no shift is asked for
                            : p.keys.mean + p.keys.place(p.problem, b, h) * HeadDim;
    if constexpr (whole) {
        __shared__ __align__(1024) unsigned char tile[32 * 1024];
        const auto place = [&](int row, int piece) {
            return reinterpret_cast<uint4*>(tile + swizzled<HeadDim>(row, piece));
        };
        visit_element(p.problem.dtype, [&]<class T>(T) {
            quantize_whole_queries<T, HeadDim, Rows, threads_per_block, sizeof tile>(
                p.problem, b, h, first_row, unit, sign, mean, place, scales, tile, false);
        });
        __syncthreads();
        constexpr int pieces = HeadDim / 16;
        for (int n = static_cast<int>(threadIdx.x); n < Rows * pieces; n += threads_per_block)
            reinterpret_cast<uint4*>(query)[n] = reinterpret_cast<const uint4*>(tile)[n];
    } else {
        __shared__ float staging[threads_per_block / 32 * Rotation<HeadDim>::staging_floats];
        const auto place = [&](int row, int piece) {
            return reinterpret_cast<uint4*>(query + swizzled<HeadDim>(row, piece));
        };
        visit_element(p.problem.dtype, [&]<class T>(T) {
            quantize_queries<T, HeadDim, Rows, threads_per_block>(
                p.problem, b, h, first_row, unit, sign, p.wide_query, mean, place, scales, staging);
        });
    }
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    constexpr int rows = HeadDim == 256 ? 64 : 128;
    const Index blocks = p.problem.B * p.problem.Hq * (p.queries.rows / rows);
    const bool natural = masking == Masking::additive;
    if (is_whole<HeadDim>(p.problem.E, p.wide_query))
        launch_early<queries_kernel<HeadDim, rows, (HeadDim <= 128)>>(blocks, threads_per_block, 0,
                                                                      stream, p, natural);
    else
        launch_early<queries_kernel<HeadDim, rows, false>>(blocks, threads_per_block, 0, stream, p,
                                                           natural);
}

}  // namespace

void quantize_queries(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    switch (p.keys.head_dim) {
        case 64:
            return launch_head_dim<64>(p, masking, stream);
        case 128:
            return launch_head_dim<128>(p, masking, stream);
        default:
            return launch_head_dim<256>(p, masking, stream);
    }
}

}  // namespace attn::gpu
