/// \file
/// \brief Tier `cuda_int8`: Q K^T in 8-bit integers on tensor cores, P V in 16 bits.
///
/// Builds on `cuda_mma`. New here: queries and keys are rounded to 8 bits (quantize.hpp: a step for
/// each token, K without its mean, Q and K rotated), and their products run on the integer side of
/// the tensor cores, at twice the speed of 16 bits and exactly. Weights and values stay in 16 bits,
/// summed in float32: an error of a score is an error of one weight, and most cancel in the sum.
/// This file plans. See cuda_int8.hpp for the other files.
///
/// | problem                                             | kernels                             |
/// |-----------------------------------------------------|-------------------------------------|
/// | few keys and queries, E = 64 or 128                 | fused kernel                        |
/// | others                                              | pre-pass, main, second pass         |
/// | of these E <= 128 on sm_90a                         | main and second pass by `wgmma`     |
/// | max_relative_error: heads that exceed it            | and those of `cuda_mma`             |
/// | no keys or values, &#124;scale&#124; above 2^40     | `cuda_mma` alone                    |
///
/// Values of bfloat16 and float32 go through bfloat16 products, which keep the range of float32;
/// those of float16 through float16. Limits: E and Ev up to 256. Short queries (decoding) are
/// computed, but nothing is won: reading K takes the time there. Taught in \ref tier_cuda_int8.
///
/// \par Source
/// Zhang et al. 2024, "SageAttention: accurate 8-bit attention for plug-and-play inference
/// acceleration".
#include "cuda_int8.hpp"
#include "cuda_mma_plan.hpp"
#include "device.hpp"

#include "registry.hpp"

#include <cmath>
#include <string>

namespace attn {
namespace {

using gpu::Int8Problem;
using gpu::Piece;

/// Blocks of 64 queries up to which rounding K once for each of them costs less than a pre-pass:
/// four for each multiprocessor of a large GPU.
constexpr Index most_fused_blocks = 512;

/// Rows that the copy engine of sm_90 can count.
constexpr Index most_rows = Index{1} << 30;

/// Why a problem is left to `cuda_mma` as a whole; null: it is not.
const char* why_exact(const Problem& p) {
    if (p.S == 0) return "no keys";
    if (p.Ev == 0) return "no values";
    if (!(std::abs(p.scale) <= static_cast<double>(quantizable_largest)))
        return "too large a scale";
    return p.L > most_rows || p.S > most_rows ? "too many rows" : nullptr;
}

/// What a problem takes: decided from sizes and strides alone.
struct Plan {
    bool exact = false;    // by cuda_mma alone
    bool limited = false;  // heads above the limit go to cuda_mma
    bool fused = false;
    bool wgmma = false;
    Index value_columns = 0;
    gpu::MaskPlan mask;
    Piece value;                                               // packed copy
    Piece key, key_scale, blocks, mean, floating, key_square;  // gpu::Int8Keys
    Index query_rows = 0;
    Piece query, factor, shift, without, query_square;  // gpu::Int8Queries
    Piece again, next_block, samples, above, mma;
    gpu::Pieces pieces;

    gpu::Strides value_strides(const Problem& p) const {
        return value.used() ? gpu::packed_strides(p.value, p.S, value_columns)
                            : gpu::strides_of(p.value);
    }

