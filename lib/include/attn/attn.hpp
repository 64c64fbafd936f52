/// \file
/// \brief Everything a user of the library needs.
#pragma once

#include <attn/attention.hpp>
#include <attn/generate.hpp>
#include <attn/row_state.hpp>
#include <attn/tensor.hpp>
#include <attn/tier.hpp>

/// \brief The library: one call, `scaled_dot_product_attention`, the tiers that answer it, and the
///        tensors they take.
namespace attn {}
