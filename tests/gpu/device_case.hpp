/// \file
/// \brief A case of the tests with its tensors on the device, and the tiers that take it there.
#pragma once

#include "device_memory.hpp"
#include "harness.hpp"

#include <span>

namespace attn::testing {

/// A host tensor's memory, gaps and margins included, on the device, and its view there.
struct OnGpu {
    Buffer memory;
    MutableTensorView view;

    explicit OnGpu(const Laid& laid) : memory(laid.memory.bytes()), view(laid.view) {
        if (laid.view.absent()) return;
        must(cudaMemcpy(memory.data(), laid.memory.data(), memory.bytes(), cudaMemcpyDefault));
        view.data = memory.data() + (static_cast<const std::byte*>(laid.view.data) -
                                     static_cast<const std::byte*>(laid.memory.data()));
        view.device = 0;
    }
    void fetch(Laid& laid) const {
        must(cudaMemcpy(laid.memory.data(), memory.data(), memory.bytes(), cudaMemcpyDefault));
    }
};

/// Inputs and outputs of a case on the device.
struct GpuCase {
    Inputs in;
    Output to;
    OnGpu query, key, value, mask, out, logsumexp;
    Options options;

    static Output outputs(const Case& c) {
        const Layout layout = c.layout == Layout::expanded ? Layout::odd : c.layout;
        const Sizes& s = c.sizes;
        Output to{lay_out({s.B, s.Hq, s.L, s.Ev}, c.dtype, layout),
                  lay_out({s.B, s.Hq, s.L, 1},
                          c.dtype == DType::float64 ? DType::float64 : DType::float32, layout)};
        to.logsumexp.view.rank = 3;
        std::memset(to.out.memory.data(), 0xff, to.out.memory.bytes());
        std::memset(to.logsumexp.memory.data(), 0xff, to.logsumexp.memory.bytes());
        return to;
    }
    explicit GpuCase(const Case& c)
        : in(make_inputs(c)),
          to(outputs(c)),
          query(in.query),
          key(in.key),
          value(in.value),
          mask(in.mask),
          out(to.out),
          logsumexp(to.logsumexp),
          options(in.options) {
        if (!in.options.mask.absent()) options.mask = mask.view;
    }
    void run(const Tier& tier, cudaStream_t stream = nullptr,
             std::span<std::byte> scratch = {}) const {
        Execution execution;
        execution.tier = tier.name;
        execution.stream = stream;
        execution.logsumexp = logsumexp.view;
        execution.scratch = scratch;
        scaled_dot_product_attention(query.view, key.view, value.view, out.view, options,
                                     execution);
    }
    std::size_t scratch_bytes(const Tier& tier) const {
        Execution execution;
        execution.tier = tier.name;
        execution.logsumexp = logsumexp.view;
        return attn::scratch_bytes(query.view, key.view, value.view, out.view, options, execution);
    }
    std::vector<std::byte> bits() const {
        must(cudaDeviceSynchronize());
        std::vector<std::byte> all(out.memory.bytes() + logsumexp.memory.bytes());
        must(cudaMemcpy(all.data(), out.memory.data(), out.memory.bytes(), cudaMemcpyDefault));
        must(cudaMemcpy(all.data() + out.memory.bytes(), logsumexp.memory.data(),
                        logsumexp.memory.bytes(), cudaMemcpyDefault));
        return all;
    }
};

inline std::vector<const Tier*> gpu_tiers() {
    std::vector<const Tier*> list;
    for (const Tier* tier : tiers_under_test())
        if (tier->device == DeviceKind::gpu) list.push_back(tier);
    return list;
}

inline Case make_case(const char* name, Sizes sizes, DType dtype, MaskKind mask = MaskKind::none,
                      Causal causal = Causal::none) {
    Case c;
    c.name = name;
    c.sizes = sizes;
    c.dtype = dtype;
    c.mask.kind = mask;
    c.causal = causal;
    return c;
}

}  // namespace attn::testing
