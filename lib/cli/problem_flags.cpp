#include "problem_flags.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "npy.hpp"
#include "safetensors.hpp"
#include "text.hpp"

namespace attn::cli {
namespace {

const char* const causal_names[] = {"none", "upper-left", "lower-right"};  // in the order of Causal
constexpr DType dtypes[] = {DType::float64, DType::float32, DType::float16, DType::bfloat16};

/// \brief "a, b, c": what a flag takes.
template <class List, class Name>
std::string listed(const List& list, Name name) {
    std::string text;
    for (const auto& item : list) text += (text.empty() ? "" : ", ") + std::string(name(item));
    return text;
}

[[noreturn]] void bad_option(const std::string& sentence) {
    throw Error(ErrorCode::bad_option, sentence);
}

Causal causal_of(const std::string& text) {
    for (int i = 0; i < 3; ++i)
        if (text == causal_names[i]) return static_cast<Causal>(i);
    bad_option(fmt::format("--causal is '{}', but must be none, upper-left or lower-right", text));
}

DType dtype_named(const std::string& text) {
    for (DType dtype : dtypes)
        if (text == name_of(dtype)) return dtype;
    bad_option(fmt::format("--dtype is '{}', but must be one of {}", text,
                           listed(dtypes, [](DType dtype) { return name_of(dtype); })));
}

/// \brief "4,8,64,64" as four numbers.
std::array<Index, 4> four_sizes(const std::string& text) {
    std::array<Index, 4> sizes{};
    const char* at = text.data();
    const char* const end = at + text.size();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const auto [stop, error] = std::from_chars(at, end, sizes[i]);
        const bool last = i + 1 == sizes.size();
        if (error != std::errc() || (last ? stop != end : stop == end || *stop != ','))
            bad_option(fmt::format("--shape is '{}', but must be four sizes B,H,L,E", text));
        at = stop + 1;
    }
    return sizes;
}

}  // namespace

Options Inputs::options() const {
    Options options;
    if (mask) options.mask = *mask;
    options.causal = causal;
    options.scale = scale;
    return options;
}

Tensor Inputs::make_out() const {
    if (query.rank() < 2 || value.rank() != query.rank()) return Tensor({0, 0}, query.dtype());
    std::vector<Index> shape(query.shape().begin(), query.shape().end());
    shape.back() = value.shape().back();
    return Tensor(shape, query.dtype());
}

double Inputs::bytes() const {
    double bytes = 0;
    for (const Tensor* tensor : {&query, &key, &value})
        bytes += static_cast<double>(tensor->bytes());
    if (mask) bytes += static_cast<double>(mask->bytes());
    if (query.rank() >= 2 && query.shape().back() > 0 && value.rank() >= 2)  // out
        bytes += static_cast<double>(query.bytes()) / static_cast<double>(query.shape().back()) *
                 static_cast<double>(value.shape().back());
    return bytes;
}

void ProblemFlags::add_to(CLI::App& app, Source source) {
    if (source != Source::shape) add_files(app);
    if (source != Source::files) add_shape(app, source == Source::shape);
    if (source != Source::shape) add_options(app);
}

void ProblemFlags::add_files(CLI::App& app) {
    const char* const group = "Problem from files (.npy, .safetensors or file.safetensors:tensor)";
    app.add_option("--query", query_, "(..., Hq, L, E)")->group(group)->type_name("FILE");
    app.add_option("--key", key_, "(..., H, S, E)")->group(group)->type_name("FILE");
    app.add_option("--value", value_, "(..., H, S, Ev)")->group(group)->type_name("FILE");
    app.add_option("--qkv", qkv_, "One .safetensors file with query, key, value and maybe mask")
        ->group(group)
        ->type_name("FILE");
    app.add_option("--mask", mask_,
                   "bool (true = attend) or additive; broadcast to (..., Hq, L, S)")
        ->group(group)
        ->type_name("FILE");
}

void ProblemFlags::add_shape(CLI::App& app, bool required) {
    const char* const group = "Problem drawn at random";
    app.add_option("--shape", shape_, "Sizes of query; key and value follow it")
        ->group(group)
        ->type_name("B,H,L,E")
        ->required(required);
    app.add_option("--keys", keys_, "S; default: L")->group(group)->type_name("S");
    app.add_option("--key-heads", key_heads_, "H of key and value; default: as query")
        ->group(group)
        ->type_name("H");
    app.add_option("--value-dim", value_dim_, "Ev; default: E")->group(group)->type_name("Ev");
    app.add_option(
           "--dtype", dtype_,
           listed(dtypes, [](DType dtype) { return name_of(dtype); }) + "; default: float32")
        ->group(group)
        ->type_name("NAME");
    app.add_option(
           "--generator", generator_,
           listed(generators(), [](const Generator& g) { return g.name; }) + "; default: gauss")
        ->group(group)
        ->type_name("NAME");
    app.add_option("--seed", seed_, "Same seed, same numbers; default: 0")
        ->check(CLI::Validator(CLI::NonNegativeNumber).description(""))  // else -1 would wrap
        ->group(group)
        ->type_name("N");
}

