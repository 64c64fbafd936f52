/// \file
/// \brief What 8 bits do to real inputs: the numbers behind the pages of the int8 tiers.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace attn::docs {

/// \brief Key rows on their way to integers, and the error of attention with an idea left out.
/// \param data  the folder with query.npy, key.npy and value.npy of a real layer
nlohmann::ordered_json int8_facts(const std::string& data);

}  // namespace attn::docs
