/// \file
/// \brief Instruction sets: the copies of every `*.isa.cpp` file, and which one runs.
#pragma once

namespace attn {

/// \brief Copies that are compiled, smallest first. `baseline` is what the compiler targets by
///        default (SSE2 on x86-64, NEON on AArch64).
enum class Isa { baseline, avx2, avx512 };

/// \brief "baseline", "avx2", "avx512": also the namespace of the copy and the values of ATTN_ISA.
const char* name_of(Isa isa);

/// \brief Whether this program holds the copy and this processor (and its system) can run it.
bool supports(Isa isa);

/// \brief The copy to run: the largest supported, or the one that the environment variable ATTN_ISA
///        names.
/// \throws Error `bad_option` for an unknown name, `unavailable` if the processor lacks it.
Isa current_isa();

/// \brief Whether kernels may use the matrix tiles of AMX for bfloat16, on top of avx512: the
///        processor has them, the system grants them, and ATTN_ISA is unset or "amx". (With
///        ATTN_ISA=amx all other kernels are those of avx512.)
bool may_use_amx();

}  // namespace attn

/// Expands X(isa) for every copy that this program holds.
#if defined(__x86_64__)
#define ATTN_FOR_EACH_ISA(X) X(baseline) X(avx2) X(avx512)
#else
#define ATTN_FOR_EACH_ISA(X) X(baseline)
#endif