void ProblemFlags::add_options(CLI::App& app) {
    app.add_option("--causal", causal_, "none, upper-left (PyTorch's is_causal) or lower-right")
        ->type_name("RULE");
    app.add_option("--scale", scale_, "Multiplies the scores; default: 1/sqrt(E)")->type_name("X");
}

std::vector<std::string> ProblemFlags::files() const {
    std::vector<std::string> named;
    for (const std::string& path : {query_, key_, value_, qkv_, mask_})
        if (!path.empty()) named.push_back(path);
    return named;
}

Inputs ProblemFlags::inputs(Values values) const {
    const bool drawn = !shape_.empty();
    const bool has_tensors = !query_.empty() || !key_.empty() || !value_.empty() || !qkv_.empty();
    if (drawn && has_tensors)
        bad_option("--shape draws the tensors that other flags take from files");
    if (!drawn && (keys_ || key_heads_ || value_dim_))
        bad_option(
            "--keys, --key-heads and --value-dim change what --shape says, which is not given");
    if (!drawn && (dtype_ || generator_ || seed_))
        bad_option("--dtype, --generator and --seed say how --shape draws, which is not given");
    Inputs inputs = drawn ? draw(values) : load();
    if (!mask_.empty()) {
        if (inputs.mask)
            bad_option(fmt::format("--mask is given, but {} holds a mask as well", qkv_));
        inputs.mask = read_tensor(mask_, "mask");
        inputs.origin += ", " + mask_;
    }
    inputs.causal = causal_of(causal_);
    inputs.scale = scale_;
    return inputs;
}

Inputs ProblemFlags::load() const {
    Inputs inputs;
    if (!qkv_.empty()) {
        if (!query_.empty() || !key_.empty() || !value_.empty())
            bad_option("--qkv already names the tensors that --query, --key and --value would");
        const SafetensorsFile file(qkv_);
        inputs.query = file.read("query");
        inputs.key = file.read("key");
        inputs.value = file.read("value");
        if (file.has("mask")) inputs.mask = file.read("mask");
        inputs.origin = qkv_;
        return inputs;
    }
    for (const auto& [flag, path] :
         {std::pair{"--query", &query_}, {"--key", &key_}, {"--value", &value_}})
        if (path->empty())
            bad_option(
                fmt::format("{} is missing: name the files of query, key and value, or one "
                            ".safetensors file with --qkv",
                            flag));
    inputs.query = read_tensor(query_, "query");
    inputs.key = read_tensor(key_, "key");
    inputs.value = read_tensor(value_, "value");
    inputs.origin = fmt::format("{}, {}, {}", query_, key_, value_);
    return inputs;
}

Inputs ProblemFlags::draw(Values values) const {
    Sizes sizes;
    const std::array<Index, 4> shape = four_sizes(shape_);
    sizes.B = shape[0];
    sizes.Hq = shape[1];
    sizes.L = shape[2];
    sizes.E = shape[3];
    sizes.H = key_heads_.value_or(sizes.Hq);
    sizes.S = keys_.value_or(sizes.L);
    sizes.Ev = value_dim_.value_or(sizes.E);
    for (const auto& [name, size] : {std::pair{"B", sizes.B},
                                     {"Hq", sizes.Hq},
                                     {"H", sizes.H},
                                     {"L", sizes.L},
                                     {"S", sizes.S},
                                     {"E", sizes.E},
                                     {"Ev", sizes.Ev}})
        if (size < 0) bad_option(fmt::format("{}={} is negative", name, size));
    // The numbers are drawn in float32 and then rounded.
    const double B = static_cast<double>(sizes.B);
    const double elements = B * static_cast<double>(sizes.Hq) * static_cast<double>(sizes.L) *
                                static_cast<double>(sizes.E + sizes.Ev) +
                            B * static_cast<double>(sizes.H) * static_cast<double>(sizes.S) *
                                static_cast<double>(sizes.E + sizes.Ev);
    const DType dtype = dtype_named(dtype_.value_or("float32"));
    check_memory(elements * static_cast<double>(std::max<std::size_t>(4, size_of(dtype))),
                 "these tensors");

    const std::string generator = generator_.value_or("gauss");
    const std::uint64_t seed = seed_.value_or(0);
    // A generator that there is not is refused before any work, and where nothing is drawn as well.
    Inputs inputs;
    Qkv drawn = generate(generator, values == Values::needed ? sizes : Sizes{}, seed, dtype);
    if (values == Values::ignored) {
        drawn.query = Tensor({sizes.B, sizes.Hq, sizes.L, sizes.E}, dtype);
        drawn.key = Tensor({sizes.B, sizes.H, sizes.S, sizes.E}, dtype);
        drawn.value = Tensor({sizes.B, sizes.H, sizes.S, sizes.Ev}, dtype);
    }
    inputs.query = std::move(drawn.query);
    inputs.key = std::move(drawn.key);
    inputs.value = std::move(drawn.value);
    inputs.origin = fmt::format("{}, seed {}", generator, seed);
    return inputs;
}

