/// \file
/// \brief What the two kernels for short queries share on the host side: cuda_mma_split.cu and, on
///        sm_90a, cuda_mma_decode.cu.
#pragma once

#include "cuda_mma.hpp"
#include "tensor_map.hpp"

namespace attn::gpu {

/// \brief Keys of a part, the last one's aside: whole turns of four warps with 16 keys each.
inline Index split_keys(const MmaProblem& p) {
    constexpr Index turn = 64;
    return ((p.problem.S + p.splits - 1) / p.splits + turn - 1) / turn * turn;
}

/// \brief Floats of what a row found in a part of the keys: Ev columns, rounded up to whole float4,
///        then a float4 of which maximum and sum are the first two.
ATTN_HD constexpr Index part_floats(Index Ev) { return (Ev + 3) / 4 * 4 + 4; }

inline MappedRows mapped_keys(const MmaProblem& p) {
    const Problem& q = p.problem;
    return {q.dtype, p.key, q.B, q.H, q.S, p.query_columns, p.key_stride};
}
inline MappedRows mapped_values(const MmaProblem& p) {
    const Problem& q = p.problem;
    return {q.dtype, p.value, q.B, q.H, q.S, p.value_columns, p.value_stride};
}

/// \brief Does the kernel of cuda_mma_decode.cu take it? On sm_90a, where every row sees all keys
///        (nothing to hide, so no second pass) and the copy engine can walk keys and values.
bool can_decode(const MmaProblem& p);
/// \brief Do its blocks have all parts of their heads, and room for them? Then no partial results
///        leave them.
bool merges_itself(const MmaProblem& p);
/// \brief Queues that kernel, and the merge where it does not merge itself.
template <class T>
void launch_decode(const MmaProblem& p, float* partial, cudaStream_t stream);
/// \brief Queues the merge of partial results.
template <class T>
void launch_merge(const MmaProblem& p, const float* partial, cudaStream_t stream);

}  // namespace attn::gpu
