/// \file
/// \brief Every mistake has its code and a sentence with the values at fault, `check` says the same
///        without throwing, and nothing has been written.
#include "harness.hpp"

#include <functional>
#include <new>

using namespace attn;
using namespace attn::testing;

namespace {

/// A call that is right, until a test spoils it.
struct Call {
    Tensor query{{2, 4, 3, 8}}, key{{2, 2, 5, 8}}, value{{2, 2, 5, 6}}, out{{2, 4, 3, 6}},
        logsumexp{{2, 4, 3}}, mask{{3, 5}, DType::boolean};
    TensorView q = query, k = key, v = value;
    MutableTensorView o = out;
    Options options;
    Execution execution;
    Tensor scratch{{1 << 16}, DType::boolean};

    Call() {
        for (Tensor* t : {&out, &logsumexp}) std::memset(t->data(), 0x5a, t->bytes());
        execution.logsumexp = logsumexp;
        options.mask = mask;
        execution.tier = "online";
    }
    bool untouched() const {
        const auto all = [](const Tensor& t) {
            const auto* bytes = static_cast<const unsigned char*>(t.data());
            return std::all_of(bytes, bytes + t.bytes(), [](unsigned char b) { return b == 0x5a; });
        };
        return all(out) && all(logsumexp);
    }
    void run() const { scaled_dot_product_attention(q, k, v, o, options, execution); }
};

struct Mistake {
    const char* name;
    ErrorCode code;
    std::vector<std::string> words;  ///< what the sentence must hold
    std::function<void(Call&)> spoil;
};

constexpr Index huge = Index{1} << 62;

const std::vector<Mistake>& mistakes() {
    static const Tensor other{{2, 4, 3, 8}, DType::float16};
    static const std::vector<Mistake> list = {
        {"key of another S than value",
         ErrorCode::bad_shape,
         {"key has S=4", "value has S=5"},
         [](Call& c) { c.k.shape[2] = 4; }},
        {"query and key of unequal E",
         ErrorCode::bad_shape,
         {"E=8", "E=7"},
         [](Call& c) { c.k.shape[3] = 7; }},
        {"value and out of unequal Ev",
         ErrorCode::bad_shape,
         {"Ev=6", "Ev=5"},
         [](Call& c) { c.o.shape[3] = 5; }},
        {"query and out of unequal L",
         ErrorCode::bad_shape,
         {"L=3", "L=2"},
         [](Call& c) { c.o.shape[2] = 2; }},
        {"query and out of unequal heads",
         ErrorCode::bad_shape,
         {"Hq=4", "Hq=3"},
         [](Call& c) { c.o.shape[1] = 3; }},
        {"key and value of unequal heads",
         ErrorCode::bad_shape,
         {"H=2", "H=1"},
         [](Call& c) { c.v.shape[1] = 1; }},
        {"query heads no multiple of key heads",
         ErrorCode::bad_shape,
         {"Hq=3", "H=2"},
         [](Call& c) { c.q.shape[1] = c.o.shape[1] = 3; }},
        {"query heads without key heads",
         ErrorCode::bad_shape,
         {"Hq=4", "H=0"},
         [](Call& c) { c.k.shape[1] = c.v.shape[1] = 0; }},
        {"key of another batch",
         ErrorCode::bad_shape,
         {"query", "2", "key", "1"},
         [](Call& c) { c.k.shape[0] = 1; }},
        {"value of another batch",
         ErrorCode::bad_shape,
         {"value", "1"},
         [](Call& c) { c.v.shape[0] = 1; }},
        {"out of another batch",
         ErrorCode::bad_shape,
         {"out", "1"},
         [](Call& c) { c.o.shape[0] = 1; }},
        {"key of another rank",
         ErrorCode::bad_shape,
         {"query has 4", "key has 3"},
         [](Call& c) { c.k.rank = 3; }},
        {"value of another rank",
         ErrorCode::bad_shape,
         {"query has 4", "value has 2"},
         [](Call& c) { c.v.rank = 2; }},
        {"out of another rank",
         ErrorCode::bad_shape,
         {"query has 4", "out has 3"},
         [](Call& c) { c.o.rank = 3; }},
        {"query of rank 1",
         ErrorCode::bad_shape,
         {"(2)"},
         [](Call& c) { c.q.rank = c.k.rank = c.v.rank = c.o.rank = 1; }},
        {"query of rank 9",
         ErrorCode::bad_shape,
         {"query", "9", "8"},
         [](Call& c) { c.q.rank = 9; }},
        {"query of negative rank",
         ErrorCode::bad_shape,
         {"query", "-1"},
         [](Call& c) { c.q.rank = -1; }},
        {"a negative size",
         ErrorCode::bad_shape,
         {"key", "(2, 2, -5, 8)"},
         [](Call& c) { c.k.shape[2] = -5; }},
        {"no data",
         ErrorCode::bad_shape,
         {"value", "(2, 2, 5, 6)", "data"},
         [](Call& c) { c.v.data = nullptr; }},
        {"no out", ErrorCode::bad_shape, {"out", "data"}, [](Call& c) { c.o.data = nullptr; }},
        {"a size that overflows",
         ErrorCode::bad_shape,
         {"overflow"},
         [](Call& c) { c.q.shape[2] = c.o.shape[2] = huge, c.options.mask = {}; }},
        {"a stride that overflows",
         ErrorCode::bad_shape,
         {"key", "overflow"},
         [](Call& c) { c.k.stride[2] = huge; }},
        {"strides that leave the address space",
         ErrorCode::bad_shape,
         {"key"},
         [](Call& c) { c.k.stride[2] = -(Index{1} << 59); }},
        {"misaligned data",
         ErrorCode::bad_shape,
         {"key", "aligned", "4"},
         [](Call& c) { c.k.data = static_cast<const char*>(c.k.data) + 1; }},
        {"out that overlaps itself",
         ErrorCode::bad_shape,
         {"out", "overlap"},
         [](Call& c) { c.o.stride[1] = 0; }},
        {"logsumexp that overlaps itself",
         ErrorCode::bad_shape,
         {"logsumexp", "overlap"},
         [](Call& c) { c.execution.logsumexp.stride[0] = 3; }},
        {"out that overlaps query",
         ErrorCode::bad_shape,
         {"out", "query", "overlap"},
         [](Call& c) {
             c.q = TensorView(c.out.data(), DType::float32, {2, 4, 3, 6});
             c.k.shape[3] = 6;
         }},
        {"out that overlaps value",
         ErrorCode::bad_shape,
         {"out", "value", "overlap"},
         [](Call& c) {
             c.v = TensorView(static_cast<const float*>(c.out.data()) + 12, DType::float32,
                              {2, 2, 5, 6});
         }},
        {"out that overlaps logsumexp",
         ErrorCode::bad_shape,
         {"out", "logsumexp", "overlap"},
         [](Call& c) { c.execution.logsumexp.data = c.out.data(); }},
        {"key of another dtype",
         ErrorCode::bad_dtype,
         {"query has dtype float32", "key", "float16"},
         [](Call& c) { c.k.dtype = DType::float16; }},
        {"value of another dtype",
         ErrorCode::bad_dtype,
         {"float32", "value", "bfloat16"},
         [](Call& c) { c.v.dtype = DType::bfloat16; }},
        {"out of another dtype",
         ErrorCode::bad_dtype,
         {"float32", "out", "float16"},
         [](Call& c) { c.o.dtype = DType::float16; }},
        {"boolean query",
         ErrorCode::bad_dtype,
         {"query", "bool"},
         [](Call& c) { c.q.dtype = c.k.dtype = c.v.dtype = c.o.dtype = DType::boolean; }},
        {"mask of another dtype",
         ErrorCode::bad_dtype,
         {"mask", "float16", "bool", "float32"},
         [](Call& c) { c.options.mask.dtype = DType::float16, c.options.mask.shape[1] = 1; }},
        {"mask of float64",
         ErrorCode::bad_dtype,
         {"mask", "float64"},
         [](Call& c) {
             static const Tensor wide({3, 5}, DType::float64);
             c.options.mask = wide;
         }},
        {"mask that does not broadcast",
         ErrorCode::bad_shape,
         {"mask", "(3, 4)", "(2, 4, 3, 5)"},
         [](Call& c) { c.options.mask.shape[1] = 4; }},
        {"mask of size 0",
         ErrorCode::bad_shape,
         {"mask", "(0, 5)"},
         [](Call& c) { c.options.mask.shape[0] = 0; }},
        {"mask that would enlarge the scores",
         ErrorCode::bad_shape,
         {"mask", "(3, 1, 3, 5)"},
         [](Call& c) {
             static const Tensor large({3, 1, 3, 5}, DType::boolean);
             c.options.mask = large;
         }},
        {"mask of more axes than the scores",
         ErrorCode::bad_shape,
         {"mask", "(1, 1, 1, 3, 5)"},
         [](Call& c) {
             static const Tensor large({1, 1, 1, 3, 5}, DType::boolean);
             c.options.mask = large;
         }},
        {"logsumexp of another shape",
         ErrorCode::bad_shape,
         {"logsumexp", "(2, 4, 2)", "(2, 4, 3)"},
         [](Call& c) { c.execution.logsumexp.shape[2] = 2; }},
        {"logsumexp of another rank",
         ErrorCode::bad_shape,
         {"logsumexp", "(2, 4)", "(2, 4, 3)"},
         [](Call& c) { c.execution.logsumexp.rank = 2; }},
        {"logsumexp of another dtype",
         ErrorCode::bad_dtype,
         {"logsumexp", "float16", "float32"},
         [](Call& c) { c.execution.logsumexp.dtype = DType::float16; }},
        {"scale of infinity",
         ErrorCode::bad_option,
         {"scale", "inf"},
         [](Call& c) { c.options.scale = inf; }},
        {"scale of NaN",
         ErrorCode::bad_option,
         {"scale", "nan"},
         [](Call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); }},
        {"causal rule that is none",
         ErrorCode::bad_option,
         {"causal", "7"},
         [](Call& c) { c.options.causal = static_cast<Causal>(7); }},
        {"negative threads",
         ErrorCode::bad_option,
         {"threads", "-2"},
         [](Call& c) { c.execution.threads = -2; }},
        {"unknown tier",
         ErrorCode::bad_option,
         {"onlien", "online", "auto"},
         [](Call& c) { c.execution.tier = "onlien"; }},
        {"empty tier name", ErrorCode::bad_option, {"''"}, [](Call& c) { c.execution.tier = ""; }},
        {"tensors on two devices",
         ErrorCode::bad_device,
         {"query", "-1", "key", "0"},
         [](Call& c) { c.k.device = 0; }},
        {"a mask on another device",
         ErrorCode::bad_device,
         {"mask", "1"},
         [](Call& c) { c.options.mask.device = 1; }},
        {"device tensors for a CPU tier",
         ErrorCode::bad_device,
         {"online", "0"},
         [](Call& c) {
             c.q.device = c.k.device = c.v.device = c.o.device = 0;
             c.options.mask.device = c.execution.logsumexp.device = 0;
         }},
        {"scratch that is too small",
         ErrorCode::bad_option,
         {"scratch", "1 bytes"},
         [](Call& c) {
             c.execution.scratch = {static_cast<std::byte*>(c.scratch.data()), 1};
         }},
        {"scratch that is not aligned",
         ErrorCode::bad_option,
         {"scratch", "aligned", "64"},
         [](Call& c) {
             c.execution.scratch = {static_cast<std::byte*>(c.scratch.data()) + 4, 60000};
         }},
    };
    return list;
}

}  // namespace

