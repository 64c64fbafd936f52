/// \file
/// \brief Tier `simd`: the fast CPU tier.
///
/// Builds on `openmp`. New here: the arithmetic of one core is used up to its limit. One query lies
/// in each SIMD lane, so the softmax of 4, 8 or 16 queries is written like the softmax of one and
/// no sum ever crosses lanes. Read the files in this order, one idea each:
///
///     simd_lanes.hpp        a register of queries, over xsimd
///     simd_exp2.hpp         2^x in every lane
///     simd_microkernel.hpp  the register tile: both matrix products are one loop
///     simd_panel.hpp        a panel of queries against a tile of keys: the online softmax
///     simd_rows.hpp         float16 and bfloat16 are widened on the way in, rounded on the way out
///     simd_transpose.hpp    rows in memory become registers of queries, and back
///     simd_scratch.hpp      a thread's working memory, piece by piece
///     simd_layout.hpp       the memory of a tile: queries in
///     simd_store.hpp        outputs out
///     simd_masks.hpp        64 x 64 bits say which tiles to skip and which to mask
///     simd_covers.hpp       ... and are read once by heads that share a mask
///     simd_tile.hpp         the loop over the tiles of keys
///     simd_decode_lanes.hpp     few queries: one row in a register
///     simd_decode_products.hpp  its scores, weights and sums of values
///     simd_decode.hpp           keys and values streamed at the memory's speed
///     simd_merge.hpp        keys split among threads, states merged
///     simd_amx_tiles.hpp    the matrix tiles of AMX
///     simd_amx_layout.hpp   how queries, keys and values lie for them
///     simd_amx_softmax.hpp  the online softmax between their two products
///     simd_half.amx.cpp     bfloat16 and float16 on them
///     simd_plan.hpp         how a problem is cut into tasks
///     simd.cpp              this file: the threads, the choice of the instruction set
///
/// The kernels are compiled once per instruction set (simd.isa.cpp) and chosen at run time; the
/// environment variable ATTN_ISA forces one. Limits: no float64.
/// Taught in \ref tier_simd.
#include "flush_denormals.hpp"
#include "isa.hpp"
#include "registry.hpp"
#include "simd_plan.hpp"

#include <cstring>