    explicit Plan(const Problem& p) {
        exact = why_exact(p) != nullptr;
        limited = !exact && p.max_relative_error > 0;
        if (exact || limited) mma = pieces.take(Saturating{gpu::mma_workspace_bytes(p)});
        if (exact) return;
        value_columns = gpu::round_up(p.Ev, 8);
        const Saturating tiles = counted(p.B) * counted(p.Hq) * counted((p.L + 63) / 64);
        fused = !limited && tiles.count <= most_fused_blocks && gpu::fits_int8_fused(p);
        if (fused) return;
        const Index head_dim = gpu::int8_head_dim(p);
        // What the kernel by `wgmma` can take it takes: the others are left out where it exists.
        wgmma = gpu::has_wgmma() && head_dim <= 128;
        mask = gpu::MaskPlan(p, pieces, wgmma);
        Int8Problem mapped;
        mapped.problem = p;
        mapped.value_columns = static_cast<int>(value_columns);
        mapped.value_stride = gpu::strides_of(p.value);
        if (p.dtype == DType::float32 || value_columns != p.Ev || !gpu::wide(p.value) ||
            (wgmma && !gpu::can_map(mapped.values())))
            value = pieces.take(gpu::packed_size(p.value, p.S, value_columns) * Saturating{2});
        const Saturating heads = counted(p.B) * counted(gpu::int8_key_heads(p));
        const Saturating of_64 = heads * counted((p.S + 63) / 64);
        key = pieces.take(of_64 * counted(64 * head_dim));
        key_scale = pieces.take(of_64 * Saturating{64 * sizeof(float)});
        blocks = pieces.take(of_64 * Saturating{sizeof(gpu::KeyBlock)});
        mean = pieces.take(heads * counted(head_dim) * Saturating{sizeof(float)});
        floating = pieces.take(heads);
        const Index rows = gpu::int8_tile_rows(static_cast<int>(head_dim));
        query_rows = gpu::round_up(p.L, rows);
        const Saturating all_rows = counted(p.B) * counted(p.Hq) * counted(query_rows);
        query = pieces.take(all_rows * counted(head_dim));
        factor = pieces.take(all_rows * Saturating{sizeof(float)});
        shift = pieces.take(all_rows * Saturating{sizeof(float)});
        without = pieces.take(all_rows);
        if (wgmma && mask.masking != gpu::Masking::additive) {
            query_square = pieces.take(all_rows * Saturating{sizeof(float)});
            key_square = pieces.take(heads * counted((p.S + 63) / 64) * Saturating{sizeof(float)});
        }
        again = pieces.take(counted(p.B) * counted(p.Hq) * counted((p.L + rows - 1) / rows));
        next_block = pieces.take(Saturating{sizeof(unsigned long long)});
        if (!limited) return;
        samples = pieces.take(Saturating{gpu::int8_sample_floats(p)} * Saturating{sizeof(float)});
        above = pieces.take(counted(p.B) * counted(p.Hq));
    }
};

std::size_t workspace_bytes(const Problem& p) { return Plan(p).pieces.bytes(); }

void run_on_device(const Problem& p) {
    const Plan plan(p);
    const gpu::Workspace workspace(p, plan.pieces.bytes());
    const cudaStream_t stream = gpu::stream_of(p);
    const auto at = [&]<class T>(const Piece& piece, T*& to) {
        to = reinterpret_cast<T*>(workspace.data() + piece.at);
    };
    std::byte* mma_workspace = nullptr;
    at(plan.mma, mma_workspace);
    if (plan.exact) return gpu::run_mma_heads(p, nullptr, mma_workspace);

    Int8Problem int8;
    int8.problem = p;
    int8.value_columns = static_cast<int>(plan.value_columns);
    int8.value = static_cast<const std::uint16_t*>(p.value.data);
    int8.value_stride = plan.value_strides(p);
    int8.wgmma = plan.wgmma;
    int8.wide_query = gpu::wide(p.query);
    int8.wide_key = gpu::wide(p.key);
    int8.wide_value = gpu::wide(p.value) && plan.value_columns == p.Ev;
    int8.wide_out = p.Ev % 8 == 0 && gpu::wide(p.out);
    gpu::set_scale(int8);
    int8.keys.heads = gpu::int8_key_heads(p);
    int8.keys.blocks = (p.S + 63) / 64;
    int8.keys.head_dim = gpu::int8_head_dim(p);
    if (plan.fused) return gpu::launch_int8_fused(int8, stream);

    at(plan.key, int8.keys.key);
    at(plan.key_scale, int8.keys.scale);
    at(plan.blocks, int8.keys.block);
    at(plan.mean, int8.keys.mean);
    at(plan.floating, int8.keys.floating);
    int8.queries.rows = plan.query_rows;
    at(plan.query, int8.queries.query);
    at(plan.factor, int8.queries.factor);
    at(plan.shift, int8.queries.shift);
    at(plan.without, int8.queries.without);
    if (plan.query_square.used()) {
        at(plan.query_square, int8.queries.square);
        at(plan.key_square, int8.keys.square);
    }
    at(plan.again, int8.again);
    at(plan.next_block, int8.next_block);
    plan.mask.prepare(int8, workspace.data(), stream);
    gpu::quantize(int8, plan.mask.masking, stream);
    if (plan.value.used()) {
        std::uint16_t* to = nullptr;
        at(plan.value, to);
        int8.value = to;
        if (p.dtype == DType::float32)
            gpu::round_rows(p.value, to, int8.value_stride, plan.value_columns, stream);
        else
            gpu::pack_rows(p.value, to, int8.value_stride, plan.value_columns, stream);
    }
    if (p.dtype == DType::float16)
        gpu::launch_int8<float16>(int8, plan.mask.masking, stream);
    else
        gpu::launch_int8<bfloat16>(int8, plan.mask.masking, stream);
    if (!plan.limited) return;
    float* samples = nullptr;
    std::uint8_t* above = nullptr;
    at(plan.samples, samples);
    at(plan.above, above);
    gpu::find_heads_above(int8, samples, above, stream);
    gpu::run_mma_heads(p, above, mma_workspace);
}

std::string variant(const Problem& p) {
    const Plan plan(p);
    if (plan.exact) return std::string("cuda_mma: ") + why_exact(p);
    std::string text = plan.fused ? "fused" : "pre-pass over K";
    if (plan.mask.masking == gpu::Masking::bits) text += ", mask as bits";
    if (plan.mask.masking == gpu::Masking::bytes) text += ", mask as bytes";
    if (plan.wgmma) text += ", wgmma";
    if (plan.value.used()) text += ", packed values";
    if (plan.limited) text += ", heads above the error limit by cuda_mma";
    return text;
}

}  // namespace

const Tier tier_cuda_int8 = {
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16},
               .error_limit = 0.015,
               .max_head_dim = 256,
               .requires_ = "sm_80"},
    // As cuda_mma: weights rounded to 16 bits, additions that truncate. float32 values are rounded
    // to bfloat16 as well.
    .accuracy = {.weight_error = 0x1p-7 + 0x1p-12,
                 .weight_error_f16 = 0x1p-11 + 0x1p-12,
                 .weight_error_bf16 = 0x1p-8 + 0x1p-12,
                 .quantized = true,
                 .flushes_denormals = true},
    .available = [] { return gpu::probe(80, gpu::some_int8_kernel()); },
    .scratch_bytes = workspace_bytes,
    .run = [](const Problem& p) { gpu::on_device(p, run_on_device); },
    .variant = variant,
};

}  // namespace attn