TEST_CASE("the errors name the values at fault and leave out untouched") {
    REQUIRE_NOTHROW(Call().run());
    for (const Mistake& mistake : mistakes()) {
        SUBCASE(mistake.name) {
            Call call;
            mistake.spoil(call);
            std::string message;
            try {
                call.run();
                FAIL_CHECK("not refused");
            } catch (const Error& error) {
                message = error.what();
                CHECK(error.code() == mistake.code);
            }
            CAPTURE(message);
            for (const std::string& word : mistake.words)
                CHECK(message.find(word) != std::string::npos);
            CHECK(message.find('\n') == std::string::npos);
            CHECK(call.untouched());

            const Check asked = check(call.q, call.k, call.v, call.o, call.options, call.execution);
            CHECK_FALSE(asked);
            CHECK(asked.error == mistake.code);
            CHECK(asked.message == message);
        }
    }
}

TEST_CASE("the errors are the same for every tier that runs here") {
    for (const Mistake& mistake : mistakes()) {
        if (mistake.code == ErrorCode::bad_device || mistake.code == ErrorCode::bad_option)
            continue;
        for (const Tier* tier : tiers()) {
            if (!tier->available().ok) continue;
            Call call;
            call.execution.tier = tier->name;
            mistake.spoil(call);
            CAPTURE(std::string(mistake.name));
            CAPTURE(std::string(tier->name));
            CHECK(check(call.q, call.k, call.v, call.o, call.options, call.execution).error ==
                  mistake.code);
        }
    }
}

