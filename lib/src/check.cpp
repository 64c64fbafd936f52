/// \file
/// \brief All validation, once, before any tier runs. Tiers contain no checks and so cannot differ
///        in them.
#include "check.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace attn {
namespace {

std::string text(Index number) { return std::to_string(number); }

[[noreturn]] void fail(ErrorCode code, const std::string& message) { throw Error(code, message); }

// ---- one tensor ---------------------------------------------------------------------------------

/// The bytes a view covers: [begin, end) as addresses, empty when it has no elements.
struct Extent {
    std::uintptr_t begin = 0, end = 0;
    bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

/// Sizes are not negative, the number of elements and every reachable offset fit, and there is
/// memory behind them.
template <class Void>
Extent check_view(const char* name, const BasicTensorView<Void>& view) {
    if (view.rank < 0 || view.rank > max_rank)
        fail(ErrorCode::bad_shape, std::string(name) + " has " + text(view.rank) +
                                       " axes, but at most " + text(max_rank) + " are taken");
    Index count = 1, lowest = 0, highest = 0;
    bool overflow = false, empty = false;
    for (int axis = 0; axis < view.rank; ++axis) {
        if (view.shape[axis] < 0)
            fail(ErrorCode::bad_shape,
                 std::string(name) + " has shape " + shape_text(view) + ", with a negative size");
        empty |= view.shape[axis] == 0;
    }
    if (empty) return {};
    for (int axis = 0; axis < view.rank; ++axis) {
        Index reach = 0;
        overflow |= __builtin_mul_overflow(count, view.shape[axis], &count);
        if (view.shape[axis] == 1) continue;
        overflow |= __builtin_mul_overflow(view.shape[axis] - 1, view.stride[axis], &reach);
        Index& side = reach < 0 ? lowest : highest;
        overflow |= __builtin_add_overflow(side, reach, &side);
    }
    const Index element = static_cast<Index>(size_of(view.dtype));
    Index bytes = 0;
    overflow |= __builtin_mul_overflow(count, element, &bytes);
    overflow |= __builtin_mul_overflow(lowest, element, &lowest);
    overflow |= __builtin_mul_overflow(highest, element, &highest);
    std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(view.data), end = begin;
    // Unsigned: after an overflow above, the values here are wrapped and only refused below.
    overflow |= __builtin_sub_overflow(begin, 0 - static_cast<std::uintptr_t>(lowest), &begin);
    overflow |= __builtin_add_overflow(end, static_cast<std::uintptr_t>(highest), &end);
    overflow |= __builtin_add_overflow(end, static_cast<std::uintptr_t>(element), &end);
    if (view.data == nullptr)
        fail(ErrorCode::bad_shape,
             std::string(name) + " has shape " + shape_text(view) + " but no data");
    if (overflow)
        fail(ErrorCode::bad_shape, std::string(name) + " has shape " + shape_text(view) +
                                       " and strides whose offsets overflow the address space");
    if (reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(element) != 0)
        fail(ErrorCode::bad_shape,
             std::string(name) + " is not aligned to its elements of " + text(element) + " bytes");
    return {begin, end};
}

/// No two elements of a view that is written may share an address. Sufficient, not necessary: axes
/// ordered by stride must each step over all that the smaller ones span.
void check_no_self_overlap(const char* name, const MutableTensorView& view) {
    std::vector<std::pair<Index, Index>> axes;  // (|stride|, size)
    for (int axis = 0; axis < view.rank; ++axis) {
        if (view.shape[axis] == 0) return;
        if (view.shape[axis] > 1) axes.emplace_back(std::abs(view.stride[axis]), view.shape[axis]);
    }
    std::sort(axes.begin(), axes.end());
    Index spanned = 0;  // largest offset that the smaller axes reach
    for (const auto& [stride, size] : axes) {
        if (stride <= spanned)
            fail(ErrorCode::bad_shape, std::string(name) + " has shape " + shape_text(view) +
                                           " and strides with which elements of it overlap");
        spanned += stride * (size - 1);
    }
}

// ---- the shapes together ------------------------------------------------------------------------

void check_equal(const char* axis, const char* a_name, Index a, const char* b_name, Index b) {
    if (a != b)
        fail(ErrorCode::bad_shape, std::string(a_name) + " has " + axis + "=" + text(a) + " but " +
                                       b_name + " has " + axis + "=" + text(b));
}

/// Size of the axis `from_right` places from the end; 1 where the tensor has no such axis.
template <class Void>
Index axis_size(const BasicTensorView<Void>& view, int from_right) {
    return from_right <= view.rank ? view.shape[view.rank - from_right] : 1;
}

void check_shapes(const TensorView& query, const TensorView& key, const TensorView& value,
                  const MutableTensorView& out) {
    if (query.rank < 2)
        fail(ErrorCode::bad_shape,
             "query has shape " + shape_text(query) + ", but at least the axes (L, E) are needed");
    const auto check_rank = [&](const char* name, int rank) {
        if (rank != query.rank)
            fail(ErrorCode::bad_shape,
                 "query has " + text(query.rank) + " axes but " + name + " has " + text(rank));
    };
    check_rank("key", key.rank);
    check_rank("value", value.rank);
    check_rank("out", out.rank);

    for (int axis = 0; axis < query.rank - 3; ++axis) {
        const std::string name = "batch axis " + text(axis) + " size";
        check_equal(name.c_str(), "query", query.shape[axis], "key", key.shape[axis]);
        check_equal(name.c_str(), "query", query.shape[axis], "value", value.shape[axis]);
        check_equal(name.c_str(), "query", query.shape[axis], "out", out.shape[axis]);
    }
    const Index Hq = axis_size(query, 3), H = axis_size(key, 3);
    check_equal("H", "key", H, "value", axis_size(value, 3));
    check_equal("Hq", "query", Hq, "out", axis_size(out, 3));
    if (H == 0 ? Hq != 0 : Hq % H != 0)
        fail(ErrorCode::bad_shape,
             "query has Hq=" + text(Hq) + " heads, which is not a multiple of key's H=" + text(H));
    check_equal("E", "query", axis_size(query, 1), "key", axis_size(key, 1));
    check_equal("S", "key", axis_size(key, 2), "value", axis_size(value, 2));
    check_equal("L", "query", axis_size(query, 2), "out", axis_size(out, 2));
    check_equal("Ev", "value", axis_size(value, 1), "out", axis_size(out, 1));
}

void check_dtypes(const TensorView& query, const TensorView& key, const TensorView& value,
                  const MutableTensorView& out) {
    if (!all_floats.has(query.dtype))
        fail(ErrorCode::bad_dtype, std::string("query has dtype ") + name_of(query.dtype) +
                                       ", but float64, float32, float16 or bfloat16 is needed");
    const auto check = [&](const char* name, DType dtype) {
        if (dtype != query.dtype)
            fail(ErrorCode::bad_dtype, std::string("query has dtype ") + name_of(query.dtype) +
                                           " but " + name + " has " + name_of(dtype));
    };
    check("key", key.dtype);
    check("value", value.dtype);
    check("out", out.dtype);
}

/// The mask's dtype fits and its shape broadcasts to the scores'; it may never enlarge them.
void check_mask(const TensorView& mask, const TensorView& query, Index S) {
    if (mask.dtype != DType::boolean && mask.dtype != DType::float32 && mask.dtype != query.dtype)
        fail(ErrorCode::bad_dtype, std::string("mask has dtype ") + name_of(mask.dtype) +
                                       ", but bool, float32 or query's " + name_of(query.dtype) +
                                       " is needed");
    TensorView scores = query;  // (..., Hq, L, S)
    scores.shape[scores.rank - 1] = S;
    bool fits = mask.rank <= scores.rank;
    for (int from_right = 1; fits && from_right <= mask.rank; ++from_right) {
        const Index size = axis_size(mask, from_right);
        fits = size == 1 || size == axis_size(scores, from_right);
    }
    if (!fits)
        fail(ErrorCode::bad_shape, "mask has shape " + shape_text(mask) +
                                       ", which does not broadcast to the scores' " +
                                       shape_text(scores));
}

void check_logsumexp(const MutableTensorView& logsumexp, const TensorView& query) {
    const DType wanted = query.dtype == DType::float64 ? DType::float64 : DType::float32;
    if (logsumexp.dtype != wanted)
        fail(ErrorCode::bad_dtype, std::string("logsumexp has dtype ") + name_of(logsumexp.dtype) +
                                       ", but " + name_of(wanted) + " is needed for " +
                                       name_of(query.dtype) + " tensors");
    TensorView rows = query;  // (..., Hq, L)
    rows.rank -= 1;
    bool fits = logsumexp.rank == rows.rank;
    for (int axis = 0; fits && axis < rows.rank; ++axis)
        fits = logsumexp.shape[axis] == rows.shape[axis];
    if (!fits)
        fail(ErrorCode::bad_shape, "logsumexp has shape " + shape_text(logsumexp) + ", but " +
                                       shape_text(rows) + " is needed");
}

void check_options(const Options& options, const Execution& execution) {
    if (options.causal != Causal::none && options.causal != Causal::upper_left &&
        options.causal != Causal::lower_right)
        fail(ErrorCode::bad_option,
             "causal is " + text(static_cast<Index>(options.causal)) + ", which names no rule");
    if (options.scale && !std::isfinite(*options.scale))
        fail(ErrorCode::bad_option,
             "scale is " + std::to_string(*options.scale) + ", but must be finite");
    if (execution.threads < 0)
        fail(ErrorCode::bad_option,
             "threads is " + text(execution.threads) + ", but must be 0 or more");
    if (!(execution.max_relative_error >= 0))
        fail(ErrorCode::bad_option, "max_relative_error is " +
                                        std::to_string(execution.max_relative_error) +
                                        ", but must be 0 or more");
}

// ---- to rank 4 ----------------------------------------------------------------------------------

/// Stride of an axis counted from the right; 0 for an axis that the tensor lacks or repeats.
template <class Void>
Index axis_stride(const BasicTensorView<Void>& view, int from_right) {
    return axis_size(view, from_right) == 1 ? 0 : view.stride[view.rank - from_right];
}

/// The last axes of a view as a view of rank `kept`, given the sizes they are broadcast to.
template <class Void>
BasicTensorView<Void> last_axes(const BasicTensorView<Void>& view,
                                std::initializer_list<Index> sizes) {
    BasicTensorView<Void> kept = view;
    kept.rank = static_cast<int>(sizes.size());
    int axis = 0;
    for (Index size : sizes) {
        kept.stride[axis] = axis_stride(view, kept.rank - axis);
        kept.shape[axis] = size;
        ++axis;
    }
    return kept;
}

/// Folds outer axes into B, from the inside out, where in every tensor the outer stride continues
/// the inner one: then a rank-5 call is one rank-4 problem.
void fold_outer(Call& call) {
    Problem& p = call.problem;
    Index* inner[6] = {p.query.stride, p.key.stride,       p.value.stride,
                       p.out.stride,   p.logsumexp.stride, p.mask.stride};
    while (call.outer_rank > 0) {
        const int axis = call.outer_rank - 1;
        const Index size = call.outer_shape[axis];
        if (size == 0 || p.B == 0) return;
        bool continues = true;
        for (int t = 0; t < 6; ++t)
            continues &= p.B == 1 || size == 1 || call.outer_stride[t][axis] == inner[t][0] * p.B;
        if (!continues) return;
        for (int t = 0; t < 6; ++t)
            if (p.B == 1) inner[t][0] = call.outer_stride[t][axis];
        p.B *= size;
        for (BasicTensorView<const void>* view : {&p.query, &p.key, &p.value, &p.mask})
            view->shape[0] = p.B;
        p.out.shape[0] = p.logsumexp.shape[0] = p.B;
        --call.outer_rank;
    }
}

}  // namespace

bool Call::empty() const {
    bool none = problem.B == 0 || problem.Hq == 0 || problem.L == 0;
    for (int axis = 0; axis < outer_rank; ++axis) none |= outer_shape[axis] == 0;
    return none;
}

void Call::shift(Problem& p, int axis, Index steps) const {
    const auto move = [&](auto& view, int tensor) {
        if (view.data == nullptr) return;
        using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                        const std::byte, std::byte>;
        view.data = static_cast<Byte*>(view.data) +
                    steps * outer_stride[tensor][axis] * static_cast<Index>(size_of(view.dtype));
    };
    move(p.query, 0);
    move(p.key, 1);
    move(p.value, 2);
    move(p.out, 3);
    move(p.logsumexp, 4);
    move(p.mask, 5);
}

Call make_call(const TensorView& query, const TensorView& key, const TensorView& value,
               const MutableTensorView& out, const Options& options, const Execution& execution) {
    const TensorView& mask = options.mask;
    const MutableTensorView& logsumexp = execution.logsumexp;
    const bool masked = !mask.absent(), wants_logsumexp = !logsumexp.absent();

    const Extent read[] = {check_view("query", query), check_view("key", key),
                           check_view("value", value),
                           masked ? check_view("mask", mask) : Extent{}};
    const Extent written[] = {check_view("out", out),
                              wants_logsumexp ? check_view("logsumexp", logsumexp) : Extent{}};
    check_shapes(query, key, value, out);
    check_dtypes(query, key, value, out);
    check_options(options, execution);
    const Index S = axis_size(key, 2);
    if (masked) check_mask(mask, query, S);
    if (wants_logsumexp) check_logsumexp(logsumexp, query);

    const auto check_device = [&](const char* name, DeviceId device) {
        if (device != query.device)
            fail(ErrorCode::bad_device, "query is on device " + text(query.device) + " but " +
                                            name + " is on " + text(device) + " (-1 is the host)");
    };
    check_device("key", key.device);
    check_device("value", value.device);
    check_device("out", out.device);
    if (masked) check_device("mask", mask.device);
    if (wants_logsumexp) check_device("logsumexp", logsumexp.device);

    check_no_self_overlap("out", out);
    if (wants_logsumexp) check_no_self_overlap("logsumexp", logsumexp);
    const char* const read_names[] = {"query", "key", "value", "mask"};
    const char* const written_names[] = {"out", "logsumexp"};
    for (int w = 0; w < 2; ++w)
        for (int r = 0; r < 4; ++r)
            if (written[w].overlaps(read[r]))
                fail(ErrorCode::bad_shape,
                     std::string(written_names[w]) + " overlaps " + read_names[r] + " in memory");
    if (written[0].overlaps(written[1]))
        fail(ErrorCode::bad_shape, "out overlaps logsumexp in memory");

    Call call;
    Problem& p = call.problem;
    p.B = axis_size(query, 4);
    p.Hq = axis_size(query, 3);
    p.H = axis_size(key, 3);
    p.L = axis_size(query, 2);
    p.S = S;
    p.E = axis_size(query, 1);
    p.Ev = axis_size(value, 1);
    p.dtype = query.dtype;
    // With E = 0 every score is an empty sum, 0, and any finite scale leaves it so.
    p.scale = options.scale ? *options.scale
              : p.E == 0    ? 1
                            : 1 / std::sqrt(static_cast<double>(p.E));
    p.query = last_axes(query, {p.B, p.Hq, p.L, p.E});
    p.key = last_axes(key, {p.B, p.H, p.S, p.E});
    p.value = last_axes(value, {p.B, p.H, p.S, p.Ev});
    p.out = last_axes(out, {p.B, p.Hq, p.L, p.Ev});
    if (wants_logsumexp) p.logsumexp = last_axes(logsumexp, {p.B, p.Hq, p.L});
    if (masked) {
        p.mask = last_axes(mask, {p.B, p.Hq, p.L, p.S});
        p.mask_kind = mask.dtype == DType::boolean ? MaskKind::boolean : MaskKind::additive;
    }
    p.diagonal = options.causal == Causal::none         ? p.S
                 : options.causal == Causal::upper_left ? 0
                                                        : p.S - p.L;
    p.threads = execution.threads;
    p.max_relative_error = execution.max_relative_error;
    p.stream = execution.stream;
    p.device = query.device;

    call.outer_rank = std::max(0, query.rank - 4);
    for (int axis = 0; axis < call.outer_rank; ++axis) {
        const int from_right = query.rank - axis;
        call.outer_shape[axis] = query.shape[axis];
        call.outer_stride[0][axis] = axis_stride(query, from_right);
        call.outer_stride[1][axis] = axis_stride(key, from_right);
        call.outer_stride[2][axis] = axis_stride(value, from_right);
        call.outer_stride[3][axis] = axis_stride(out, from_right);
        call.outer_stride[4][axis] = wants_logsumexp ? axis_stride(logsumexp, from_right - 1) : 0;
        call.outer_stride[5][axis] = masked ? axis_stride(mask, from_right) : 0;
    }
    fold_outer(call);
    return call;
}

Check check_tier(const Tier& tier, const Problem& problem) {
    const std::string name = tier.name;
    const auto refuse = [](ErrorCode code, const std::string& why) { return Check{code, why}; };
    if (const Availability here = tier.available(); !here.ok)
        return refuse(ErrorCode::unavailable, name + " cannot run here: " + here.reason);
    const Limits& limits = tier.limits;
    if (!limits.dtypes.has(problem.dtype))
        return refuse(ErrorCode::unsupported, name + " does not take " + name_of(problem.dtype));
    const Index head_dim = std::max(problem.E, problem.Ev);
    if (limits.max_head_dim > 0 && head_dim > limits.max_head_dim)
        return refuse(ErrorCode::unsupported, name + " takes head_dim up to " +
                                                  text(limits.max_head_dim) + ", got " +
                                                  text(head_dim));
    if (problem.mask_kind == MaskKind::boolean && !limits.boolean_mask)
        return refuse(ErrorCode::unsupported, name + " does not take a boolean mask");
    if (problem.mask_kind == MaskKind::additive && !limits.additive_mask)
        return refuse(ErrorCode::unsupported, name + " does not take an additive mask");
    if (problem.diagonal != problem.S && !limits.causal)
        return refuse(ErrorCode::unsupported, name + " does not take a causal rule");
    if (problem.Hq != problem.H && !limits.grouped_heads)
        return refuse(ErrorCode::unsupported, name + " does not take grouped heads, got Hq=" +
                                                  text(problem.Hq) + " and H=" + text(problem.H));
    if (!problem.logsumexp.absent() && !limits.logsumexp)
        return refuse(ErrorCode::unsupported, name + " does not return logsumexp");
    if (problem.max_relative_error > 0 && tier.accuracy.quantized && limits.error_limit == 0)
        return refuse(ErrorCode::unsupported, name + " does not take max_relative_error");
    if (tier.device == DeviceKind::cpu && problem.device != host)
        return refuse(
            ErrorCode::bad_device,
            name + " is a CPU tier but the tensors are on CUDA device " + text(problem.device));
    return {};
}

}  // namespace attn
