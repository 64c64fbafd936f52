/// \file
/// \brief Tier `cuda_simple`: the formula on another machine.
///
/// Builds on `literal`. New here, and nothing else: thousands of threads. Each of the three steps
/// is a kernel of its own in which one thread computes one number, and all that one step hands to
/// the next goes through global memory:
///
///     scores   (B, Hq, L, S)   one thread per element: a dot product
///     softmax  (B, Hq, L)      one thread per row: in place, scores become probabilities
///     mix      (B, Hq, L, Ev)  one thread per element: a weighted mean of values
///
/// The price is the L x S matrix: written once, read and written by the softmax, read Ev times by
/// the last step. As in `literal`, a key that may not be seen is not read. Limits: none but memory.
/// Taught in \ref tier_cuda_simple.
#include "device.hpp"
#include "mask.cuh"

#include "registry.hpp"
#include "saturate.hpp"

#include <math_constants.h>

namespace attn {
namespace {

using gpu::launch;

constexpr int threads_per_block = 256;

/// This thread's number among all threads of all launches.
__device__ Index thread_index(Index first_block) {
    return (first_block + blockIdx.x) * threads_per_block + threadIdx.x;
}

/// \brief score (B, Hq, L, S): one thread per element.
template <class T>
__global__ void scores(const Problem p, Compute<T>* score, Index first_block) {
    Index index = thread_index(first_block);
    if (index >= p.B * p.Hq * p.L * p.S) return;
    Compute<T>& mine = score[index];
    const Index j = index % p.S;
    const Index i = (index /= p.S) % p.L;
    const Index h = (index /= p.L) % p.Hq;
    const Index b = index / p.Hq;

    //! [scores]
    const double mask = gpu::mask_at<double>(p, b, h, i, j);
    double dot = 0;
    if (mask != -CUDART_INF)
        for (Index e = 0; e < p.E; ++e)
            dot += double(as<const T, 4>(p.query)(b, h, i, e)) *
                   double(as<const T, 4>(p.key)(b, p.key_head(h), j, e));
    mine = Compute<T>(mask == -CUDART_INF ? mask : p.scale * dot + mask);
    //! [scores]
}

/// \brief Scores of one row become probabilities: one thread per row.
template <class T>
__global__ void softmax(const Problem p, Compute<T>* score, Index first_block) {
    Index index = thread_index(first_block);
    if (index >= p.B * p.Hq * p.L) return;
    Compute<T>* row = score + index * p.S;  // (S)

    //! [softmax]
    double max = -CUDART_INF;
    for (Index j = 0; j < p.S; ++j)
        if (row[j] > max) max = row[j];
    double sum = 0;
    for (Index j = 0; j < p.S; ++j)
        if (row[j] != -CUDART_INF) sum += exp(double(row[j]) - max);
    for (Index j = 0; j < p.S; ++j)  // exp(-inf - -inf) would be NaN in a row that sees nothing
        row[j] = row[j] == -CUDART_INF ? 0 : Compute<T>(exp(double(row[j]) - max) / sum);
    //! [softmax]

    if (p.logsumexp.absent()) return;
    const Index i = index % p.L;
    const Index h = (index /= p.L) % p.Hq;
    as<Compute<T>, 3>(p.logsumexp)(index / p.Hq, h, i) =
        Compute<T>(sum == 0 ? -CUDART_INF : max + log(sum));
}

/// \brief out (B, Hq, L, Ev): one thread per element.
template <class T>
__global__ void mix(const Problem p, const Compute<T>* probability, Index first_block) {
    Index index = thread_index(first_block);
    if (index >= p.B * p.Hq * p.L * p.Ev) return;
    const Index e = index % p.Ev;
    const Compute<T>* row = probability + (index /= p.Ev) * p.S;  // (S)
    const Index i = index % p.L;
    const Index h = (index /= p.L) % p.Hq;
    const Index b = index / p.Hq;

    //! [mix]
    double mean = 0;
    for (Index j = 0; j < p.S; ++j)
        if (row[j] != 0) mean += double(row[j]) * as<const T, 4>(p.value)(b, p.key_head(h), j, e);
    as<T, 4>(p.out)(b, h, i, e) = T(Compute<T>(mean));
    //! [mix]
}

/// Bytes of the score matrix, (B, Hq, L, S).
std::size_t workspace_bytes(const Problem& p) {
    const std::size_t element = p.dtype == DType::float64 ? sizeof(double) : sizeof(float);
    return (counted(p.B) * counted(p.Hq) * counted(p.L) * counted(p.S) * Saturating{element}).count;
}

Index blocks_for(Index numbers) { return (numbers + threads_per_block - 1) / threads_per_block; }

void run_on_device(const Problem& p) {
    const gpu::Workspace workspace(p, workspace_bytes(p));
    const cudaStream_t stream = gpu::stream_of(p);
    const Index rows = p.B * p.Hq * p.L;
    visit_float(p.dtype, [&]<class T>(T) {
        auto* score = reinterpret_cast<Compute<T>*>(workspace.data());  // (B, Hq, L, S)
        launch<scores<T>>(blocks_for(rows * p.S), threads_per_block, 0, stream, p, score);
        launch<softmax<T>>(blocks_for(rows), threads_per_block, 0, stream, p, score);
        launch<mix<T>>(blocks_for(rows * p.Ev), threads_per_block, 0, stream, p,
                       static_cast<const Compute<T>*>(score));
    });
}

}  // namespace

const Tier tier_cuda_simple = {
    .limits = {.dtypes = all_floats, .requires_ = "sm_80"},
    .available = [] { return gpu::probe(80, reinterpret_cast<const void*>(scores<float>)); },
    .scratch_bytes = workspace_bytes,
    .run = [](const Problem& p) { gpu::on_device(p, run_on_device); },
};

}  // namespace attn
