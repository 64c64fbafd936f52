/// \file
/// \brief Runs a tier on a problem as every test does: outputs and scratch poisoned before, inputs
///        and everything around the outputs looked at after.
#pragma once

#include "cases.hpp"

#include <attn/judge.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <set>
#include <utility>

namespace attn::testing {

inline constexpr double inf = std::numeric_limits<double>::infinity();
inline constexpr double NaN = std::numeric_limits<double>::quiet_NaN();

inline std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

/// \brief The available tiers, or only the one that ATTN_TIER names. One that cannot run here is
///        reported, and is a failure if ATTN_REQUIRE_GPU=1.
inline std::vector<const Tier*> tiers_under_test() {
    const std::string wanted = environment("ATTN_TIER");
    if (!wanted.empty() && !find_tier(wanted)) FAIL("ATTN_TIER names no tier: " << wanted);
    std::vector<const Tier*> list;
    for (const Tier* tier : tiers()) {
        if (!wanted.empty() && wanted != tier->name) continue;
        const Availability can = tier->available();
        if (can.ok) {
            list.push_back(tier);
            continue;
        }
        const std::string why = std::string(tier->name) + ": " + can.reason;
        static std::set<std::string> told;  // every subcase comes here again: say it once
        if (tier->device == DeviceKind::gpu && environment("ATTN_REQUIRE_GPU") == "1")
            FAIL_CHECK("cannot run " << why);
        else if (told.insert(why).second)
            std::printf(wanted.empty() ? "not run: %s\n" : "ATTN-SKIP: %s\n", why.c_str());
    }
    return list;
}

/// \brief Name of a subcase: "online: plain". `-sc="online:*"` takes one tier's.
inline std::string subcase(const Tier* tier, const std::string& what) {
    return std::string(tier->name) + ": " + what;
}

/// \brief Whether a tier's limits allow these inputs. Read from the data, not asked of `check`, so
///        that a wrong refusal is a failure.
inline bool takes(const Tier& tier, const TensorView& query, const TensorView& key,
                  const TensorView& value, const Options& options = {}) {
    const Limits& can = tier.limits;
    const auto last = [](const TensorView& t) { return t.shape[t.rank - 1]; };
    const bool additive = !options.mask.absent() && options.mask.dtype != DType::boolean;
    const bool boolean = !options.mask.absent() && options.mask.dtype == DType::boolean;
    const bool grouped = query.rank > 2 && query.shape[query.rank - 3] != key.shape[key.rank - 3];
    return can.dtypes.has(query.dtype) && (can.additive_mask || !additive) &&
           (can.boolean_mask || !boolean) && (can.causal || options.causal == Causal::none) &&
           (can.grouped_heads || !grouped) &&
           (can.max_head_dim == 0 || std::max(last(query), last(value)) <= can.max_head_dim);
}
inline bool takes(const Tier& tier, const Inputs& in) {
    return takes(tier, in.query.view, in.key.view, in.value.view, in.options);
}

/// \brief What a run wrote.
struct Output {
    Laid out;        ///< (B, Hq, L, Ev)
    Laid logsumexp;  ///< (B, Hq, L)
};

/// \brief How a test wants a tier to be run.
struct Setting {
    Layout layout = Layout::contiguous;  ///< of the outputs
    int threads = 0;
    unsigned char poison = 0xff;  ///< fills outputs and scratch before
    bool own_scratch = true;      ///< false: the library finds its own
};

/// True if all bytes of `memory` outside of the elements of `view` still are `poison`.
inline bool margins_untouched(const Laid& laid, unsigned char poison) {
    const Index bytes = static_cast<Index>(size_of(laid.view.dtype));
    const unsigned char* memory = static_cast<const unsigned char*>(laid.memory.data());
    std::vector<unsigned char> rest(memory, memory + laid.memory.bytes());
    const Index start = static_cast<const unsigned char*>(laid.view.data) - memory;
    each_offset(laid.view, [&](Index offset) {
        std::memset(rest.data() + start + offset * bytes, poison, static_cast<std::size_t>(bytes));
    });
    return std::all_of(rest.begin(), rest.end(), [&](unsigned char b) { return b == poison; });
}

/// \brief Runs a tier on rank-4 tensors.
inline Output run(const Tier& tier, const TensorView& query, const TensorView& key,
                  const TensorView& value, const Options& options = {},
                  const Setting& setting = {}) {
    const DType lse_dtype = query.dtype == DType::float64 ? DType::float64 : DType::float32;
    const Layout layout = setting.layout == Layout::expanded ? Layout::odd : setting.layout;
    const Index* q = query.shape;
    Output to{lay_out({q[0], q[1], q[2], value.shape[3]}, query.dtype, layout),
              lay_out({q[0], q[1], q[2], 1}, lse_dtype, layout)};
    to.logsumexp.view.rank = 3;
    std::memset(to.out.memory.data(), setting.poison, to.out.memory.bytes());
    std::memset(to.logsumexp.memory.data(), setting.poison, to.logsumexp.memory.bytes());

    Execution execution;
    execution.tier = tier.name;
    execution.threads = setting.threads;
    if (tier.limits.logsumexp) execution.logsumexp = to.logsumexp.view;
    Tensor scratch;
    std::size_t bytes = 0;
    if (tier.device == DeviceKind::cpu && setting.own_scratch) {
        bytes = scratch_bytes(query, key, value, to.out.view, options, execution);
        scratch = Tensor({static_cast<Index>(bytes) + margin}, DType::boolean);
        std::memset(scratch.data(), setting.poison, scratch.bytes());
        execution.scratch = {static_cast<std::byte*>(scratch.data()), bytes};
    }
    scaled_dot_product_attention(query, key, value, to.out.view, options, execution);

    CHECK_MESSAGE(margins_untouched(to.out, setting.poison), std::string(tier.name)
                                                                 << " wrote around out");
    CHECK_MESSAGE(margins_untouched(to.logsumexp, setting.poison),
                  std::string(tier.name) << " wrote around logsumexp");
    const unsigned char* end = static_cast<const unsigned char*>(scratch.data()) + bytes;
    for (Index i = 0; i < (scratch.rank() ? margin : 0); ++i)
        CHECK_MESSAGE(end[i] == setting.poison, std::string(tier.name)
                                                    << " wrote past its scratch");
    return to;
}

/// \brief Runs a tier on a case's inputs, which must be the same afterwards.
inline Output run(const Tier& tier, const Inputs& in, Setting setting = {}) {
    const auto copy = [](const Laid& laid) {
        const char* memory = static_cast<const char*>(laid.memory.data());
        return std::vector<char>(memory, memory + (memory ? laid.memory.bytes() : 0));
    };
    const auto query = copy(in.query), key = copy(in.key), value = copy(in.value);
    const auto mask = copy(in.mask);
    Output to = run(tier, in.query.view, in.key.view, in.value.view, in.options, setting);
    CHECK_MESSAGE((copy(in.query) == query && copy(in.key) == key && copy(in.value) == value &&
                   copy(in.mask) == mask),
                  std::string(tier.name) << " changed its inputs");
    return to;
}

/// \brief Lets a reference of row i alone be judged by the steps of the whole problem: the steps of
///        quantized keys and values follow from all of them, also from those that row i does not
///        see.
inline void take_rounding(Reference& row, const Reference& whole, Index i) {
    if (!whole.rounding.valid()) return;
    row.rounding = std::async(std::launch::deferred, [whole, i] {
                       const QuantizedRounding& all = whole.rounding.get();
                       QuantizedRounding one;
                       for (Index h = 0; h < whole.N * whole.Hq && !all.score.empty(); ++h) {
                           const Index at = h * whole.L + i;
                           one.logsumexp.push_back(all.logsumexp[at]);
                           const auto begin = at * whole.Ev, end = begin + whole.Ev;
                           for (Index c = begin; c < end; ++c) {
                               one.score.push_back(all.score[c]);
                               one.value.push_back(all.value[c]);
                           }
                       }
                       return one;
                   }).share();
}

/// \brief Half a step of the largest of all values; 0 where values are not quantized.
inline double half_value_step(const Tier& tier, const Tensor& value) {
    double largest = 0;
    for (Index i = 0; tier.accuracy.quantized_values && i < value.size(); ++i)
        largest = std::max(largest, std::abs(value.get(i)));
    // Off the values' own grid, the rounding of the output comes on top.
    return largest / 254 +
           (largest > 0 ? static_cast<double>(half_ulp(largest, value.dtype())) : 0);
}

/// \brief Out and logsumexp are within their bounds.
inline void expect_right(const Tier& tier, const Output& got, const Reference& want) {
    const Allowance allowance(tier, want.dtype);
    const Verdict out = judge(got.out.view, want, allowance);
    CHECK_MESSAGE(out.ok(), std::string(tier.name) << " out: " << text_of(out));
    if (!tier.limits.logsumexp) return;
    const Verdict lse = judge_logsumexp(got.logsumexp.view, want, allowance);
    CHECK_MESSAGE(lse.ok(), std::string(tier.name) << " logsumexp: " << text_of(lse));
}

/// \brief The elements of a view, widened, row-major.
inline std::vector<double> values(const TensorView& view) {
    const Tensor wide = widened(view);
    const double* data = static_cast<const double*>(wide.data());
    return std::vector<double>(data, data + wide.size());
}

/// \brief First row-major index at which two views of one shape differ in a bit; -1 if none.
///        Any two NaN are equal.
inline Index first_difference(const TensorView& a, const TensorView& b) {
    const std::vector<double> x = values(a), y = values(b);
    if (x.size() != y.size()) return 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (std::isnan(x[i]) && std::isnan(y[i])) continue;
        if (std::memcmp(&x[i], &y[i], sizeof(double)) != 0) return static_cast<Index>(i);
    }
    return -1;
}

/// \brief Out and logsumexp of two runs are equal bit for bit.
inline void expect_same_bits(const Tier& tier, const Output& a, const Output& b) {
    CHECK_MESSAGE(first_difference(a.out.view, b.out.view) == -1, std::string(tier.name)
                                                                      << ": out differs");
    if (tier.limits.logsumexp)
        CHECK_MESSAGE(first_difference(a.logsumexp.view, b.logsumexp.view) == -1,
                      std::string(tier.name) << ": logsumexp differs");
}

/// \brief Elements begin .. end - 1 of an axis.
template <class View>
View slice(View view, int axis, Index begin, Index end) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                    const char, char>;
    view.data = static_cast<Byte*>(view.data) +
                begin * view.stride[axis] * static_cast<Index>(size_of(view.dtype));
    view.shape[axis] = end - begin;
    return view;
}

}  // namespace attn::testing
