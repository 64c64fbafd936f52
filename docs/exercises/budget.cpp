/// \file
/// \brief What an exercise allows, in floats: compiled once for each, with the expression of its
///        budget.cmake.
#include <attn/tensor.hpp>

#ifndef EXERCISE_SCRATCH  // no budget: enough for any honest attempt
#define EXERCISE_SCRATCH 8 * (L + S) * (E + Ev + S + L)
#endif

namespace attn::exercises {

Index budget([[maybe_unused]] Index L, [[maybe_unused]] Index S, [[maybe_unused]] Index E,
             [[maybe_unused]] Index Ev) {
    return EXERCISE_SCRATCH;
}

}  // namespace attn::exercises
