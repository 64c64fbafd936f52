/// \file
/// \brief The main kernel of `cuda_int8` on sm_90a: the same integers through `wgmma`, which reads
///        queries, keys and values from shared memory, for four warps at a time.
///
///     shared memory   query tiles  (2, rows, HeadDim)          bytes: one in work, one to come
///                     key tiles    (stages, Keys, HeadDim)     bytes, with (stages, Keys) steps
///                     value tiles  (stages, planes, Keys, 64)  16 bits; planes of 64 columns
///                     mask tiles   (stages, planes, rows, 64)  elements (of float32 32), or
///                                  (stages, rows, 128)         bits
///                     out tile     (rows, HeadDim)             16 bits
///     registers       product      (64, Keys) of a group       int32, then scores, then weights
///                     out          (64, HeadDim)               float32
///
/// | HeadDim | rows          | Keys                    | stages; bytes, additive, float32 mask |
/// |---------|---------------|-------------------------|---------------------------------------|
/// | 64      | 256: 4 groups | 64                      | 4; 4, 3, 2                            |
/// | 128     | 128: 2 groups | 128; float32 mask 64    | 3; 2, 2, 2                            |
///
/// Two warps copy (cuda_int8_pipeline.cuh); groups of four warps compute, 64 rows each
/// (cuda_int8_attend.cuh).
///
/// \par Source
/// Shah et al. 2024, "FlashAttention-3", sections 3.1 and 3.2.
#pragma once

#include "cuda_int8_attend.cuh"

namespace attn::gpu {

/// \brief One block a multiprocessor, which takes one block of rows after the other: while the
///        results of one are written, the tiles of the next are under way.
/// \param blocks  of rows
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, 1)
    int8_wgmma_kernel(const __grid_constant__ Int8Problem p, const __grid_constant__ Int8Maps maps,
                      Index blocks, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = whole_kilobytes(raw);
    const Int8Barriers<Shape::stages> barriers{shared_address(shared) + Shape::barriers_at};
    volatile Int8Task* const task =  // two: one in work, one to come
        reinterpret_cast<Int8Task*>(shared + Shape::tasks_at);
    auto* const labels = reinterpret_cast<volatile std::uint32_t*>(shared + Shape::labels_at);
    if (threadIdx.x == 0) barriers.set(Shape::Warps);
    wait_for_last_kernel();
    __syncthreads();           // the barriers are there
    Turn<Shape::stages> turn;  // of tiles of keys and values
    Turn<2> query_turn;
    if (threadIdx.x >= Shape::consumers) {
        fewer_registers<Shape::copier_registers>();
        const int copier = (static_cast<int>(threadIdx.x) - Shape::consumers) / 32;
        const bool first = fresh_lane() == 0;
        if (copier == 0) {  // copies tiles
            for (;; query_turn.next()) {
                barrier_wait(barriers.task_full(query_turn.stage), query_turn.parity);
                const volatile Int8Task& own = task[query_turn.stage];
                if (own.block < 0) return;
                copy_int8_tiles<Shape>(p, maps, own, labels, shared_address(shared), barriers,
                                       turn);
                __syncwarp();
                barrier_arrive(barriers.query_empty(query_turn.stage));
            }
        }
        if (copier > 1) return;
        // Finds blocks of rows, the first one without asking, and copies their queries.
        const auto take = [&] {
            const unsigned long long own = first ? atomicAdd(p.next_block, 1ull) : 0;
            return static_cast<Index>(__shfl_sync(~0u, own, 0)) + gridDim.x;
        };
        const auto wait_for_room = [&] {
            barrier_wait(barriers.query_empty(query_turn.stage), query_turn.parity ^ 1);
        };
        for (Index block = blockIdx.x; block < blocks; block = take(), query_turn.next()) {
            wait_for_room();
            copy_int8_rows<Shape>(p, block, query_turn.stage, task[query_turn.stage],
                                  shared_address(shared), barriers);
        }
        if (!first) return;
        start_next_kernel();  // not at the beginning: that was slower
        wait_for_room();
        task[query_turn.stage].block = -1;
        barrier_arrive(barriers.task_full(query_turn.stage));
        barrier_arrive(barriers.query_full(query_turn.stage));
        return;
    }
    more_registers<Shape::consumer_registers>();
    for (;; query_turn.next()) {
        barrier_wait(barriers.query_full(query_turn.stage), query_turn.parity);
        const volatile Int8Task& own = task[query_turn.stage];
        if (uniform_bits(own.block < 0) != 0) return;
        const bool finite =
            attend_integers<Shape, false>(p, own, query_turn.stage, labels, shared, barriers, turn);
        // Rows for the second pass? The pre-pass has set the marks to 0.
        if (__any_sync(~0u, can_hide(p.problem) && !finite) && fresh_lane() == 0)
            p.again[own.block] = true;
        barrier_arrive(barriers.query_empty(query_turn.stage));
    }
#endif
}

/// \brief See `int8_again_kernel`. Masks are read where they lie, and no tile is left out, which gives
///        the same bits.
/// \tparam Shape  without a mask
template <class Shape>
__global__ void __launch_bounds__(Shape::all_threads, 1)
    int8_wgmma_again_kernel(const __grid_constant__ Int8Problem p,
                            const __grid_constant__ Int8Maps maps, Index blocks, Index) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ unsigned char raw[];
    unsigned char* const shared = whole_kilobytes(raw);
    const Int8Barriers<Shape::stages> barriers{shared_address(shared) + Shape::barriers_at};
    volatile Int8Task& task = *reinterpret_cast<Int8Task*>(shared + Shape::tasks_at);
    auto* const labels = reinterpret_cast<volatile std::uint32_t*>(shared + Shape::labels_at);
    wait_for_last_kernel();
    // The two kinds of warps as in the first pass; both go over the same marks.
    const auto each = [&](auto&& work) {
        const auto together = [] { barrier_of(3, Shape::consumers + 32); };
        const auto again = [&](Index block) {
            if (threadIdx.x == 0) barriers.set(Shape::Warps);
            together();  // the barriers are there
            work(block);
            together();  // they have served
            if (threadIdx.x == 0) barriers.end();
        };
        for_marked(p.again, blocks, again, together);
    };
    if (threadIdx.x >= Shape::consumers) {
        fewer_registers<Shape::copier_registers>();
        if (threadIdx.x >= Shape::consumers + 32) return;
        each([&](Index block) {
            Turn<Shape::stages> turn;
            copy_int8_rows<Shape>(p, block, 0, task, shared_address(shared), barriers);
            __syncwarp();  // the task has been written
            copy_int8_tiles<Shape>(p, maps, task, labels, shared_address(shared), barriers, turn);
            __syncwarp();
        });
        return;
    }
    more_registers<Shape::consumer_registers>();
    each([&](Index block) {
        Turn<Shape::stages> turn;
        barrier_wait(barriers.query_full(0), 0);
        attend_integers<Shape, true>(p, task, 0, labels, shared, barriers, turn);
        repair_rows<Shape>(p, block - blockIdx.x);
    });
#endif
}

}  // namespace attn::gpu
