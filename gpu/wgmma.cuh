/// \file
/// \brief Hopper's instructions (sm_90a), one thin wrapper each: `wgmma` (products of 64 rows by
///        four warps, operands in shared memory), `mbarrier`, and `cp.async.bulk` (a copy of any
///        length by one thread).
///
/// A *plane* is a tile of rows of 64 16-bit elements, 128 bytes, in shared memory from a multiple
/// of 1024 bytes on, swizzled as `swizzled<128>` says: the layout that `wgmma` calls a 128-byte
/// swizzle.
///
/// \par Source
/// PTX ISA 9.0, sections 9.7.16 (wgmma), 9.7.14.15 (mbarrier), 9.7.9.25.4 (cp.async.bulk).
#pragma once

#include <cstdint>

namespace attn::gpu {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// \brief Descriptor of a plane: its address, 1024 bytes from eight rows to the next. Add bytes /
///        16 to move on: 2 for the next 16 columns, 128 for the next 16 rows.
__device__ inline std::uint64_t plane_at(std::uint32_t address) {
    return std::uint64_t{1} << 62 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 16 |
           (address & 0x3ffff) >> 4;
}

#define ATTN_ROW(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define ATTN_ROWS                                                                              \
    ATTN_ROW(0), ATTN_ROW(1), ATTN_ROW(2), ATTN_ROW(3), ATTN_ROW(4), ATTN_ROW(5), ATTN_ROW(6), \
        ATTN_ROW(7)
#define ATTN_D                                                                                   \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
    " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"

/// \brief Starts d = A B^T, or d += A B^T if `add`, for A (64, 16) and B (64, 16) in planes, both
///        with their sum along the row. d[n] is the C fragment of columns 8 n .. (mma.cuh); warp w
///        of the four has rows 16 w ...
__device__ inline void wgmma_rows(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " ATTN_D
        ", %32, %33, p, 1, 1, 0, 0;\n}"
        : ATTN_ROWS
        : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
/// \brief The same for A (64, 16) in registers, as A fragments of the four warps, and B (16, 64) in
///        a plane, with its sum along the column.
__device__ inline void wgmma_columns(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b,
                                     bool add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " ATTN_D
        ", {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
        : ATTN_ROWS
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
#undef ATTN_D
#undef ATTN_ROWS
#undef ATTN_ROW

/// \brief Registers that `wgmma` is to read or write have their values.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// \brief Closes the group of the products started since the last call.
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// \brief Waits until at most `Pending` groups are under way.
template <int Pending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// \brief After it, the compiler may not use what it knew of d before: what a product wrote into d
///        meanwhile is not in the program's text.
__device__ inline void wgmma_use(float (&d)[8][4]) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[n][i])::"memory");
}

/// \brief The four warps that call it give registers back, or take some: their number per thread
///        becomes `Count`.
template <int Count>
__device__ inline void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

/// \brief What this thread wrote to shared memory is seen by `wgmma` after the next barrier.
__device__ inline void fence_shared_for_wgmma() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// \brief A barrier of phases: phase n ends with the `count`th arrival, and with the last byte that
///        is expected.
__device__ inline void barrier_set(std::uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void barrier_arrive(std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// \brief Waits for the end of the phase of this parity (of the first phase: 0).
__device__ inline void barrier_wait(std::uint32_t barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}
/// \brief One thread starts the copy of `bytes` (a multiple of 16) to shared memory and arrives at
///        `barrier`, whose phase then ends when they are there.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}
/// \brief A barrier of `threads` threads with a number of its own (1 .. 15).
__device__ inline void barrier_of(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

#endif  // sm_90a

}  // namespace attn::gpu
