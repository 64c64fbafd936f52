#include "isa.hpp"

#include <attn/error.hpp>

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace attn {
namespace {

#if defined(__x86_64__)
/// clang 14's __builtin_cpu_supports does not know "f16c".
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const char* name_of(Isa isa) {
    switch (isa) {
        case Isa::baseline:
            return "baseline";
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
    }
    return "?";
}

bool supports(Isa isa) {
    if (isa == Isa::baseline) return true;
#if defined(__x86_64__)
    // libgcc also asks whether the operating system saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi2") && has_f16c();
    if (isa == Isa::avx2) return avx2;
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

Isa current_isa() {
    static const Isa best = supports(Isa::avx512) ? Isa::avx512
                            : supports(Isa::avx2) ? Isa::avx2
                                                  : Isa::baseline;
    const char* asked = std::getenv("ATTN_ISA");
    if (asked == nullptr || *asked == '\0') return best;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (std::string(asked) != name_of(isa)) continue;
        if (supports(isa)) return isa;
        throw Error(ErrorCode::unavailable,
                    std::string("ATTN_ISA asks for ") + asked + ", which this processor lacks");
    }
    throw Error(ErrorCode::bad_option,
                std::string("ATTN_ISA is '") + asked + "', but must be baseline, avx2 or avx512");
}

}  // namespace attn
