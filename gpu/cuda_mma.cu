/// \file
/// \brief Tier `cuda_mma`: tensor cores, fed by an asynchronous pipeline.
///
/// Builds on `cuda_fused`. New here: both products run on tensor cores (`mma.sync`); `cp.async`
/// fills the next tile while this one is used; `ldmatrix` reads swizzled tiles without bank
/// conflicts. This file plans: which kernel takes the problem, what has to be prepared for it, and
/// in which memory. See cuda_mma.hpp for the other files.
///
/// | problem                                   | kernel                                      |
/// |-------------------------------------------|---------------------------------------------|
/// | float16, bfloat16                         | main kernel                                 |
/// | ... with (Hq / H) L <= 64 packed rows     | split kernel and merge                      |
/// | float32                                   | three bfloat16 parts, six products          |
///
/// Rows that `cp.async` cannot read in pieces of 16 bytes (E not a multiple of 8, odd strides,
/// unaligned) are packed first; a boolean mask that serves several heads becomes bits and tile
/// classes. Limits: E and Ev up to 256.
///
/// \par Source
/// Dao 2023, "FlashAttention-2: faster attention with better parallelism and work partitioning".
#include "cuda_mma.hpp"
#include "device.hpp"

#include "registry.hpp"
#include "saturate.hpp"

#include <string>

namespace attn {
namespace {

using gpu::Masking;
using gpu::MmaProblem;
using gpu::Strides;

constexpr Index round_up(Index x, Index to) { return (x + to - 1) / to * to; }

/// Can rows be read (or written) in pieces of 16 bytes?
template <class Void>
bool wide(const BasicTensorView<Void>& view) {
    const Index piece = 16 / static_cast<Index>(size_of(view.dtype));
    return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.stride[3] == 1 &&
           view.stride[0] % piece == 0 && view.stride[1] % piece == 0 &&
           view.stride[2] % piece == 0;
}

Strides strides_of(const TensorView& view) {
    return {view.stride[0], view.stride[1], view.stride[2]};
}

/// Strides of a packed copy with rows of `row` elements; 0 where the original repeats.
Strides packed_strides(const TensorView& view, Index rows, Index row) {
    Strides s;
    Index size = row;
    if (view.stride[2] != 0) s.row = size, size *= rows;
    if (view.stride[1] != 0) s.head = size, size *= view.shape[1];
    if (view.stride[0] != 0) s.batch = size;
    return s;
}
/// Elements of that copy.
Saturating packed_size(const TensorView& view, Index rows, Index row) {
    Saturating size = counted(row);
    if (view.stride[2] != 0) size = size * counted(rows);
    if (view.stride[1] != 0) size = size * counted(view.shape[1]);
    if (view.stride[0] != 0) size = size * counted(view.shape[0]);
    return size;
}

/// A piece of the workspace.
struct Piece {
    std::size_t at = 0, bytes = 0;
    bool used() const { return bytes > 0; }
};

/// What a problem takes: decided from sizes and strides alone.
struct Plan {
    bool float32 = false, split = false;
    Masking masking = Masking::none;
    Index query_columns = 0, value_columns = 0;
    Piece query, key, value;  // packed copies
    Piece mask, classes;      // packed copy or bits
    Strides mask_stride, class_stride;
    Piece partial;
    Piece again;  // marks for the second pass
    std::size_t bytes = 0;

    explicit Plan(const Problem& p) {
        float32 = p.dtype == DType::float32;
        const Index packed_rows = p.Hq / p.H * p.L;
        split = !float32 && packed_rows <= 64;
        query_columns = round_up(p.E, 8);
        value_columns = round_up(p.Ev, 8);
        const auto plan_rows = [&](const TensorView& view, Index columns) -> Piece {
            if (!float32 && columns == view.shape[3] && wide(view)) return {};
            const Index row = float32 ? 3 * columns : columns;
            return take(packed_size(view, view.shape[2], row) * Saturating{2});
        };
        query = plan_rows(p.query, query_columns);
        key = plan_rows(p.key, query_columns);
        value = plan_rows(p.value, value_columns);
        if (split)
            partial = take(Saturating{gpu::split_partial_size(p)} * Saturating{sizeof(float)});
        else if (!float32)
            plan_mask(p);
        if (float32 || (!split && gpu::can_hide(p))) {
            const Index rows = gpu::main_tile_rows(p);
            again = take(counted(p.B) * counted(p.Hq) * counted((p.L + rows - 1) / rows));
        }
    }

