/// \file
/// \brief Hopper's instructions (sm_90a), one thin wrapper each: `wgmma` (products of 64 rows by
///        four warps, operands in shared memory), `mbarrier`, and `cp.async.bulk` (copies of any
///        length, or of a box of a tensor, by one thread).
///
/// A *plane* is a tile of rows of 64 16-bit elements, 128 bytes, in shared memory from a multiple
/// of 1024 bytes on, swizzled as `swizzled<128>` says: the layout that `wgmma` calls a 128-byte
/// swizzle.
///
/// \par Source
/// PTX ISA 9.0, sections 9.7.16 (wgmma), 9.7.14.15 (mbarrier), 9.7.9.25 (cp.async.bulk).
#pragma once

#include <cstdint>

namespace attn::gpu {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

//! [uniform]
/// \brief A number that all lanes of the warp have, and now the compiler knows: what follows from it,
///        descriptors and the turns of a loop, is computed once for the warp, where `wgmma` wants it.
__device__ inline int uniform(int x) { return __shfl_sync(~0u, x, 0); }
//! [uniform]
/// \brief The same, sooner at hand: the bits that some lane has.
__device__ inline std::uint32_t uniform_bits(std::uint32_t x) { return __reduce_or_sync(~0u, x); }

/// \brief Where an operand of `wgmma` lies in shared memory, and how. In two words, of which the
///        upper one is a constant: moving on is one addition of 32 bits.
struct Descriptor {
    std::uint32_t place;   ///< bits 0-13: address / 16; 16-29: distance of planes / 16
    std::uint32_t layout;  ///< bits 0-13: distance of every eighth row / 16; 30-31: the swizzle
    /// \param pieces  of 16 bytes
    __device__ Descriptor operator+(int pieces) const { return {place + pieces, layout}; }
};

/// \brief A descriptor that is kept: the compiler would compute it anew where it is used.
__device__ inline Descriptor uniform(const Descriptor& x) {
    return {static_cast<std::uint32_t>(uniform(static_cast<int>(x.place))), x.layout};
}

/// \brief A plane: 1024 bytes from eight rows to the next. Add bytes / 16 to move on: 2 for the next
///        16 columns, 128 for the next 16 rows.
__device__ inline Descriptor plane_at(std::uint32_t address) {
    return {1u << 16 | (address & 0x3ffff) >> 4, 1u << 30 | 1024 >> 4};
}

/// \brief The same for operands of two planes, `plane_bytes` apart: B with 128 columns, its sum along
///        the column.
__device__ inline Descriptor two_planes_at(std::uint32_t address, int plane_bytes) {
    return {static_cast<std::uint32_t>(plane_bytes >> 4) << 16 | (address & 0x3ffff) >> 4,
            1u << 30 | 1024 >> 4};
}
/// \brief A tile of rows of RowBytes (64 or 128), swizzled as `swizzled<RowBytes>` says, its sum
///        along the row. Add 2 for the next 32 bytes of each row.
template <int RowBytes>
__device__ inline Descriptor rows_at(std::uint32_t address) {
    static_assert(RowBytes == 64 || RowBytes == 128);
    return {1u << 16 | (address & 0x3ffff) >> 4,
            (RowBytes == 128 ? 1u : 2u) << 30 | 8 * RowBytes >> 4};
}

#define ATTN_F(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define ATTN_F8(n)                                                                        \
    ATTN_F(n), ATTN_F(n + 1), ATTN_F(n + 2), ATTN_F(n + 3), ATTN_F(n + 4), ATTN_F(n + 5), \
        ATTN_F(n + 6), ATTN_F(n + 7)
#define ATTN_I(n) "+r"(d[n][0]), "+r"(d[n][1]), "+r"(d[n][2]), "+r"(d[n][3])
#define ATTN_I8(n)                                                                        \
    ATTN_I(n), ATTN_I(n + 1), ATTN_I(n + 2), ATTN_I(n + 3), ATTN_I(n + 4), ATTN_I(n + 5), \
        ATTN_I(n + 6), ATTN_I(n + 7)
#define ATTN_D32                                                                                \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
    " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ATTN_D64                                                                        \
    ATTN_D32                                                                            \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47," \
    " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/// \brief Starts d = A B^T, or d += A B^T if `add`, for A (64, 16) and B (64, 16) in planes, both
///        with their sum along the row. d[n] is the C fragment of columns 8 n .. (mma.cuh); warp w
///        of the four has rows 16 w ...
__device__ inline void wgmma_rows(float (&d)[8][4], Descriptor a, Descriptor b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 a, b;\n"
        "mov.b64 a, {%32, %33};\nmov.b64 b, {%34, %35};\nsetp.ne.b32 p, %36, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ATTN_D32
        "}, a, b, p, 1, 1, 0, 0;\n}"
        : ATTN_F8(0)
        : "r"(a.place), "r"(a.layout), "r"(b.place), "r"(b.layout), "r"(static_cast<int>(add)));
}
/// \brief The same for 8-bit integers, A (64, 32) and B (64, 32); exact in 32 bits.
__device__ inline void wgmma_rows(int (&d)[8][4], Descriptor a, Descriptor b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 a, b;\n"
        "mov.b64 a, {%32, %33};\nmov.b64 b, {%34, %35};\nsetp.ne.b32 p, %36, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" ATTN_D32 "}, a, b, p;\n}"
        : ATTN_I8(0)
        : "r"(a.place), "r"(a.layout), "r"(b.place), "r"(b.layout), "r"(static_cast<int>(add)));
}
/// \brief The same for B (128, 32).
__device__ inline void wgmma_rows(int (&d)[16][4], Descriptor a, Descriptor b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 a, b;\n"
        "mov.b64 a, {%64, %65};\nmov.b64 b, {%66, %67};\nsetp.ne.b32 p, %68, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" ATTN_D64 "}, a, b, p;\n}"
        : ATTN_I8(0), ATTN_I8(8)
        : "r"(a.place), "r"(a.layout), "r"(b.place), "r"(b.layout), "r"(static_cast<int>(add)));
}
/// \brief d = A B, or d += A B if `add`, for A (64, 16) in registers and B (16, 64) in a plane, with
///        its sum along the column.
template <class T = bfloat16>
__device__ inline void wgmma_columns(float (&d)[8][4], const std::uint32_t (&a)[4], Descriptor b,
                                     bool add) {
#define ATTN_WGMMA(type)                                                                   \
    asm volatile(                                                                          \
        "{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%36, %37};\nsetp.ne.b32 p, %38, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" ATTN_D32          \
        "}, {%32, %33, %34, %35}, b, p, 1, 1, 1;\n}"                                       \
        : ATTN_F8(0)                                                                       \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.place), "r"(b.layout),         \
          "r"(static_cast<int>(add)))
    if constexpr (dtype_of<T> == DType::float16)
        ATTN_WGMMA("f16");
    else
        ATTN_WGMMA("bf16");
