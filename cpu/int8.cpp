/// \file
/// \brief Tier `int8`: both products in 8-bit integers.
///
/// Builds on `int8_pv32`. New here: weights and values are integers as well, so that the second
/// half of the work runs at the speed of the first. A weight, exp(score - max), becomes 0 .. 255
/// against the largest of its block of 64 keys; a value -127 .. 127 in steps of its channel and
/// block. The weights are summed as the integers they have become, so that the output still is a
/// mean of values.
///
/// The kernels are in int8_softmax.hpp, int8_panel.hpp (in registers) and int8_amx.hpp (on matrix
/// tiles). Limits: no float64. Taught in \ref tier_int8.
#include "int8_run.hpp"
#include "registry.hpp"

namespace attn {

const Tier tier_int8 = {
    .parallel = true,
    .limits = {.dtypes = {DType::float32, DType::float16, DType::bfloat16},
               .error_limit = 0.02,
               .max_head_dim = int8_max_head_dim},
    .accuracy = {.weight_error = 0x1p-21,
                 .weight_error_f16 = 0x1p-21,
                 .weight_error_bf16 = 0x1p-21,
                 .quantized = true,
                 .quantized_values = true,
                 .flushes_denormals = true},
    .available = always_available,
    .scratch_bytes = [](const Problem& p) { return int8_scratch_bytes(p, Int8Values::int8); },
    .run = [](const Problem& p) { int8_run(p, Int8Values::int8); },
    .variant = int8_variant,
};

}  // namespace attn
