/// \file
/// \brief Records tier `literal`.
#define tier_literal traced_tier_literal  // this copy is not the registered one
#include "../../cpu/literal.cpp"

#include "trace.hpp"

std::vector<attn::docs::Access> attn::docs::trace_literal(Index S) {
    const TracedRow row(S);
    std::vector<double> score(static_cast<std::size_t>(S));
    attend<Traced>(row.problem, 0, 0, 0, score.data());
    return accesses;
}
