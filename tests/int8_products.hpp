/// \file
/// \brief The dot product of every instruction set as a function: for test_int8.cpp.
#pragma once

#include "isa.hpp"

#include <vector>

namespace attn {

/// \brief a . b by the instruction set's `dot`, or by `portable_dot`. A multiple of 64 numbers;
///        those of b are -127 .. 127, those of a 0 .. 255.
using Int8Products = int (*)(const std::vector<int>& a, const std::vector<int>& b, bool portable);

#define ATTN_COPY(isa)                       \
    namespace isa {                          \
    extern const Int8Products int8_products; \
    }
ATTN_FOR_EACH_DOT_ISA(ATTN_COPY)
#if defined(__x86_64__)
ATTN_COPY(amx)
#endif
#undef ATTN_COPY

}  // namespace attn
