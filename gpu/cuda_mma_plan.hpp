/// \file
/// \brief Parts of a plan that the tensor-core tiers share: which tensors must be copied first, and
///        where in the workspace the copies lie. Decided from sizes and strides alone.
#pragma once

#include "cuda_mma.hpp"
#include "tensor_map.hpp"

#include "saturate.hpp"

namespace attn::gpu {

constexpr Index round_up(Index x, Index to) { return (x + to - 1) / to * to; }

/// \brief Can rows be read (or written) in pieces of 16 bytes?
template <class Void>
bool wide(const BasicTensorView<Void>& view) {
    const Index piece = 16 / static_cast<Index>(size_of(view.dtype));
    return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.stride[3] == 1 &&
           view.stride[0] % piece == 0 && view.stride[1] % piece == 0 &&
           view.stride[2] % piece == 0;
}

inline Strides strides_of(const TensorView& view) {
    return {view.stride[0], view.stride[1], view.stride[2]};
}

/// \brief Strides of a packed copy with rows of `row` elements; 0 where the original repeats.
inline Strides packed_strides(const TensorView& view, Index rows, Index row) {
    Strides s;
    Index size = row;
    if (view.stride[2] != 0) s.row = size, size *= rows;
    if (view.stride[1] != 0) s.head = size, size *= view.shape[1];
    if (view.stride[0] != 0) s.batch = size;
    return s;
}
/// \brief Elements of that copy.
inline Saturating packed_size(const TensorView& view, Index rows, Index row) {
    Saturating size = counted(row);
    if (view.stride[2] != 0) size = size * counted(rows);
    if (view.stride[1] != 0) size = size * counted(view.shape[1]);
    if (view.stride[0] != 0) size = size * counted(view.shape[0]);
    return size;
}

/// \brief A piece of the workspace.
struct Piece {
    std::size_t at = 0, bytes = 0;
    bool used() const { return bytes > 0; }
};

/// \brief Deals out the workspace in pieces of whole 256 bytes.
class Pieces {
  public:
    Piece take(Saturating wanted) {
        const Piece piece{bytes_, wanted.count};
        const Saturating total = Saturating{bytes_} + wanted + Saturating{255};
        bytes_ = total.count == SIZE_MAX ? SIZE_MAX : total.count / 256 * 256;
        return piece;
    }
    std::size_t bytes() const { return bytes_; }

  private:
    std::size_t bytes_ = 0;
};

/// \brief float32 on sm_90a (cuda_mma_float32_hopper.cu): rows up to 128 columns, laid out in
/// tiles.
inline bool can_tile_float32(const Problem& p) { return p.E <= 128 && p.Ev <= 128; }
/// \brief Is that the kernel, on the current device?
bool tiled_float32(const Problem& p);
/// \brief Strides of a tensor's tiles over batch and head, in 16-bit elements; 0 where the original
///        repeats.
/// \param size  becomes the number of elements
Strides tiled_strides(const Problem& p, const TensorView& view, bool is_query, Saturating& size);
/// \brief Queues that copy: three bfloat16 parts of each element times `factor`.
void tile_rows(const Problem& p, const TensorView& from, bool is_query, std::uint16_t* to,
               const Strides& to_stride, float factor, cudaStream_t stream);
/// \brief Queues the kernel: query, key and value hold such tiles.
void launch_tiled_float32(const MmaProblem& p, cudaStream_t stream);

/// \brief How the kernels get their mask.
struct MaskPlan {
    Masking masking = Masking::none;
    Piece mask, classes;  // packed copy or bits
    Strides mask_stride, class_stride;

    MaskPlan() = default;
    /// \param mapped  `copy_box` is to read the mask
    MaskPlan(const Problem& p, Pieces& pieces, bool mapped = false) {
        if (p.mask_kind == MaskKind::none) return;
        const TensorView& view = p.mask;
        mask_stride = strides_of(view);
        const bool as_it_is =
            wide(view) &&
            (!mapped || can_map({view.dtype, view.data, p.B, p.Hq, p.L, p.S, mask_stride}));
        if (p.mask_kind == MaskKind::additive) {
            masking = Masking::additive;
            if (as_it_is) return;
            const Index row = round_up(p.S, 8);
            mask_stride = packed_strides(view, p.L, row);
            mask = pieces.take(packed_size(view, p.L, row) * Saturating{size_of(view.dtype)});
            return;
        }
        // Bits pay when they are read at least twice.
        const bool shared = (view.stride[0] == 0 && p.B > 1) || (view.stride[1] == 0 && p.Hq > 1) ||
                            view.stride[2] == 0;
        if (!shared && as_it_is) {
            masking = Masking::bytes;
            return;
        }
        masking = Masking::bits;
        // The copy engine walks in steps of 16 bytes.
        const Index words = round_up(p.S, mapped ? 2 * class_tile : class_tile) / 32;
        mask_stride = packed_strides(view, p.L, words);
        mask = pieces.take(packed_size(view, p.L, words) * Saturating{4});
        const Index rows = round_up(p.L, class_tile) / class_tile,
                    row = round_up(p.S, class_tile) / class_tile;
        class_stride = packed_strides(view, rows, row);
        classes = pieces.take(packed_size(view, rows, row));
    }

    /// \brief Queues what has to be done to the mask, and says to `mma` where it lies.
    void prepare(MmaProblem& mma, std::byte* workspace, cudaStream_t stream) const {
        const Problem& p = mma.problem;
        mma.mask = mask.used() ? workspace + mask.at : p.mask.data;
        mma.mask_stride = mask_stride;
        if (masking == Masking::bits) {
            auto* to = reinterpret_cast<std::uint8_t*>(workspace + classes.at);
            mma.tile_class = to;
            mma.class_stride = class_stride;
            pack_mask(p.mask, reinterpret_cast<std::uint32_t*>(workspace + mask.at), mask_stride,
                      to, class_stride, stream);
        } else if (mask.used()) {
            pack_rows(p.mask, workspace + mask.at, mask_stride, round_up(p.S, 8), stream);
        }
    }
};

/// \brief The scale as the kernels take it. A scale of 0 or below goes into the queries, so that a
///        larger product is a larger score.
inline void set_scale(MmaProblem& mma) {
    const double scale = mma.problem.scale;
    const float magnitude = static_cast<float>(scale < 0 ? -scale : scale);
    mma.query_factor = magnitude == 0 ? 0.0f : (scale < 0 ? -1.0f : 1.0f);
    mma.scale = magnitude == 0 ? 1.0f : magnitude;
    mma.unit = mma.scale * 1.44269504f;
}

}  // namespace attn::gpu
