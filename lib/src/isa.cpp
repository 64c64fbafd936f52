#include "isa.hpp"

#include <attn/error.hpp>

#include <cstdlib>
#include <optional>
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

/// Fastest at 8-bit products first. AVX-VNNI stands before plain AVX-512: half the width, but four
/// products an instruction instead of two and one instruction instead of two.
constexpr Isa all[] = {Isa::avx512vnni, Isa::avxvnni, Isa::avx512, Isa::avx2, Isa::baseline};

/// The set without its 8-bit dot product.
Isa without_dot(Isa isa) {
    return isa == Isa::avx512vnni ? Isa::avx512 : isa == Isa::avxvnni ? Isa::avx2 : isa;
}

#if defined(__x86_64__)
/// clang 14's __builtin_cpu_supports does not know "f16c".
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

/// CPUID leaf 7, subleaf 1, EAX bit 4. (GCC 12's __builtin_cpu_supports does not know the name.)
bool has_avxvnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#endif

std::string asked_isa() {
    const char* asked = std::getenv("ATTN_ISA");
    return asked == nullptr ? "" : asked;
}

/// What ATTN_ISA names; empty if it is not set.
std::optional<Isa> asked() {
    const std::string name = asked_isa();
    if (name.empty()) return {};
    if (name == "amx" && may_use_amx()) return Isa::avx512;
    for (Isa isa : all) {
        if (name != name_of(isa)) continue;
        if (supports(isa)) return isa;
        throw Error(ErrorCode::unavailable,
                    "ATTN_ISA asks for " + name + ", which this processor lacks");
    }
    if (name == "amx")
        throw Error(ErrorCode::unavailable, "ATTN_ISA asks for amx, which this processor lacks");
    throw Error(ErrorCode::bad_option,
                "ATTN_ISA is '" + name +
                    "', but must be baseline, avx2, avxvnni, avx512, avx512vnni or amx");
}

}  // namespace

const char* name_of(Isa isa) {
    switch (isa) {
        case Isa::baseline:
            return "baseline";
        case Isa::avx2:
            return "avx2";
        case Isa::avxvnni:
            return "avxvnni";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512vnni:
            return "avx512vnni";
    }
    return "?";
}

bool supports(Isa isa) {
    if (isa == Isa::baseline) return true;
#if defined(__x86_64__)
    // libgcc also asks whether the operating system saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi2") && has_f16c();
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
        case Isa::avx2:
            return avx2;
        case Isa::avxvnni:
            return avx2 && has_avxvnni();
        case Isa::avx512:
            return avx512;
        case Isa::avx512vnni:
            return avx512 && __builtin_cpu_supports("avx512vnni");
        default:
            return false;
    }
#else
    return false;
#endif
}

namespace {

/// AMX tiles are 8 KiB more for the system to save with each thread, so it grants them on request.
bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
    if (!supports(Isa::avx512vnni)) return false;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    const bool tiles = (edx >> 24 & 1) != 0 &&  // AMX-TILE
                       (edx >> 22 & 1) != 0 &&  // AMX-BF16
                       (edx >> 25 & 1) != 0;    // AMX-INT8
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
    const bool convert = (eax >> 5 & 1) != 0;  // AVX512_BF16
    if (!tiles || !convert) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

}  // namespace

bool may_use_amx() {
    static const bool has = has_amx();
    const std::string asked = asked_isa();
    return has && (asked.empty() || asked == "amx");
}

Isa current_dot_isa() {
    static const Isa best = [] {
        for (Isa isa : all)
            if (supports(isa)) return isa;
        return Isa::baseline;
    }();
    const std::optional<Isa> wanted = asked();
    // With AMX goes the largest set.
    return !wanted || asked_isa() == "amx" ? best : *wanted;
}

Isa current_isa() {
    static const Isa best = supports(Isa::avx512) ? Isa::avx512
                            : supports(Isa::avx2) ? Isa::avx2
                                                  : Isa::baseline;
    const std::optional<Isa> wanted = asked();
    return wanted ? without_dot(*wanted) : best;
}

}  // namespace attn
