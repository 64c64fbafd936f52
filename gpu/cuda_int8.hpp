/// \file
/// \brief What the parts of tier `cuda_int8` share on the host side.
///
/// | file                   | part                                                           |
/// |------------------------|----------------------------------------------------------------|
/// | cuda_int8.cu           | the plan: which kernels a problem takes, in which memory       |
/// | cuda_int8_whole.cuh    | queries and keys become integers: one or two threads a row     |
/// | cuda_int8_rows.cuh     | the same for rows of any length: a few lanes a row             |
/// | cuda_int8_seen.cuh     | which keys some query may see                                  |
/// | cuda_int8_mean.cu      | the pre-pass: the mean of K                                    |
/// | cuda_int8_round.cu     | the pre-pass: integers of Q and K                              |
/// | cuda_int8_round.cuh    | how it shares its work, and what it writes beside the integers |
/// | cuda_int8_tile.cuh     | the integer product, and its way back to scores                |
/// | cuda_int8_kernel.cuh   | the main kernel; compiled by cuda_int8_{64,128,256}.cu         |
/// | cuda_int8_wgmma.cuh    | the same on sm_90a through `wgmma`                             |
/// | cuda_int8_pipeline.cuh | its shared memory, its barriers, the two warps that copy       |
/// | cuda_int8_attend.cuh   | its loop over tiles of keys                                    |
/// | cuda_int8_hide.cuh     | what it hides of a tile's scores, or adds to them              |
/// | cuda_int8_fused.cu     | small inputs: everything in one kernel                         |
/// | cuda_int8_fill.cuh     | its tiles of values and of the mask                            |
/// | cuda_int8_error.cu     | heads whose error is above the caller's limit                  |
///
/// The softmax, the product with V, masks and stores are those of `cuda_mma`. Rows of integers lie
/// in global memory as they will in shared memory, swizzled: a tile is one straight copy.
#pragma once

#include "cuda_mma.hpp"
#include "tensor_map.hpp"

#include <attn/quantize.hpp>

namespace attn::gpu {

/// \brief 64 keys, one bit each: with integers or not. Of a key that no query sees, the pre-pass
///        makes integers as of any other; it counts neither for the mean nor as `floating`.
struct KeyBlock {
    std::uint64_t integer;   ///< all numbers of the key are quantizable; in a mean: and it is seen
    std::uint64_t floating;  ///< some query sees the key, and a number of it is not
};
static_assert(smoothing_block == 64, "one bit for each key of a block");

/// \brief K as integers. Which keys count for the mean depends on the mask, so query heads that
///        differ in it do not share integers: `heads` is H, or Hq where each head has its own mask.
struct Int8Keys {
    Index heads = 0, blocks = 0;       ///< blocks of 64 keys; behind S come zeros
    int head_dim = 0;                  ///< E rounded up: 64, 128, 256
    std::int8_t* key = nullptr;        ///< (B, heads, 64 blocks, head_dim), rows `swizzled`
    float* scale = nullptr;            ///< (B, heads, 64 blocks)
    KeyBlock* block = nullptr;         ///< (B, heads, blocks)
    float* mean = nullptr;             ///< (B, heads, head_dim)
    std::uint8_t* floating = nullptr;  ///< (B, heads) has a key without integers
    /// (B, heads, blocks) the largest square of a norm among a block's rounded keys; infinite: nobody
    /// knows. Null: not asked
    float* square = nullptr;

    /// \brief Place of query head h of batch b among (B, heads).
    ATTN_HD Index place(const Problem& p, Index b, Index h) const {
        return b * heads + h / (p.Hq / heads);
    }
};

/// \brief Q as integers; `rows` is L rounded up to whole query tiles.
struct Int8Queries {
    Index rows = 0;
    std::int8_t* query = nullptr;  ///< (B, Hq, rows, head_dim), rows `swizzled` (fragments.hpp)
    float* factor = nullptr;       ///< (B, Hq, rows) step * |scale|, in the kernel's units
    float* shift = nullptr;        ///< (B, Hq, rows) q . mean, which smoothing took; for logsumexp
    std::uint8_t* without = nullptr;  ///< (B, Hq, rows) 1: a number of the row has no integer
    /// (B, Hq, rows) of the norm of the rounded row * |scale|, in the kernel's units: no score of the row
    /// is above the root of this times a key's (Cauchy and Schwarz). Null: not asked
    float* square = nullptr;
};

/// \brief Parameters of the kernels. Of `MmaProblem`, query and key are not used.
struct Int8Problem : MmaProblem {
    Int8Keys keys;
    Int8Queries queries;
    bool wide_query = false, wide_key = false, wide_value = false;  ///< 16 bytes at a time
    /// (B, Hq, query tiles) set: for the second pass. The pre-pass makes them 0.
    std::uint8_t* again = nullptr;
    /// Blocks of rows that were taken beyond the first one of each block of the grid: 0 at first, too.
    unsigned long long* next_block = nullptr;
    bool wgmma = false;  ///< by the kernel of cuda_int8_wgmma.cuh

    MappedRows values() const {
        return {problem.dtype == DType::float16 ? DType::float16 : DType::bfloat16,
                value,
                problem.B,
                problem.H,
                problem.S,
                value_columns,
                value_stride};
    }
    /// \brief The mask: its elements if it is dense, else bytes of 8 bits.
    MappedRows mask_rows(bool dense) const {
        const Problem& p = problem;
        const int together = p.mask.dtype == DType::float32 ? 32 : 64;
        if (dense) return {p.mask.dtype, mask, p.B, p.Hq, p.L, p.S, mask_stride, together};
        const Strides bytes{4 * mask_stride.batch, 4 * mask_stride.head, 4 * mask_stride.row};
        return {DType::boolean, mask, p.B, p.Hq, p.L, 8 * keys.blocks, bytes, 16};
    }
};

/// \brief Columns of a kernel: E and Ev rounded up.
inline int int8_head_dim(const Problem& p) {
    const Index widest = p.E > p.Ev ? p.E : p.Ev;
    return widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
}
/// \brief Heads of integers, see `Int8Keys`.
inline Index int8_key_heads(const Problem& p) {
    return p.mask_kind != MaskKind::none && p.mask.stride[1] != 0 ? p.Hq : p.H;
}
/// \brief Query rows of a block of the main kernel.
ATTN_HD inline int int8_tile_rows(int head_dim) { return head_dim == 256 ? 64 : 128; }

/// \brief Queues the pre-pass: fills `p.keys` and `p.queries`.
void quantize(const Int8Problem& p, Masking masking, cudaStream_t stream);
/// \brief Its first part: fills `p.keys.mean`, clears `p.keys.floating`.
/// \param bits  the mask has been packed to bits
void average_keys(const Int8Problem& p, bool bits, cudaStream_t stream);

/// \brief Queues the main kernel and its second pass. \tparam T  of the product with V
template <class T>
void launch_int8(const Int8Problem& p, Masking masking, cudaStream_t stream);
/// \brief Any kernel of the family, for `probe`.
const void* some_int8_kernel();

/// \brief Can the fused kernel take the problem? All keys of a head stay in shared memory.
bool fits_int8_fused(const Problem& p);
/// \brief Queues the kernel that does everything.
void launch_int8_fused(const Int8Problem& p, cudaStream_t stream);

/// \brief Queues the estimate of each head's error: above[b, h] = 1 where it exceeds the limit.
/// \param samples  `int8_sample_floats` floats
void find_heads_above(const Int8Problem& p, float* samples, std::uint8_t* above,
                      cudaStream_t stream);
std::size_t int8_sample_floats(const Problem& p);

}  // namespace attn::gpu
