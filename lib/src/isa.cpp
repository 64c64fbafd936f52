#include "isa.hpp"

#include <attn/error.hpp>

#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

namespace {

/// AMX tiles are 8 KiB more for the system to save with each thread, so it grants them on request.
bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
    if (!supports(Isa::avx512)) return false;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    const bool tiles = (edx >> 24 & 1) != 0 && (edx >> 22 & 1) != 0;  // AMX-TILE, AMX-BF16
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
    const bool convert = (eax >> 5 & 1) != 0;  // AVX512_BF16
    if (!tiles || !convert) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

std::string asked_isa() {
    const char* asked = std::getenv("ATTN_ISA");
    return asked == nullptr ? "" : asked;
}

}  // namespace

bool may_use_amx() {
    static const bool has = has_amx();
    const std::string asked = asked_isa();
    return has && (asked.empty() || asked == "amx");
}

Isa current_isa() {
    static const Isa best = supports(Isa::avx512) ? Isa::avx512
                            : supports(Isa::avx2) ? Isa::avx2
                                                  : Isa::baseline;
    const std::string asked = asked_isa();
    if (asked.empty()) return best;
    if (asked == "amx" && may_use_amx()) return Isa::avx512;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (asked != name_of(isa)) continue;
        if (supports(isa)) return isa;
        throw Error(ErrorCode::unavailable,
                    "ATTN_ISA asks for " + asked + ", which this processor lacks");
    }
    if (asked == "amx")
        throw Error(ErrorCode::unavailable, "ATTN_ISA asks for amx, which this processor lacks");
    throw Error(ErrorCode::bad_option,
                "ATTN_ISA is '" + asked + "', but must be baseline, avx2, avx512 or amx");
}

}  // namespace attn
