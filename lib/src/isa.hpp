/// \file
/// \brief Instruction sets: the copies of every `*.isa.cpp` and `*.dot.cpp` file, and which one
/// runs.
#pragma once

namespace attn {

/// \brief Copies that are compiled. `baseline` is what the compiler targets by default (SSE2 on
///        x86-64, NEON on AArch64). `avxvnni` is AVX2 and `avx512vnni` is AVX-512 with the
///        instruction vpdpbusd, four 8-bit products added to a 32-bit sum: only `*.dot.cpp` files
///        have copies for these.
enum class Isa { baseline, avx2, avxvnni, avx512, avx512vnni };

/// \brief "baseline", "avx2", ...: also the namespace of the copy and the values of ATTN_ISA.
const char* name_of(Isa isa);

/// \brief Whether this program holds the copy and this processor (and its system) can run it.
bool supports(Isa isa);

/// \brief The copy of a `*.isa.cpp` file to run: the largest supported, or the one that the
///        environment variable ATTN_ISA names (avx2 for avxvnni, avx512 for avx512vnni).
/// \throws Error `bad_option` for an unknown name, `unavailable` if the processor lacks it.
Isa current_isa();

/// \brief The copy of a `*.dot.cpp` file to run: the fastest supported at 8-bit products, or the
///        one that ATTN_ISA names. Throws as `current_isa`.
Isa current_dot_isa();

/// \brief Whether kernels may use the matrix tiles of AMX, for bfloat16 and 8-bit integers, on top
///        of avx512vnni: the processor has them, the system grants them, and ATTN_ISA is unset or
///        "amx". (With ATTN_ISA=amx all other kernels are those of avx512 and avx512vnni.)
bool may_use_amx();

}  // namespace attn

/// Expands X(isa) for every copy of a `*.isa.cpp` file that this program holds, and of a
/// `*.dot.cpp` file; its copy for the tiles of AMX (`may_use_amx`) is not among them.
#if defined(__x86_64__)
#define ATTN_FOR_EACH_ISA(X) X(baseline) X(avx2) X(avx512)
#define ATTN_FOR_EACH_DOT_ISA(X) X(baseline) X(avx2) X(avxvnni) X(avx512) X(avx512vnni)
#else
#define ATTN_FOR_EACH_ISA(X) X(baseline)
#define ATTN_FOR_EACH_DOT_ISA(X) X(baseline)
#endif
