/// \file
/// \brief Tier `eigen`: two matrix products, and what they cost.
///
/// Builds on `literal`. New here, and nothing else: the scores of a whole head are one product
/// Q K^T and its output is another, P V. A library blocks them for caches and registers, which is
/// worth a factor of ten and more. The price is the L x S matrix in between: it has to be written,
/// read and kept, and soon it is the largest thing in the program. The transposition of K is never
/// formed: the product reads K's rows as columns.
///
/// The kernel is in eigen.isa.cpp, compiled once per instruction set. Limits: none.
/// Taught in \ref tier_eigen.
#include "isa.hpp"
#include "registry.hpp"
#include "saturate.hpp"

namespace attn {

#define ATTN_COPY(isa)                      \
    namespace isa {                         \
    void eigen_attention(const Problem& p); \
    }
ATTN_FOR_EACH_ISA(ATTN_COPY)
#undef ATTN_COPY

namespace {

void run(const Problem& p) {
    switch (current_isa()) {
#define ATTN_CASE(isa) \
    case Isa::isa:     \
        return isa::eigen_attention(p);
        ATTN_FOR_EACH_ISA(ATTN_CASE)
#undef ATTN_CASE
        default:
            break;
    }
}

/// The five matrices of one head in the compute type: query, key, value, scores, output.
std::size_t scratch_bytes(const Problem& p) {
    const Saturating L = counted(p.L), S = counted(p.S), E = counted(p.E), Ev = counted(p.Ev);
    const Saturating real{p.dtype == DType::float64 ? sizeof(double) : sizeof(float)};
    return (real * (L * E + S * E + S * Ev + L * S + L * Ev)).count;
}

}  // namespace

const Tier tier_eigen = {
    .limits = {.dtypes = all_floats},
    // Eigen's float exp is within 2 units in the last place.
    .accuracy = {.weight_error = 0x1p-22,
                 .weight_error_f16 = 0x1p-22,
                 .weight_error_bf16 = 0x1p-22},
    .available = always_available,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .variant = [](const Problem&) { return std::string(name_of(current_isa())); },
};

}  // namespace attn
