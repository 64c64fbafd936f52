/// \file
/// \brief Tier `int8_pv32`: scores from 8-bit integers.
///
/// Builds on `simd`. New here: the product of queries and keys, half of the work, is done in
/// integers of 8 bits, four products in the place of one. quantize.hpp says what that takes (a step
/// for each token, K without its mean, Q and K rotated) and why the result hardly changes. Weights
/// and values stay float32: an error of a score is an error of one weight, and most cancel in the
/// sum.
///
/// Read after it: int8_dot.hpp (the instruction), int8_quantize.hpp and int8_rotate.hpp (keys and
/// queries become integers), int8_softmax.hpp (scores), int8_panel.hpp (the products in registers),
/// int8_amx.hpp (the same on matrix tiles), int8_tile.hpp (the loop), int8_run.cpp (plan and
/// threads). Taught in \ref tier_int8_pv32. Limits: no float64.
#include "int8_run.hpp"
#include "registry.hpp"

namespace attn {

const Tier tier_int8_pv32 = {
    .parallel = true,
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16},
               .error_limit = 0.015,
               .max_head_dim = int8_max_head_dim},
    .accuracy = {.weight_error = 0x1p-21,
                 .weight_error_f16 = 0x1p-21,
                 .weight_error_bf16 = 0x1p-21,
                 .quantized = true,
                 .flushes_denormals = true},
    .available = always_available,
    .scratch_bytes = [](const Problem& p) { return int8_scratch_bytes(p, Int8Values::float32); },
    .run = [](const Problem& p) { int8_run(p, Int8Values::float32); },
    .variant = int8_variant,
};

}  // namespace attn
