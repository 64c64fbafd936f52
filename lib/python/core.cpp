/// \file
/// \brief The extension module `attention_ladder._core`: the library's functions, arrays by DLPack.
///        What a Python user sees is made of these in the package's Python files.
#include "arrays.hpp"

#include <attn/attn.hpp>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace attn::python {
namespace {

using namespace nb::literals;

/// One call's tensors and settings, imported and held alive.
struct Arguments {
    Input query, key, value, mask;
    Output out, logsumexp;
    std::string tier;
    Options options;
    Execution execution;

    Arguments(nb::handle query_, nb::handle key_, nb::handle value_, nb::handle out_,
              nb::handle mask_, nb::handle logsumexp_, int causal, std::optional<double> scale,
              std::string tier_, std::uintptr_t stream, int threads, bool bfloat16_bits,
              double max_relative_error)
        : tier(std::move(tier_)) {
        const Bits16 bits16 = bfloat16_bits ? Bits16::bfloat16 : Bits16::refused;
        query = import_input(query_, "query", bits16);
        key = import_input(key_, "key", bits16);
        value = import_input(value_, "value", bits16);
        mask = import_input(mask_, "mask", bits16);
        out = import_output(out_, "out", bits16);
        logsumexp = import_output(logsumexp_, "logsumexp", bits16);
        options.mask = mask.view;
        options.causal = static_cast<Causal>(causal);
        options.scale = scale;
        execution.tier = tier;
        execution.stream = reinterpret_cast<void*>(stream);
        execution.threads = threads;
        execution.max_relative_error = max_relative_error;
        execution.logsumexp = logsumexp.view;
    }
    Arguments(const Arguments&) = delete;
    Arguments& operator=(const Arguments&) = delete;

    /// Calls `f` with the views, with Python's lock given back meanwhile.
    template <class F>
    auto unlocked(F&& f) const {
        nb::gil_scoped_release release;
        return f(query.view, key.view, value.view, out.view, options, execution);
    }
};

/// Binds `f(arguments)` as a function of the one list of parameters that all entry points share.
template <class F>
void def_call(nb::module_& m, const char* name, F f, const char* doc) {
    m.def(
        name,
        [f](nb::handle query, nb::handle key, nb::handle value, nb::handle out, nb::handle mask,
            nb::handle logsumexp, int causal, std::optional<double> scale, std::string tier,
            std::uintptr_t stream, int threads, bool bfloat16_bits, double max_relative_error) {
            const Arguments arguments(query, key, value, out, mask, logsumexp, causal, scale,
                                      std::move(tier), stream, threads, bfloat16_bits,
                                      max_relative_error);
            return f(arguments);
        },
        "query"_a, "key"_a, "value"_a, "out"_a, "mask"_a.none(), "logsumexp"_a.none(), "causal"_a,
        "scale"_a.none(), "tier"_a, "stream"_a, "threads"_a, "bfloat16_bits"_a,
        "max_relative_error"_a, doc);
}

nb::list tier_table() {
    nb::list table;
    for (const Tier* tier : tiers()) {
        nb::list dtypes;
        for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16})
            if (tier->limits.dtypes.has(dtype)) dtypes.append(name_of(dtype));
        const Availability here = tier->available();
        nb::dict row;
        row["name"] = tier->name;
        row["builds_on"] = tier->builds_on;
        row["idea"] = tier->idea;
        row["device"] = tier->device == DeviceKind::cpu ? "cpu" : "gpu";
        row["parallel"] = tier->parallel;
        row["available"] = here.ok;
        row["reason"] = here.reason;
        row["dtypes"] = nb::tuple(dtypes);
        row["boolean_mask"] = tier->limits.boolean_mask;
        row["additive_mask"] = tier->limits.additive_mask;
        row["causal"] = tier->limits.causal;
        row["grouped_heads"] = tier->limits.grouped_heads;
        row["logsumexp"] = tier->limits.logsumexp;
        row["max_head_dim"] = tier->limits.max_head_dim;
        row["requires"] = tier->limits.requires_;
        row["weight_error"] = tier->accuracy.weight_error;
        row["weight_error_f16"] = tier->accuracy.weight_error_f16;
        row["weight_error_bf16"] = tier->accuracy.weight_error_bf16;
        row["quantized"] = tier->accuracy.quantized;
        table.append(row);
    }
    return table;
}

