/// \file
/// \brief `auto`: which tier takes a problem.
#pragma once

#include <attn/tier.hpp>

namespace attn {

/// \brief The tier that runs a problem.
/// \param asked           a tier's name, or "auto"
/// \param caller_scratch  bytes of working memory that the caller gave; 0: none
/// \throws Error `bad_option` for an unknown name; what `check_tier` says if the asked tier cannot
///         take the problem; `unsupported` if `auto` finds none.
const Tier& choose(const Problem& problem, std::string_view asked, std::size_t caller_scratch);

/// \brief The same with a reason for every tier.
Explanation explain_choice(const Problem& problem, std::string_view asked,
                           std::size_t caller_scratch);

}  // namespace attn