Tensor read_tensor(const std::string& path, const std::string& name) {
    constexpr std::string_view extension = ".safetensors";
    if (const std::size_t colon = path.rfind(".safetensors:"); colon != std::string::npos)
        return SafetensorsFile(path.substr(0, colon + extension.size()))
            .read(path.substr(colon + extension.size() + 1));
    if (path.ends_with(extension)) return SafetensorsFile(path).read(name);
    if (path.ends_with(".npy")) return read_npy(path);
    throw file_error(path, "its name ends neither in .npy nor in .safetensors");
}

void check_memory(double bytes, const std::string& what) {
    const double machine = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
                           static_cast<double>(::sysconf(_SC_PAGESIZE));
    if (!(bytes <= machine))
        throw Error(ErrorCode::no_memory,
                    fmt::format("{} would take {}, but this machine has {}", what,
                                bytes_text(bytes), bytes_text(machine)));
}

void check_tier_name(const std::string& name) {
    if (name != "auto" && find_tier(name) == nullptr)
        bad_option(fmt::format("there is no tier '{}'; there are auto, {}", name,
                               listed(tiers(), [](const Tier* tier) { return tier->name; })));
}

double flops(const Inputs& inputs) {
    const auto query = inputs.query.shape(), value = inputs.value.shape();
    const std::size_t rank = query.size();
    Problem problem;
    problem.L = query[rank - 2];
    problem.E = query[rank - 1];
    problem.S = value[rank - 2];
    problem.Ev = value[rank - 1];
    problem.B = 1;  // all axes before L
    for (std::size_t axis = 0; axis + 2 < rank; ++axis) problem.B *= query[axis];
    problem.diagonal = inputs.causal == Causal::none         ? problem.S
                       : inputs.causal == Causal::upper_left ? 0
                                                             : problem.S - problem.L;
    return problem.flops();
}

Json describe(const Inputs& inputs) {
    const auto list = [](const Tensor& tensor) {
        return std::vector<Index>(tensor.shape().begin(), tensor.shape().end());
    };
    Json json = {{"query", list(inputs.query)},
                 {"key", list(inputs.key)},
                 {"value", list(inputs.value)},
                 {"dtype", name_of(inputs.query.dtype())},
                 {"mask", nullptr},
                 {"causal", causal_names[static_cast<int>(inputs.causal)]},
                 {"scale", nullptr},
                 {"origin", inputs.origin}};
    if (inputs.mask)
        json["mask"] = {{"shape", list(*inputs.mask)}, {"dtype", name_of(inputs.mask->dtype())}};
    if (inputs.scale) json["scale"] = *inputs.scale;
    return json;
}

std::string headline(const Inputs& inputs) {
    const auto shape = [](const Tensor& tensor) { return '(' + shape_text(tensor.shape()) + ')'; };
    std::string text = "query " + shape(inputs.query);
    const bool same =
        shape(inputs.key) == shape(inputs.query) && shape(inputs.value) == shape(inputs.query);
    if (same)
        text = "query, key, value " + shape(inputs.query);
    else
        text += ", key " + shape(inputs.key) + ", value " + shape(inputs.value);
    text += std::string(", ") + name_of(inputs.query.dtype());
    if (inputs.mask)
        text += fmt::format(", {} mask {}", name_of(inputs.mask->dtype()), shape(*inputs.mask));
    if (inputs.causal != Causal::none)
        text += fmt::format(", causal {}", causal_names[static_cast<int>(inputs.causal)]);
    if (inputs.scale) text += fmt::format(", scale {}", *inputs.scale);
    return text + ": " + inputs.origin;
}

}  // namespace attn::cli
