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
/// | ... (Hq / H) L <= 64 packed rows, S >= 512 | split kernel and merge                     |
/// | ... nothing hidden, E <= 128, sm_90a       | the same, fed by the copy engine           |
/// | float32                                   | three bfloat16 parts, six products          |
/// | ... up to 128 columns on sm_90a           | the same through `wgmma`                    |
///
/// Rows that `cp.async` cannot read in pieces of 16 bytes (E not a multiple of 8, odd strides,
/// unaligned) are packed first; a boolean mask that serves several heads becomes bits and tile
/// classes. Limits: E and Ev up to 256. Taught in \ref tier_cuda_mma.
///
/// \par Source
/// Dao 2023, "FlashAttention-2: faster attention with better parallelism and work partitioning".
#include "cuda_mma_plan.hpp"
#include "device.hpp"

#include "registry.hpp"
#include "saturate.hpp"

#include <string>

namespace attn {
namespace {

using gpu::Masking;
using gpu::MmaProblem;
using gpu::Piece;
using gpu::Strides;

/// Fewer keys are no work to be shared: the main kernel has them done before parts are merged.
constexpr Index least_split_keys = 512;

/// What a problem takes: decided from sizes and strides alone.
struct Plan {
    bool float32 = false, split = false;
    Index query_columns = 0, value_columns = 0;
    Piece query, key, value;  // packed copies
    gpu::MaskPlan mask;
    Piece partial;
    Piece again;  // marks for the second pass
    gpu::Pieces pieces;

    explicit Plan(const Problem& p) {
        float32 = p.dtype == DType::float32;
        const Index packed_rows = p.Hq / p.H * p.L;
        split = !float32 && packed_rows <= 64 && p.S >= least_split_keys;
        query_columns = gpu::round_up(p.E, 8);
        value_columns = gpu::round_up(p.Ev, 8);
        const auto plan_rows = [&](const TensorView& view, Index columns) -> Piece {
            if (!float32 && columns == view.shape[3] && gpu::wide(view)) return {};
            if (float32 && gpu::can_tile_float32(p)) {  // room for either kernel's layout
                Saturating size;
                gpu::tiled_strides(p, view, &view == &p.query, size);
                return pieces.take(size * Saturating{2});
            }
            const Index row = float32 ? 3 * columns : columns;
            return pieces.take(gpu::packed_size(view, view.shape[2], row) * Saturating{2});
        };
        query = plan_rows(p.query, query_columns);
        key = plan_rows(p.key, query_columns);
        value = plan_rows(p.value, value_columns);
        if (split)
            partial =
                pieces.take(Saturating{gpu::split_partial_size(p)} * Saturating{sizeof(float)});
        else if (!float32)
            mask = gpu::MaskPlan(p, pieces);
        if (float32 || (!split && gpu::can_hide(p))) {
            const Index rows = float32 ? 64 : gpu::main_tile_rows(p);
            again = pieces.take(counted(p.B) * counted(p.Hq) * counted((p.L + rows - 1) / rows));
        }
    }
};

std::size_t workspace_bytes(const Problem& p) { return Plan(p).pieces.bytes(); }

/// \param heads  see `MmaProblem::heads`
void run_some_heads(const Problem& p, const std::uint8_t* heads) {
    const Plan plan(p);
    const cudaStream_t stream = gpu::stream_of(p);

    MmaProblem mma;
    mma.problem = p;
    mma.heads = heads;
    mma.query_columns = static_cast<int>(plan.query_columns);
    mma.value_columns = static_cast<int>(plan.value_columns);
    gpu::set_scale(mma);
    const auto as_it_is = [](const TensorView& view, const std::uint16_t*& data, Strides& stride) {
        data = static_cast<const std::uint16_t*>(view.data);
        stride = gpu::strides_of(view);
    };
    as_it_is(p.query, mma.query, mma.query_stride);
    as_it_is(p.key, mma.key, mma.key_stride);
    as_it_is(p.value, mma.value, mma.value_stride);
    if (plan.split) gpu::set_split(mma);

    const bool only_partial = plan.split && plan.partial.at == 0;
    const gpu::Workspace workspace(
        p, only_partial && !gpu::split_has_partial(mma) ? 0 : plan.pieces.bytes());
    const auto at = [&](const Piece& piece) { return workspace.data() + piece.at; };
    const bool tiled = plan.float32 && gpu::tiled_float32(p);
    const auto rows = [&](const TensorView& view, const Piece& piece, Index columns,
                          const std::uint16_t*& data, Strides& stride) {
        if (!piece.used()) return;
        auto* to = reinterpret_cast<std::uint16_t*>(at(piece));
        data = to;
        if (tiled) {
            Saturating size;
            stride = gpu::tiled_strides(p, view, &view == &p.query, size);
            return gpu::tile_rows(p, view, &view == &p.query, to, stride,
                                  &view == &p.query ? mma.query_factor : 1.0f, stream);
        }
        stride = gpu::packed_strides(view, view.shape[2], plan.float32 ? 3 * columns : columns);
        if (plan.float32)
            gpu::split_rows(view, to, stride, columns, stream);
        else
            gpu::pack_rows(view, to, stride, columns, stream);
    };
    rows(p.query, plan.query, plan.query_columns, mma.query, mma.query_stride);
    rows(p.key, plan.key, plan.query_columns, mma.key, mma.key_stride);
    rows(p.value, plan.value, plan.value_columns, mma.value, mma.value_stride);
    mma.wide_out = p.Ev % 8 == 0 && gpu::wide(p.out);

    if (!plan.split && !plan.float32) plan.mask.prepare(mma, workspace.data(), stream);

    if (plan.again.used()) mma.again = reinterpret_cast<std::uint8_t*>(at(plan.again));

    if (tiled) return gpu::launch_tiled_float32(mma, stream);
    if (plan.float32) return gpu::launch_float32(mma, stream);
    auto* partial = reinterpret_cast<float*>(at(plan.partial));
    if (p.dtype == DType::float16)
        plan.split ? gpu::launch_split<float16>(mma, partial, stream)
                   : gpu::launch_mma<float16>(mma, plan.mask.masking, stream);
    else
        plan.split ? gpu::launch_split<bfloat16>(mma, partial, stream)
                   : gpu::launch_mma<bfloat16>(mma, plan.mask.masking, stream);
}

void run_on_device(const Problem& p) { run_some_heads(p, nullptr); }

std::string variant(const Problem& p) {
    const Plan plan(p);
    std::string text = plan.float32 ? "three bfloat16 parts"
                       : plan.split ? "keys split in " + std::to_string(gpu::split_count(p))
                                    : "main";
    if (plan.mask.masking == Masking::bits) text += ", mask as bits";
    if (plan.mask.masking == Masking::bytes) text += ", mask as bytes";
    if (!plan.float32 && (plan.query.used() || plan.key.used() || plan.value.used()))
        text += ", packed inputs";
    return text;
}

}  // namespace

void gpu::run_mma_heads(const Problem& p, const std::uint8_t* heads, std::byte* workspace) {
    Problem own = p;
    own.scratch = {workspace, workspace_bytes(p)};
    run_some_heads(own, heads);
}
std::size_t gpu::mma_workspace_bytes(const Problem& p) { return workspace_bytes(p); }

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