#undef ATTN_WGMMA
}
/// \brief The same for B (16, 128) in two planes: see `two_planes_at`.
template <class T>
__device__ inline void wgmma_columns(float (&d)[16][4], const std::uint32_t (&a)[4], Descriptor b,
                                     bool add) {
#define ATTN_WGMMA(type)                                                                   \
    asm volatile(                                                                          \
        "{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%68, %69};\nsetp.ne.b32 p, %70, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" ATTN_D64         \
        "}, {%64, %65, %66, %67}, b, p, 1, 1, 1;\n}"                                       \
        : ATTN_F8(0), ATTN_F8(8)                                                           \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.place), "r"(b.layout),         \
          "r"(static_cast<int>(add)))
    if constexpr (dtype_of<T> == DType::float16)
        ATTN_WGMMA("f16");
    else
        ATTN_WGMMA("bf16");
#undef ATTN_WGMMA
}
#undef ATTN_D64
#undef ATTN_D32
#undef ATTN_I8
#undef ATTN_I
#undef ATTN_F8
#undef ATTN_F

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
template <int Count>
__device__ inline void wgmma_use(float (&d)[Count][4]) {
#pragma unroll
    for (int n = 0; n < Count; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[n][i])::"memory");
}
template <int Count>
__device__ inline void wgmma_use(int (&d)[Count][4]) {
#pragma unroll
    for (int n = 0; n < Count; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(d[n][i])::"memory");
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
/// \brief Arrives at `barrier`, whose phase then ends when `bytes` have been copied.
__device__ inline void barrier_expect(std::uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/// \brief Starts the copy of `bytes` (a multiple of 16) to shared memory, which counts them at
///        `barrier`. The work of one thread, as the next one.
__device__ inline void copy_bytes(std::uint32_t to, const void* from, int bytes,
                                  std::uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}
/// \brief Both: the phase ends with this copy.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier) {
    barrier_expect(barrier, bytes);
    copy_bytes(to, from, bytes, barrier);
}
/// \brief Fetches the map of a tensor before its first use.
/// \param map  a CUtensorMap among the kernel's parameters
__device__ inline void prefetch_map(const void* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// \brief Starts the copy of a box of a tensor (TMA), from element (column, row, head, batch) on;
///        what lies outside the tensor becomes 0. Counted like `copy_bytes`.
/// \param map   a CUtensorMap among the kernel's parameters
/// \param once  nobody reads it again: the first to leave the L2 cache
__device__ inline void copy_box(std::uint32_t to, const void* map, int column, int row, int head,
                                int batch, std::uint32_t barrier, bool once = false) {
    if (once) {
        asm volatile(
            "{\n.reg .b64 policy;\n"
            "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
            ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], policy;\n}" ::"r"(to),
            "l"(map), "r"(column), "r"(row), "r"(head), "r"(batch), "r"(barrier)
            : "memory");
        return;
    }
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(head), "r"(batch), "r"(barrier)
        : "memory");
}
/// \brief The barrier's memory is free for something else, another barrier too.
__device__ inline void barrier_end(std::uint32_t barrier) {
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

#endif  // sm_90a

}  // namespace attn::gpu