TEST_CASE("the check accepts what runs and writes nothing") {
    Call call;
    const Check asked = check(call.q, call.k, call.v, call.o, call.options, call.execution);
    CHECK(asked);
    CHECK(asked.message.empty());
    CHECK(call.untouched());
    static_assert(noexcept(check(call.q, call.k, call.v, call.o, call.options, call.execution)));
}

TEST_CASE("the tensor refuses sizes that no memory can hold") {
    const auto code = [](std::initializer_list<Index> shape) {
        try {
            Tensor t(shape);
        } catch (const Error& error) {
            return error.code();
        }
        return ErrorCode::device_error;
    };
    CHECK(code({3, -1}) == ErrorCode::bad_shape);
    CHECK(code({huge, huge}) == ErrorCode::bad_shape);
    CHECK(code({huge, 2}) == ErrorCode::bad_shape);
    CHECK(code({1, 1, 1, 1, 1, 1, 1, 1, 1}) == ErrorCode::bad_shape);
    CHECK_THROWS_AS(Tensor({2}, DType::float16).values<float>(), Error);
    CHECK_THROWS_AS(Tensor({2}, DType::boolean).values<double>(), Error);
}

TEST_CASE("the names of the error codes are those in the header") {
    CHECK(std::string(attn::name_of(ErrorCode::bad_shape)) == "bad_shape");
    CHECK(std::string(attn::name_of(ErrorCode::bad_dtype)) == "bad_dtype");
    CHECK(std::string(attn::name_of(ErrorCode::bad_option)) == "bad_option");
    CHECK(std::string(attn::name_of(ErrorCode::bad_device)) == "bad_device");
    CHECK(std::string(attn::name_of(ErrorCode::bad_file)) == "bad_file");
    CHECK(std::string(attn::name_of(ErrorCode::unsupported)) == "unsupported");
    CHECK(std::string(attn::name_of(ErrorCode::unavailable)) == "unavailable");
    CHECK(std::string(attn::name_of(ErrorCode::no_memory)) == "no_memory");
    CHECK(std::string(attn::name_of(ErrorCode::device_error)) == "device_error");
}
