/// \file
/// \brief Plan, memory and threads of the tiers `int8_pv32` and `int8`.
///
/// Steps that are each shared among the threads: the keys of every head are measured and averaged,
/// keys (and values) become integers, tiles of 64 queries visit them. Rows that meet a number
/// without an integer (NaN, infinity, beyond 2^40) are computed by the kernel of the tier `online`;
/// heads whose error is above the caller's limit, if he gave one, by the tier `simd`.
#include "int8_run.hpp"

#include "flush_denormals.hpp"
#include "int8_error.hpp"
#include "online.hpp"
#include "saturate.hpp"
#include "threads.hpp"

#include <algorithm>
#include <cmath>

namespace attn {

Int8Head::Int8Head(const Problem& p, Int8Values values, Int8Layout layout, std::byte* memory) {
    const Index depth = layout.numbers_in_a_word, lines_E = (p.E + 15) / 16 * 16,
                lines_Ev = (p.Ev + 15) / 16 * 16, blocks = (p.S + int8_block - 1) / int8_block,
                keys = layout.tiles ? blocks * int8_block : p.S;
    const bool integers = values == Int8Values::int8;
    key_words = (p.E + depth - 1) / depth;
    if (layout.tiles) key_words = (key_words + 15) / 16 * 16;
    Saturating used_bytes{0};
    const auto take = [&]<class T>(T*& at, Index rows, Index columns) {
        at = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + used_bytes.count);
        const Saturating size = counted(rows) * counted(columns) * Saturating{sizeof(T)};
        used_bytes = used_bytes + size + Saturating{(64 - size.count % 64) % 64};
    };
    take(key, keys, key_words);
    take(key_start, p.S, 1);
    take(key_scale, p.S, 1);
    take(mean, lines_E, 1);
    take(value, integers ? (keys + depth - 1) / depth : 0, lines_Ev);
    take(value_scale, integers ? blocks : 0, lines_Ev);
    take(used, p.S, 1);
    take(not_integer, blocks, 1);
    take(sums, std::min(blocks, smoothing_samples), lines_E);
    take(counts, blocks, 1);
    bytes = used_bytes.count;
}

namespace {

/// Few queries do not pay for keys and values that are padded and transposed for matrix tiles.
bool use_amx(const Problem& p) { return p.L >= 32 && may_use_amx(); }

const Int8Kernels& kernels([[maybe_unused]] const Problem& p) {
    const Isa isa = current_dot_isa();
#if defined(__x86_64__)
    if (use_amx(p)) return amx::int8_kernels;
#endif
    switch (isa) {
#define ATTN_CASE(isa) \
    case Isa::isa:     \
        return isa::int8_kernels;
        ATTN_FOR_EACH_DOT_ISA(ATTN_CASE)
#undef ATTN_CASE
        default:
            return baseline::int8_kernels;
    }
}

/// How a problem is cut. All but `threads` follows from sizes and strides alone.
struct Plan {
    Index heads;   // key heads, or query heads if each has a mask of its own
    Index group;   // query heads that share integers
    Index tiles;   // of 64 rows, per head
    Index blocks;  // of 64 keys, per head
    int threads;
    Saturating head_bytes, thread_bytes;
    std::size_t sample_bytes, exact_bytes;  // of a thread, of a head; 0 without a limit
};

Saturating whole_lines(Saturating bytes) {
    return bytes + Saturating{(64 - bytes.count % 64) % 64};
}

/// One head with the query heads that share its integers, as a problem of its own.
Problem head_of(const Problem& p, Index group, Index n) {
    const Index heads = p.Hq / group, b = n / heads, h = n % heads * group;
    Problem one = p;
    const auto move = [b](auto& view, Index head) {
        if (view.rank == 0) return;
        const Index offset = b * view.stride[0] + head * view.stride[1];
        using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                        const std::byte, std::byte>;
        view.data =
            static_cast<Byte*>(view.data) + offset * static_cast<Index>(size_of(view.dtype));
    };
    one.B = one.H = 1;
    one.Hq = group;
    move(one.query, h);
    move(one.key, p.key_head(h));
    move(one.value, p.key_head(h));
    move(one.out, h);
    move(one.logsumexp, h);
    move(one.mask, h);
    return one;
}

Plan make_plan(const Problem& p, Int8Values values, const Int8Kernels& kernel) {
    Plan plan{};
    // Which keys count for the mean and the steps depends on the mask. Query heads that differ in
    // it do not share integers: a head's result must not depend on its neighbours.
    const bool own_masks = p.mask_kind != MaskKind::none && p.mask.stride[1] != 0;
    plan.group = own_masks || p.H == 0 ? 1 : p.Hq / p.H;
    plan.heads = p.B * (p.Hq / plan.group);
    plan.tiles = (p.L * plan.group + simd_tile_rows - 1) / simd_tile_rows;
    plan.blocks = (p.S + int8_block - 1) / int8_block;
    plan.threads = team_size(p, plan.heads * std::max(plan.tiles, plan.blocks), p.flops());
    plan.head_bytes = {Int8Head(p, values, kernel.layout, nullptr).bytes};
    plan.thread_bytes =
        whole_lines(counted(kernel.scratch_floats(p, values)) * Saturating{sizeof(float)}) +
        whole_lines({OnlineScratch<float>::bytes(p)});
    if (p.max_relative_error > 0 && plan.heads > 0) {
        Problem one = head_of(p, plan.group, 0);
        one.threads = plan.threads;
        plan.sample_bytes = sample_bytes(one);
        plan.exact_bytes = tier_simd.scratch_bytes(one);
    }
    return plan;
}

/// What `keep_limit` needs: a flag for each head, the samples of all threads, one exact head.
Saturating limit_bytes(const Plan& plan) {
    if (plan.sample_bytes == 0) return {0};
    return whole_lines(counted(plan.heads)) +
           counted(plan.threads) * Saturating{plan.sample_bytes} + Saturating{plan.exact_bytes};
}

/// Computes the heads whose error is above the limit once more, by the tier `simd`.
template <class IntegersOf>
void keep_limit(const Problem& p, const Plan& plan, IntegersOf&& integers_of, std::byte* memory) {
    std::byte* const above = memory;  // (heads)
    std::byte* const samples = above + whole_lines(counted(plan.heads)).count;
    std::byte* const exact = samples + static_cast<std::size_t>(plan.threads) * plan.sample_bytes;
#pragma omp parallel for schedule(dynamic, 1) num_threads(plan.threads)
    for (Index head = 0; head < plan.heads; ++head) {
        std::byte* const own =
            samples + static_cast<std::size_t>(omp_get_thread_num()) * plan.sample_bytes;
        above[head] = std::byte{
            exceeds(head_of(p, plan.group, head), integers_of(head), p.max_relative_error, own)};
    }
    for (Index head = 0; head < plan.heads; ++head) {
        if (above[head] == std::byte{0}) continue;
        Problem one = head_of(p, plan.group, head);
        one.threads = plan.threads;
        one.scratch = {exact, plan.exact_bytes};
        tier_simd.run(one);
    }
}

/// Rows of a task, one bit each, in floating point.
void run_rows(const Problem& p, const SimdTask& task, std::uint64_t rows, std::byte* memory) {
    visit_float(p.dtype, [&]<class T>(T) {
        if constexpr (!std::is_same_v<T, double>)
            for (Index r = 0; r < task.rows; ++r) {
                if ((rows >> r & 1) == 0) continue;
                const Index row = task.first_row + r;
                online_row<T>(p, 0, row % p.Hq, row / p.Hq, OnlineScratch<float>(memory, p.Ev));
            }
    });
}

}  // namespace

