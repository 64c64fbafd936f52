/// \file
/// \brief The four instructions behind the tensor-core tiers, one thin wrapper each: `cp.async`
///        (global to shared memory without registers), `ldmatrix` (shared memory to fragments),
///        `mma.sync` (the product) and `ex2` (the exponential).
///
/// A *fragment* is a matrix tile spread over the 32 lanes of a warp (fragments.hpp). For
/// `mma.m16n8k16`, with g = lane / 4 and t = lane % 4, each register holding two 16-bit elements:
///
///     A (16, 16): a0 = (g, 2t..2t+1)     a1 = (g+8, 2t..)   a2 = (g, 2t+8..)   a3 = (g+8, 2t+8..)
///     B (16, 8):  b0 = (2t..2t+1, g)     b1 = (2t+8.., g)
///     C (16, 8):  c0, c1 = (g, 2t..2t+1) c2, c3 = (g+8, 2t..2t+1)                     float32
///
/// \par Source
/// PTX ISA 9.0, sections 9.7.9.25 (cp.async), 9.7.15.5 (ldmatrix, mma).
#pragma once

#include "fragments.hpp"

#include <attn/dtype.hpp>

#include <cstdint>

namespace attn::gpu {

/// \brief Address of `pointer` in the shared-memory window, as PTX wants it.
__device__ inline std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// \brief Starts a copy of 16 bytes from global to shared memory. Both addresses are multiples
/// of 16.
/// \tparam once  nobody reads them again: the first to leave the L2 cache
template <bool once = false>
__device__ inline void copy_async_16(std::uint32_t to, const void* from) {
    if constexpr (once)
        asm volatile(
            "{\n"
            ".reg .b64 policy;\n"
            "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
            "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, policy;\n"
            "}" ::"r"(to),
            "l"(from)
            : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/// \brief The same if `valid`; otherwise writes zeros, and `from` may point anywhere. (Not the
///        form of cp.async with a size of 0: it may still touch the address.)
__device__ inline void copy_async_16(std::uint32_t to, const void* from, bool valid) {
    asm volatile(
        "{\n"
        ".reg .pred valid;\n"
        "setp.ne.s32 valid, %2, 0;\n"
        "@valid cp.async.cg.shared.global [%0], [%1], 16;\n"
        "@!valid st.shared.v4.b32 [%0], {%3, %3, %3, %3};\n"
        "}" ::"r"(to),
        "l"(from), "r"(static_cast<int>(valid)), "r"(0)
        : "memory");
}
/// \brief Closes the group of the copies started since the last call.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// \brief Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
__device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// \brief A barrier of `threads` threads with a number of its own (1 .. 15). Warps may come to it at
///        different places of the program, which `__syncthreads` forbids.
__device__ inline void barrier_of(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/// \brief The same, and whether all of them say yes.
__device__ inline bool all_of(int number, int threads, bool yes) {
    int all;
    asm volatile(
        "{\n.reg .pred own, each;\n"
        "setp.ne.s32 own, %3, 0;\n"
        "bar.red.and.pred each, %1, %2, own;\n"
        "selp.s32 %0, 1, 0, each;\n}"
        : "=r"(all)
        : "r"(number), "r"(threads), "r"(static_cast<int>(yes))
        : "memory");
    return all != 0;
}

/// \brief The next kernel in the stream may take free places from now on, if it was queued by
///        `launch_early`. In code for sm_90 and later; else it waits for the end.
__device__ inline void start_next_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// \brief Waits until the kernel queued before this one has ended and its writes are seen.
__device__ inline void wait_for_last_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// \brief Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix
///        i / 8, and receives in register m two neighbours of row lane / 4 of matrix m.
__device__ inline void load_matrices(std::uint32_t (&to)[4], std::uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}
/// \brief The same, each matrix transposed on the way.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], std::uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

/// \brief c += a * b for one (16, 16) x (16, 8) product; not volatile, so that the compiler may
///        place exponentials between products.
template <class T>
//! [mma]
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
    if constexpr (dtype_of<T> == DType::float16) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}
//! [mma]

/// \brief d = c + a * b for one (16, 32) x (32, 8) product of 8-bit integers, exact in 32 bits.
__device__ inline void multiply_add(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1, const int (&c)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
}

/// \brief Two floats rounded to nearest and packed, `low` in the low half.
template <class T>
__device__ inline std::uint32_t pack(float low, float high) {
    std::uint32_t packed;
    if constexpr (dtype_of<T> == DType::float16)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/// \brief The same for values of any float32: what is finite stays finite.
template <class T>
__device__ inline std::uint32_t pack_value(float low, float high) {
    if constexpr (dtype_of<T> == DType::bfloat16) {
        constexpr float largest = 0x1.fep127f;
        const auto finite = [](float x) {
            return fabsf(x) <= 3.4028234e38f ? fminf(fmaxf(x, -largest), largest) : x;
        };
        return pack<T>(finite(low), finite(high));
    }
    return pack<T>(low, high);
}

/// \brief An element of a mask or tensor as float.
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bfloat16 x) { return x; }
__device__ inline float to_float(float16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

/// \brief The elements that `pack` packed.
template <class T>
__device__ inline float low_float(std::uint32_t packed) {
    if constexpr (dtype_of<T> == DType::bfloat16) return __uint_as_float(packed << 16);
    float16 low;
    low.bits = static_cast<std::uint16_t>(packed);
    return to_float(low);
}
template <class T>
__device__ inline float high_float(std::uint32_t packed) {
    if constexpr (dtype_of<T> == DType::bfloat16) return __uint_as_float(packed & 0xffff0000u);
    return low_float<T>(packed >> 16);
}

/// \brief 2^x within 2 ulp; results below 2^-126 are 0, -inf gives 0, NaN stays NaN.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// \brief A number that all rows of a warp share, or one for each row of the lane: [m][half].
__device__ inline float of_row(float x, int, int) { return x; }
template <int MTiles>
__device__ inline float of_row(const float (&x)[MTiles][2], int m, int half) {
    return x[m][half];
}

/// \brief This lane's number, read anew at each call: what is computed of it need not stay in registers.
__device__ inline int fresh_lane() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}
/// \brief The same for this thread's number.
__device__ inline unsigned fresh_thread() {
    unsigned thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

}  // namespace attn::gpu