namespace attn {
namespace {

/// bfloat16 and float16 go to the matrix tiles of AMX where the machine has them.
bool use_amx(const Problem& p) { return p.dtype != DType::float32 && may_use_amx(); }

const SimdKernels& kernels([[maybe_unused]] const Problem& p) {
    const Isa isa = current_isa();
#if defined(__x86_64__)
    if (use_amx(p)) return amx::simd_kernels;
#endif
    switch (isa) {
#define ATTN_CASE(isa) \
    case Isa::isa:     \
        return isa::simd_kernels;
        ATTN_FOR_EACH_ISA(ATTN_CASE)
#undef ATTN_CASE
        default:
            return baseline::simd_kernels;
    }
}

std::size_t scratch_bytes(const Problem& p) {
    const SimdPlan plan = make_plan(p, kernels(p));
    return static_cast<std::size_t>(plan.threads * plan.thread_floats + plan.partial_floats +
                                    plan.cover_floats) *
           sizeof(float);
}

/// Runs task(t, scratch of this thread) for all t, with denormals flushed.
template <class F>
void share(Index tasks, const SimdPlan& plan, float* memory, F&& task) {
#pragma omp parallel num_threads(plan.threads)
    {
        const FlushDenormals flush;
        float* const own = memory + omp_get_thread_num() * plan.thread_floats;
#pragma omp for schedule(dynamic, 1)
        for (Index t = 0; t < tasks; ++t) task(t, own);
    }
}

void run(const Problem& p) {
    const SimdKernels& kernel = kernels(p);
    const SimdPlan plan = make_plan(p, kernel);
    float* const partial = reinterpret_cast<float*>(p.scratch.data());
    auto* const covers = reinterpret_cast<std::uint8_t*>(partial + plan.partial_floats);
    float* const memory = partial + plan.partial_floats + plan.cover_floats;
    std::memset(covers, 0, static_cast<std::size_t>(plan.cover_floats) * sizeof(float));
    const auto attend = plan.stream ? kernel.attend_rows : kernel.attend_tile;

    // A tile of rows of one key head. Tiles of a head are neighbours, so its keys and values stay
    // in the cache; with a causal rule the last tiles see most keys and begin.
    const auto place_of = [&](Index t) {
        SimdTask task;
        task.b = t / (p.H * plan.tiles);
        task.key_head = t / plan.tiles % p.H;
        task.first_row = (plan.tiles - 1 - t % plan.tiles) * plan.tile_rows;
        task.rows = std::min(plan.tile_rows, plan.rows - task.first_row);
        task.end_key = p.S;
        if (plan.cover_floats > 0)
            task.covers = covers + (p.mask.stride[0] == 0 ? 0 : task.b * plan.batch_covers);
        return task;
    };
    const auto query_of = [&](const SimdTask& task) {  // its first row's, in elements
        const Index group = p.Hq / p.H, *const stride = p.query.stride;
        return task.b * stride[0] + (task.key_head * group + task.first_row % group) * stride[1] +
               task.first_row / group * stride[2];
    };
    const auto task_of = [&](Index t) {
        SimdTask task = place_of(t);
        // With one thread it is the next one; with more, about so.
        if (t + plan.threads < p.B * p.H * plan.tiles) {
            const SimdTask next = place_of(t + plan.threads);
            task.next_query = query_of(next) - query_of(task);
            const auto head_of = [](const SimdTask& of, const TensorView& from) {
                return of.b * from.stride[0] + of.key_head * from.stride[1];
            };
            task.next_key = head_of(next, p.key) - head_of(task, p.key);
            task.next_value = head_of(next, p.value) - head_of(task, p.value);
        }
        return task;
    };
    const auto take_part = [&](SimdTask& task, Index part) {
        task.first_key = part * plan.part_keys;
        task.end_key = std::min(task.first_key + plan.part_keys, p.S);
    };
    const Index tiles = p.B * p.H * plan.tiles;

    if (plan.parts == 1) {
        share(tiles, plan, memory, [&](Index t, float* own) { attend(p, task_of(t), own); });
    } else if (plan.merge_later) {
        share(tiles * plan.parts, plan, memory, [&](Index t, float* own) {
            SimdTask task = task_of(t / plan.parts);
            take_part(task, t % plan.parts);
            task.partial = partial + t * plan.state_floats;
            attend(p, task, own);
        });
        share(tiles, plan, memory, [&](Index t, float*) {
            const SimdTask task = task_of(t);
            float* const first = partial + t * plan.parts * plan.state_floats;
            for (Index part = 1; part < plan.parts; ++part)
                kernel.merge(p, task.rows, first + part * plan.state_floats, first);
            kernel.finish(p, task, first);
        });
    } else {  // heads enough for all threads: one task merges a head's parts in the same order
        share(tiles, plan, memory, [&](Index t, float* own) {
            float* const state = own + plan.thread_floats - 2 * plan.state_floats;
            SimdTask task = task_of(t);
            for (Index part = 0; part < plan.parts; ++part) {
                take_part(task, part);
                task.partial = part == 0 ? state : state + plan.state_floats;
                attend(p, task, own);
                if (part > 0) kernel.merge(p, task.rows, task.partial, state);
            }
            kernel.finish(p, task, state);
        });
    }
}

std::string variant(const Problem& p) {
    const SimdPlan plan = make_plan(p, kernels(p));
    std::string text = name_of(current_isa());
    if (use_amx(p) && !plan.stream) text += " with amx";
    text += plan.stream ? ", one row in a register" : ", one query in each lane";
    if (plan.parts > 1) text += ", keys in " + std::to_string(plan.parts) + " parts";
    return text;
}

}  // namespace

const Tier tier_simd = {
    .parallel = true,
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16}},
    // exp2 is within 2^-22 of the true one on every instruction set (test_simd.cpp); with AMX,
    // weights of float16 inputs become two bfloat16, to within 2^-15, and the product of what lies
    // below the first of weights (2^-7 of them) and of values (2^-8) is left out; weights of
    // bfloat16 inputs are rounded to one bfloat16, to within 2^-8.
    .accuracy = {.weight_error = 0x1p-22,
                 .weight_error_f16 = 0x1p-15 + 0x1p-15 + 0x1p-22,
                 .weight_error_bf16 = 0x1p-8 + 0x1p-22,
                 .flushes_denormals = true},
    .available = always_available,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .variant = variant,
};

}  // namespace attn