std::size_t int8_scratch_bytes(const Problem& p, Int8Values values) {
    const Plan plan = make_plan(p, values, kernels(p));
    return (counted(plan.heads) * plan.head_bytes + counted(plan.threads) * plan.thread_bytes +
            limit_bytes(plan))
        .count;
}

void int8_run(const Problem& p, Int8Values values) {
    const Int8Kernels& kernel = kernels(p);
    const Plan plan = make_plan(p, values, kernel);
    const std::size_t kernel_bytes =
        plan.thread_bytes.count - whole_lines({OnlineScratch<float>::bytes(p)}).count;
    std::byte* const threads_memory =
        p.scratch.data() + counted(plan.heads).count * plan.head_bytes.count;
    const auto integers_of = [&](Index head) {
        return Int8Head(p, values, kernel.layout,
                        p.scratch.data() + static_cast<std::size_t>(head) * plan.head_bytes.count);
    };
    // With a scale beyond this the factors of the scores may overflow.
    const bool only_floats = !(std::abs(p.scale) <= quantizable_largest);
    const Index blocks = only_floats ? 0 : plan.heads * plan.blocks;

#pragma omp parallel num_threads(plan.threads)
    {
        std::byte* const own = threads_memory + static_cast<std::size_t>(omp_get_thread_num()) *
                                                    plan.thread_bytes.count;
        float* const memory = reinterpret_cast<float*>(own);
#pragma omp for schedule(dynamic, 1)
        for (Index t = 0; t < blocks; ++t) {
            const FlushDenormals flush;
            const Index head = t / plan.blocks;
            kernel.measure(head_of(p, plan.group, head), integers_of(head), t % plan.blocks,
                           memory);
        }
#pragma omp for schedule(dynamic, 1)
        for (Index head = 0; head < plan.heads; ++head) {
            const FlushDenormals flush;
            if (!only_floats) kernel.average(head_of(p, plan.group, head), integers_of(head));
        }
#pragma omp for schedule(dynamic, 1)
        for (Index t = 0; t < blocks; ++t) {
            const FlushDenormals flush;
            const Index head = t / plan.blocks;
            kernel.quantize(head_of(p, plan.group, head), values, integers_of(head),
                            t % plan.blocks, memory);
        }
        // Tiles of a head are neighbours, so its keys and values stay in the cache; with a causal
        // rule the last tiles see most keys and begin.
#pragma omp for schedule(dynamic, 1)
        for (Index t = 0; t < plan.heads * plan.tiles; ++t) {
            const Index head = t / plan.tiles;
            const Problem one = head_of(p, plan.group, head);
            SimdTask task;
            task.first_row = (plan.tiles - 1 - t % plan.tiles) * simd_tile_rows;
            task.rows = std::min(simd_tile_rows, one.L * one.Hq - task.first_row);
            task.end_key = p.S;
            std::uint64_t in_floats = ~std::uint64_t{0};
            if (!only_floats) {
                const FlushDenormals flush;
                in_floats = kernel.attend(one, values, integers_of(head), task, memory);
            }
            if (in_floats != 0) run_rows(one, task, in_floats, own + kernel_bytes);
        }
    }
    if (plan.sample_bytes != 0 && !only_floats)
        keep_limit(p, plan, integers_of,
                   threads_memory + counted(plan.threads).count * plan.thread_bytes.count);
}

std::string int8_variant(const Problem& p) {
    const std::string isa = name_of(current_dot_isa());
    return use_amx(p) ? isa + " with amx" : isa;
}

}  // namespace attn
