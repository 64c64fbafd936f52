/// \file
/// \brief What the parts of tier `cuda_mma` share on the host side: the kernel's parameters, and
///        the functions that queue its kernels.
///
/// | file                     | part                                                         |
/// |--------------------------|--------------------------------------------------------------|
/// | cuda_mma.cu              | the plan: which kernels a problem takes, in which memory     |
/// | cuda_mma_copy.cuh        | tiles on their way to shared memory                          |
/// | cuda_mma_tile.cuh        | the steps of one warp: scores, mask, softmax, weighted sum   |
/// | cuda_mma_mask.cuh        | the mask of a tile of keys                                   |
/// | cuda_mma_kernel.cuh      | the main kernel; compiled by cuda_mma_{64,128,256}.cu        |
/// | cuda_mma_split.cu        | short queries: keys split over blocks                        |
/// | cuda_mma_decode.cu       | the same on sm_90a, where nothing is hidden: the copy engine |
/// | cuda_mma_merge.cuh       | their partial results merged                                 |
/// | cuda_mma_float32.cu      | float32 through three bfloat16 parts                         |
/// | cuda_mma_float32_hopper.cu | the same on sm_90a, through `wgmma`                        |
/// | cuda_mma_prepare.cu      | packing, mask bits and tile classes, float32 into parts      |
#pragma once

#include <attn/tier.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace attn::gpu {

/// \brief How the main kernel gets its mask.
enum class Masking {
    none,   ///< causality and the end of the keys only
    bits,   ///< one bit per score (`mask_bit`), a class per tile: a boolean mask that heads share
    bytes,  ///< one byte per score: a boolean mask that is read only once
    additive,  ///< float32, or the dtype of query
};

/// \brief Strides in elements over (batch, head, row); the last axis is contiguous.
struct Strides {
    Index batch = 0, head = 0, row = 0;
    __host__ __device__ Index operator()(Index b, Index h, Index i) const {
        return b * batch + h * head + i * row;
    }
};

/// \brief Parameters of the tensor-core kernels. Pointers and strides here are of what the kernels
///        read, which may be packed copies; `problem` still describes the caller's tensors.
struct MmaProblem {
    Problem problem;
    /// 16-byte aligned rows: pointers and strides are multiples of 8 elements.
    const std::uint16_t* query = nullptr;  // (B, Hq, L, >= E)
    const std::uint16_t* key = nullptr;    // (B, H, S, >= E)
    const std::uint16_t* value = nullptr;  // (B, H, S, >= Ev)
    Strides query_stride, key_stride, value_stride;
    /// Elements of a row that may be read: E and Ev rounded up to 8, zeros beyond E and Ev.
    int query_columns = 0, value_columns = 0;
    bool wide_out = false;  ///< out can be written 16 bytes at a time

    float scale = 1;         ///< |scale|, or 1 when that is 0
    float unit = 1;          ///< scale * log2(e): scores in units of log 2
    float query_factor = 1;  ///< multiplies query first: -1, 0 or 1

    const void* mask = nullptr;  ///< bits: uint32 words of 32 keys, rows of an even number; else
                                 ///< elements, 16-byte rows.
    Strides mask_stride;         ///< in words or elements
    int mask_stages = 1;         ///< tiles of a float32 mask in shared memory: 1 or 2
    const std::uint8_t* tile_class = nullptr;  ///< (.., ceil(L / 64), ceil(S / 64)), see TileClass
    Strides class_stride;

    /// (B, Hq, query tiles) set by the main and the float32 kernel: blocks for the second pass.
    /// Null where the main kernel needs none: where nothing can be hidden.
    std::uint8_t* again = nullptr;

    const std::uint8_t* heads = nullptr;  ///< (B, Hq): a head of 0 is left alone; null: none is
    __device__ bool leaves(Index b, Index h) const {
        return heads != nullptr && heads[b * problem.Hq + h] == 0;
    }

    int query_tiles = 0;      ///< per head
    Index heads_in_turn = 1;  ///< whose tiles are dealt out by their number of keys: see `Place`
    int splits = 1;           ///< split kernel: parts of the keys
};

/// \brief What a 64 x 64 tile of a boolean mask holds, as bits.
enum TileClass : std::uint8_t { some_visible = 1, some_hidden = 2 };
inline constexpr int class_tile = 64;

/// \brief Can a mask or a causal rule hide a key?
__host__ __device__ inline bool can_hide(const Problem& p) {
    return p.mask_kind != MaskKind::none || p.diagonal < p.S;
}
/// \brief Sets `heads_in_turn`: under a causal rule, as many heads as the L2 cache holds with ease.
/// \param key_bytes  of a key and its value
inline void set_turns(MmaProblem& p, Index key_bytes) {
    constexpr Index cache = 16 << 20;
    const Problem& problem = p.problem;
    if (problem.S > 0 && problem.visible(0) < problem.S)
        p.heads_in_turn = cache / (problem.S * key_bytes) + 1;
}
/// \brief Query rows of a block of the main and the float32 kernel.
inline Index main_tile_rows(const Problem& p) { return p.E > 128 || p.Ev > 128 ? 64 : 128; }

/// \brief Queues the main kernel, and its second pass where `again` is set. HeadDim >= E, Ev is
///        chosen inside.
template <class T>
void launch_mma(const MmaProblem& p, Masking masking, cudaStream_t stream);
/// \brief Any kernel of the family, for `probe`.
const void* some_mma_kernel();

/// \brief Sets `query_tiles` and `splits`.
void set_split(MmaProblem& p);
/// \brief Do partial results lie in the workspace?
bool split_has_partial(const MmaProblem& p);
/// \brief Queues the split kernel and the merge.
/// \param partial  `split_partial_size` floats, if `split_has_partial`
template <class T>
void launch_split(const MmaProblem& p, float* partial, cudaStream_t stream);
/// \brief Parts that the keys are split into: depends on S alone.
int split_count(const Problem& p);
std::size_t split_partial_size(const Problem& p);

/// \brief Queues the float32 kernel: query, key and value hold three bfloat16 planes.
void launch_float32(const MmaProblem& p, cudaStream_t stream);

/// \brief Queues a copy of `from` (rank 4, any strides, elements of 1, 2 or 4 bytes) to packed rows
///        of `columns` elements, zeros behind the last one. Axes of stride 0 collapse.
void pack_rows(const TensorView& from, void* to, const Strides& to_stride, Index columns,
               cudaStream_t stream);
/// \brief The same for float32, each element as three bfloat16 parts, plane after plane in a row:
///        (.., 3, columns).
void split_rows(const TensorView& from, std::uint16_t* to, const Strides& to_stride, Index columns,
                cudaStream_t stream);
/// \brief The same for float32, rounded to bfloat16; what is finite stays finite.
void round_rows(const TensorView& from, std::uint16_t* to, const Strides& to_stride, Index columns,
                cudaStream_t stream);
/// \brief Queues the packing of a boolean mask to bits and tile classes.
void pack_mask(const TensorView& mask, std::uint32_t* bits, const Strides& bits_stride,
               std::uint8_t* classes, const Strides& class_stride, cudaStream_t stream);

/// \brief `cuda_mma` for the heads (B, Hq) that are marked in device memory; null: all.
/// \param workspace  `mma_workspace_bytes`
void run_mma_heads(const Problem& p, const std::uint8_t* heads, std::byte* workspace);
std::size_t mma_workspace_bytes(const Problem& p);

}  // namespace attn::gpu
