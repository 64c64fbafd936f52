/// \file
/// \brief `auto`: which tier takes a problem.
#pragma once

#include <attn/tier.hpp>

namespace attn {

/// \brief Judges every tier for a problem and picks one.
/// \param asked  a tier's name, or "auto"
/// \throws Error `bad_option` for an unknown name; what `check_tier` says if the asked tier cannot
///         take the problem; `unsupported` if `auto` finds none.
Explanation choose(const Problem& problem, std::string_view asked, std::size_t caller_scratch);

}  // namespace attn
