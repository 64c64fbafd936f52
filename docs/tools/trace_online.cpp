/// \file
/// \brief Records tier `online`.
#include "online.hpp"

#include "trace.hpp"

std::vector<attn::docs::Access> attn::docs::trace_online(Index S) {
    const TracedRow row(S);
    std::vector<std::byte> memory(OnlineScratch<float>::bytes(row.problem));
    online_row<Traced>(row.problem, 0, 0, 0, OnlineScratch<float>(memory.data(), row.problem.Ev));
    return accesses;
}