  private:
    void plan_mask(const Problem& p) {
        if (p.mask_kind == MaskKind::none) return;
        const TensorView& view = p.mask;
        mask_stride = strides_of(view);
        if (p.mask_kind == MaskKind::additive) {
            masking = Masking::additive;
            if (wide(view)) return;
            const Index row = round_up(p.S, 8);
            mask_stride = packed_strides(view, p.L, row);
            mask = take(packed_size(view, p.L, row) * Saturating{size_of(view.dtype)});
            return;
        }
        // Bits pay when they are read at least twice.
        const bool shared = (view.stride[0] == 0 && p.B > 1) || (view.stride[1] == 0 && p.Hq > 1) ||
                            view.stride[2] == 0;
        if (!shared && wide(view)) {
            masking = Masking::bytes;
            return;
        }
        masking = Masking::bits;
        const Index words = round_up(p.S, gpu::class_tile) / 32;
        mask_stride = packed_strides(view, p.L, words);
        mask = take(packed_size(view, p.L, words) * Saturating{4});
        const Index rows = round_up(p.L, gpu::class_tile) / gpu::class_tile, row = words / 2;
        class_stride = packed_strides(view, rows, row);
        classes = take(packed_size(view, rows, row));
    }
    Piece take(Saturating wanted) {
        const Piece piece{bytes, wanted.count};
        const Saturating total = Saturating{bytes} + wanted + Saturating{255};
        bytes = total.count == SIZE_MAX ? SIZE_MAX : total.count / 256 * 256;
        return piece;
    }
};

std::size_t workspace_bytes(const Problem& p) { return Plan(p).bytes; }

void run_on_device(const Problem& p) {
    const Plan plan(p);
    const gpu::Workspace workspace(p, plan.bytes);
    const cudaStream_t stream = gpu::stream_of(p);
    const auto at = [&](const Piece& piece) { return workspace.data() + piece.at; };

    MmaProblem mma;
    mma.problem = p;
    mma.query_columns = static_cast<int>(plan.query_columns);
    mma.value_columns = static_cast<int>(plan.value_columns);
    const auto rows = [&](const TensorView& view, const Piece& piece, Index columns,
                          const std::uint16_t*& data, Strides& stride) {
        data = static_cast<const std::uint16_t*>(view.data);
        stride = strides_of(view);
        if (!piece.used()) return;
        auto* to = reinterpret_cast<std::uint16_t*>(at(piece));
        data = to;
        stride = packed_strides(view, view.shape[2], plan.float32 ? 3 * columns : columns);
        if (plan.float32)
            gpu::split_rows(view, to, stride, columns, stream);
        else
            gpu::pack_rows(view, to, stride, columns, stream);
    };
    rows(p.query, plan.query, plan.query_columns, mma.query, mma.query_stride);
    rows(p.key, plan.key, plan.query_columns, mma.key, mma.key_stride);
    rows(p.value, plan.value, plan.value_columns, mma.value, mma.value_stride);
    mma.wide_out = p.Ev % 8 == 0 && wide(p.out);

    // A scale of 0 or below goes into the queries, so that a larger product is a larger score.
    const float magnitude = static_cast<float>(p.scale < 0 ? -p.scale : p.scale);
    mma.query_factor = magnitude == 0 ? 0.0f : (p.scale < 0 ? -1.0f : 1.0f);
    mma.scale = magnitude == 0 ? 1.0f : magnitude;
    mma.unit = mma.scale * 1.44269504f;

    mma.mask = plan.mask.used() ? at(plan.mask) : p.mask.data;
    mma.mask_stride = plan.mask_stride;
    if (plan.masking == Masking::bits) {
        mma.tile_class = reinterpret_cast<const std::uint8_t*>(at(plan.classes));
        mma.class_stride = plan.class_stride;
        gpu::pack_mask(p.mask, reinterpret_cast<std::uint32_t*>(at(plan.mask)), plan.mask_stride,
                       reinterpret_cast<std::uint8_t*>(at(plan.classes)), plan.class_stride,
                       stream);
    } else if (plan.mask.used()) {
        gpu::pack_rows(p.mask, at(plan.mask), plan.mask_stride, round_up(p.S, 8), stream);
    }

    if (plan.again.used()) mma.again = reinterpret_cast<std::uint8_t*>(at(plan.again));

    if (plan.float32) return gpu::launch_float32(mma, stream);
    auto* partial = reinterpret_cast<float*>(at(plan.partial));
    if (p.dtype == DType::float16)
        plan.split ? gpu::launch_split<float16>(mma, partial, stream)
                   : gpu::launch_mma<float16>(mma, plan.masking, stream);
    else
        plan.split ? gpu::launch_split<bfloat16>(mma, partial, stream)
                   : gpu::launch_mma<bfloat16>(mma, plan.masking, stream);
}

std::string variant(const Problem& p) {
    const Plan plan(p);
    std::string text = plan.float32 ? "three bfloat16 parts"
                       : plan.split ? "keys split in " + std::to_string(gpu::split_count(p))
                                    : "main";
    if (plan.masking == Masking::bits) text += ", mask as bits";
    if (plan.masking == Masking::bytes) text += ", mask as bytes";
    if (!plan.float32 && (plan.query.used() || plan.key.used() || plan.value.used()))
        text += ", packed inputs";
    return text;
}

}  // namespace

const Tier tier_cuda_mma = {
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16},
               .max_head_dim = 256,
               .requires_ = "sm_80"},
    // ex2.approx: 2 ulp, 2^-22. 16-bit weights: half an ulp, 2^-11 or 2^-8, and the additions of
    // the second product, one for 16 keys, which truncate: at most 2^-12 up to S = 32768.
    .accuracy = {.weight_error = 0x1p-22,
                 .weight_error_f16 = 0x1p-11 + 0x1p-12,
                 .weight_error_bf16 = 0x1p-8 + 0x1p-12},
    .available = [] { return gpu::probe(80, gpu::some_mma_kernel()); },
    .scratch_bytes = workspace_bytes,
    .run = [](const Problem& p) { gpu::on_device(p, run_on_device); },
    .variant = variant,
};

}  // namespace attn
