/// \file
/// \brief A C door to the library for compare_torch_cpu.py: our tiers run in the process that runs
///        PyTorch, on the same memory, and share its OpenMP threads.
#include "isa.hpp"

#include <attn/attn.hpp>

#include <cstdint>
#include <cstdio>

namespace attn {
#define ATTN_COPY(isa)                                             \
    namespace isa {                                                \
    double fma_gflops(int threads);                                \
    void read_memory(const float* data, Index count, int threads); \
    }
ATTN_FOR_EACH_ISA(ATTN_COPY)
#undef ATTN_COPY
}  // namespace attn

using attn::DType;
using attn::Index;

extern "C" {

/// One call. Contiguous tensors; `mask` is null, or has strides in elements for (B, Hq, L, S).
struct AttnDoorCall {
    const char* tier;
    std::int64_t B, Hq, H, L, S, E, Ev;
    std::int32_t dtype, mask_dtype, causal, threads;
    const void *query, *key, *value, *mask;
    std::int64_t mask_stride[4];
    void* out;
    std::byte* scratch;  // null: the library finds its own
    std::int64_t scratch_bytes;
};

/// Returns 0, or 1 after writing what is wrong into `message`.
int attn_door_run(const AttnDoorCall* call, char* message, int size, std::int64_t* scratch_needed) {
    const AttnDoorCall& c = *call;
    const DType dtype = static_cast<DType>(c.dtype);
    const attn::TensorView query(c.query, dtype, {c.B, c.Hq, c.L, c.E});
    const attn::TensorView key(c.key, dtype, {c.B, c.H, c.S, c.E});
    const attn::TensorView value(c.value, dtype, {c.B, c.H, c.S, c.Ev});
    const attn::MutableTensorView out(c.out, dtype, {c.B, c.Hq, c.L, c.Ev});
    attn::Options options;
    options.causal = static_cast<attn::Causal>(c.causal);
    const Index mask_shape[] = {c.B, c.Hq, c.L, c.S};
    if (c.mask != nullptr)
        options.mask =
            attn::TensorView(c.mask, static_cast<DType>(c.mask_dtype), mask_shape, c.mask_stride);
    attn::Execution execution;
    execution.tier = c.tier;
    execution.threads = c.threads;
    if (c.scratch != nullptr)
        execution.scratch = {c.scratch, static_cast<std::size_t>(c.scratch_bytes)};
    try {
        if (scratch_needed != nullptr)
            *scratch_needed = static_cast<std::int64_t>(
                attn::scratch_bytes(query, key, value, out, options, execution));
        else
            attn::scaled_dot_product_attention(query, key, value, out, options, execution);
    } catch (const attn::Error& error) {
        std::snprintf(message, static_cast<std::size_t>(size), "%s", error.what());
        return 1;
    }
    return 0;
}

const char* attn_door_isa() { return attn::name_of(attn::current_isa()); }

#define ATTN_CASE(isa)   \
    case attn::Isa::isa: \
        return attn::isa::ATTN_CALL;

/// The largest rate of fused multiply-adds on `threads` threads, in a loop of some milliseconds.
double attn_door_fma_gflops(int threads) {
    switch (attn::current_isa()) {
#define ATTN_CALL fma_gflops(threads)
        ATTN_FOR_EACH_ISA(ATTN_CASE)
#undef ATTN_CALL
        default:
            return 0;
    }
}

/// Reads `count` floats once, shared among `threads` threads.
void attn_door_read(const float* data, std::int64_t count, int threads) {
    switch (attn::current_isa()) {
#define ATTN_CALL read_memory(data, count, threads)
        ATTN_FOR_EACH_ISA(ATTN_CASE)
#undef ATTN_CALL
        default:
            return;
    }
}
}