/// A library tensor as a numpy array that owns it. float32 or float64, which numpy knows.
nb::object to_numpy(Tensor&& tensor) {
    auto owned = std::make_unique<Tensor>(std::move(tensor));
    Tensor& t = *owned;
    std::vector<std::size_t> shape(t.shape().begin(), t.shape().end());
    nb::capsule owner(owned.release(), [](void* p) noexcept { delete static_cast<Tensor*>(p); });
    const nb::dlpack::dtype dtype =
        t.dtype() == DType::float64 ? nb::dtype<double>() : nb::dtype<float>();
    return nb::cast(
        nb::ndarray<nb::numpy>(t.data(), shape.size(), shape.data(), owner, nullptr, dtype));
}

nb::tuple generate_arrays(const std::string& generator, Index B, Index Hq, Index H, Index L,
                          Index S, Index E, Index Ev, std::uint64_t seed) {
    Qkv inputs = generate(generator, Sizes{B, Hq, H, L, S, E, Ev}, seed);
    return nb::make_tuple(to_numpy(std::move(inputs.query)), to_numpy(std::move(inputs.key)),
                          to_numpy(std::move(inputs.value)));
}

}  // namespace
}  // namespace attn::python

NB_MODULE(_core, m) {
    using namespace attn;
    using namespace attn::python;
    m.doc() = "The C++ library behind attention_ladder.";

    // A C++ Error becomes the class that attention_ladder._errors keeps under the code's name.
    nb::register_exception_translator(
        [](const std::exception_ptr& thrown, void*) {
            try {
                std::rethrow_exception(thrown);
            } catch (const Error& error) {
                const nb::object classes =
                    nb::module_::import_("attention_ladder._errors").attr("by_code");
                const nb::object type = classes[name_of(error.code())];
                PyErr_SetString(type.ptr(), error.what());
            }
        },
        nullptr);

    def_call(
        m, "run",
        [](const Arguments& a) {
            a.unlocked([](auto&&... all) { scaled_dot_product_attention(all...); });
        },
        "Computes into `out`, and into `logsumexp` when that is given.");

    def_call(
        m, "scratch_bytes",
        [](const Arguments& a) {
            return a.unlocked([](auto&&... all) { return scratch_bytes(all...); });
        },
        "Working memory in bytes that `run` would use besides its tensors.");

    def_call(
        m, "explain",
        [](const Arguments& a) {
            const Explanation explanation =
                a.unlocked([](auto&&... all) { return explain(all...); });
            nb::list candidates;
            for (const Candidate& c : explanation.candidates)
                candidates.append(
                    nb::make_tuple(c.tier, c.able, c.reason, c.estimated_seconds, c.scratch_bytes));
            return nb::make_tuple(explanation.tier, candidates);
        },
        "(tier, [(tier, able, reason, estimated seconds, scratch bytes), ...])");

    m.def("tiers", &tier_table, "One dictionary for each tier, simplest first.");
    m.def("generate", &generate_arrays, "generator"_a, "B"_a, "Hq"_a, "H"_a, "L"_a, "S"_a, "E"_a,
          "Ev"_a, "seed"_a, "(query, key, value) as float32 numpy arrays.");
    m.def(
        "generators",
        [] {
            nb::list list;
            for (const Generator& g : generators()) list.append(nb::make_tuple(g.name, g.about));
            return list;
        },
        "(name, about) of every input generator.");
}
