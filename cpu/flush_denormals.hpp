/// \file
/// \brief The floating-point environment of the fast kernels, given back as it was.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace attn {

/// \brief While it lives, this thread rounds to nearest, traps nothing, and takes denormal numbers
///        as zero; the caller's settings and exception flags return at the end.
///
/// Scores that spread widely make weights between 2^-149 and 2^-126. A denormal operand costs some
/// 150 cycles on x86: a kernel that meets them runs up to 100 times slower, on nothing but the
/// data.
class FlushDenormals {
  public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
#if defined(__SSE2__)
    FlushDenormals() : saved_(_mm_getcsr()) {
        constexpr unsigned mask_all_traps = 0x1f80, flush_results = 0x8000, flush_operands = 0x0040;
        _mm_setcsr(mask_all_traps | flush_results | flush_operands);
    }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        const std::uint64_t flush = 1u << 24;
        asm volatile("msr fpcr, %0" ::"r"(flush));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

  private:
    std::uint64_t saved_;
#else
    FlushDenormals() = default;
#endif
};

}  // namespace attn
