/// \file
/// \brief The entry points: check, choose, find working memory, run.
#include <attn/attention.hpp>

#include "check.hpp"
#include "choose.hpp"

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>

namespace attn {
namespace {

constexpr std::align_val_t cpu_alignment{64};  // one AVX-512 register, one cache line
constexpr std::size_t gpu_alignment = 256;     // what cudaMalloc promises

/// A validated call with its tier.
struct Plan {
    Call call;
    const Tier* tier;
    std::size_t scratch;  // bytes
};

Plan make_plan(const TensorView& query, const TensorView& key, const TensorView& value,
               const MutableTensorView& out, const Options& options, const Execution& execution) {
    Plan plan{make_call(query, key, value, out, options, execution), nullptr, 0};
    plan.tier = &choose(plan.call.problem, execution.tier, execution.scratch.size());
    plan.scratch = plan.call.empty() ? 0 : plan.tier->scratch_bytes(plan.call.problem);
    if (execution.scratch.empty()) return plan;
    if (execution.scratch.size() < plan.scratch)
        throw Error(ErrorCode::bad_option,
                    "scratch has " + std::to_string(execution.scratch.size()) + " bytes but " +
                        plan.tier->name + " needs " + std::to_string(plan.scratch));
    const std::size_t alignment = plan.tier->device == DeviceKind::gpu
                                      ? gpu_alignment
                                      : static_cast<std::size_t>(cpu_alignment);
    if (reinterpret_cast<std::uintptr_t>(execution.scratch.data()) % alignment != 0)
        throw Error(ErrorCode::bad_option,
                    "scratch is not aligned to " + std::to_string(alignment) + " bytes");
    return plan;
}

/// Host memory for a CPU tier, freed at the end of the call.
class HostScratch {
  public:
    explicit HostScratch(std::size_t bytes) : bytes_(bytes) {
        if (bytes == 0) return;
        // Rounding a size near SIZE_MAX up to the alignment would wrap around to nothing.
        if (bytes <= PTRDIFF_MAX) memory_ = ::operator new(bytes, cpu_alignment, std::nothrow);
        if (memory_ == nullptr)
            throw Error(ErrorCode::no_memory,
                        "no memory for " + std::to_string(bytes) + " bytes of scratch");
    }
    HostScratch(const HostScratch&) = delete;
    HostScratch& operator=(const HostScratch&) = delete;
    ~HostScratch() { ::operator delete(memory_, cpu_alignment); }
    std::span<std::byte> span() const { return {static_cast<std::byte*>(memory_), bytes_}; }

  private:
    void* memory_ = nullptr;
    std::size_t bytes_;
};

}  // namespace

void scaled_dot_product_attention(const TensorView& query, const TensorView& key,
                                  const TensorView& value, const MutableTensorView& out,
                                  const Options& options, const Execution& execution) {
    const Plan plan = make_plan(query, key, value, out, options, execution);
    if (plan.call.empty()) return;
    // A GPU tier takes its own from a stream-ordered pool: only it knows the device and the stream.
    const bool allocate = execution.scratch.empty() && plan.tier->device == DeviceKind::cpu;
    const HostScratch own(allocate ? plan.scratch : 0);
    const std::span<std::byte> scratch =
        allocate ? own.span()
                 : execution.scratch.first(execution.scratch.empty() ? 0 : plan.scratch);
    plan.call.for_each([&](Problem& problem) {
        problem.scratch = scratch;
        plan.tier->run(problem);
    });
}

Tensor scaled_dot_product_attention(const TensorView& query, const TensorView& key,
                                    const TensorView& value, const Options& options,
                                    const Execution& execution) {
    if (query.device != host)
        throw Error(ErrorCode::bad_device,
                    "query is on device " + std::to_string(query.device) +
                        ", but the form that returns a tensor takes host tensors");
    const bool shaped = query.rank >= 2 && query.rank <= max_rank && value.rank == query.rank;
    std::vector<Index> shape(query.shape, query.shape + (shaped ? query.rank : 0));
    if (shaped) shape.back() = value.shape[value.rank - 1];
    // Ill-formed inputs get an empty `out`; the check below names what is wrong with them first.
    const bool sane = all_floats.has(query.dtype) &&
                      std::all_of(shape.begin(), shape.end(), [](Index size) { return size >= 0; });
    Tensor out = sane && shaped ? Tensor(shape, query.dtype) : Tensor();
    scaled_dot_product_attention(query, key, value, out, options, execution);
    return out;
}

Check check(const TensorView& query, const TensorView& key, const TensorView& value,
            const MutableTensorView& out, const Options& options,
            const Execution& execution) noexcept {
    try {
        make_plan(query, key, value, out, options, execution);
        return {};
    } catch (const Error& error) {
        Check check;
        check.error = error.code();
        try {
            check.message = error.what();
        } catch (...) {  // no memory for the sentence; the code still stands
        }
        return check;
    } catch (...) {
        return {ErrorCode::no_memory, {}};
    }
}

std::size_t scratch_bytes(const TensorView& query, const TensorView& key, const TensorView& value,
                          const MutableTensorView& out, const Options& options,
                          const Execution& execution) {
    Execution without = execution;
    without.scratch = {};
    return make_plan(query, key, value, out, options, without).scratch;
}

Explanation explain(const TensorView& query, const TensorView& key, const TensorView& value,
                    const MutableTensorView& out, const Options& options,
                    const Execution& execution) {
    return explain_choice(make_call(query, key, value, out, options, execution).problem,
                          execution.tier, execution.scratch.size());
}

}  // namespace attn
