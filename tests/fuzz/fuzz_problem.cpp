/// \file
/// \brief libFuzzer target: bytes become a call. The checks must survive any call; every CPU tier
///        must agree with the reference on each accepted one, and stay inside its memory.
///
/// Inputs of the first kind ("hostile") hold arbitrary ranks, sizes, strides and addresses: they
/// are only checked and explained, never run, since an accepted address need not be one.
/// Inputs of the second kind ("sound") are small problems in exact-size heap blocks, so that
/// AddressSanitizer sees one byte too far; elements between a view's own are NaN in inputs and
/// must be left alone in outputs.
#include "isa.hpp"

#include <attn/attn.hpp>
#include <attn/judge.hpp>

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

namespace {

using attn::DType;
using attn::Index;
using Bytes = FuzzedDataProvider;

[[noreturn]] void report(const std::string& what) {
    std::fprintf(stderr, "fuzz_problem: %s\n", what.c_str());
    std::abort();
}

template <class T, std::size_t N>
T pick(Bytes& bytes, const T (&choices)[N]) {
    return choices[bytes.ConsumeIntegralInRange<std::size_t>(0, N - 1)];
}

constexpr DType float_types[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};
constexpr DType all_types[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64,
                               DType::boolean};
constexpr attn::Isa isas[] = {attn::Isa::avx512, attn::Isa::avx2, attn::Isa::baseline};
constexpr attn::Causal causal_rules[] = {attn::Causal::none, attn::Causal::upper_left,
                                         attn::Causal::lower_right, static_cast<attn::Causal>(7)};

// ---- hostile ------------------------------------------------------------------------------------

template <class View>
View hostile_view(Bytes& bytes, char* memory) {
    constexpr Index sizes[] = {0,
                               1,
                               2,
                               3,
                               64,
                               -1,
                               Index{1} << 31,
                               Index{1} << 62,
                               std::numeric_limits<Index>::max(),
                               std::numeric_limits<Index>::min()};
    View view;
    view.rank = bytes.ConsumeIntegralInRange<int>(-1, attn::max_rank + 1);
    view.dtype = pick(bytes, all_types);
    for (int axis = 0; axis < attn::max_rank; ++axis) {
        view.shape[axis] = bytes.ConsumeBool() ? 2 : pick(bytes, sizes);
        view.stride[axis] =
            bytes.ConsumeBool() ? pick(bytes, sizes) : bytes.ConsumeIntegral<Index>();
    }
    if (bytes.ConsumeIntegralInRange(0, 7) != 0)
        view.data = memory + bytes.ConsumeIntegralInRange(0, 4096);
    if (bytes.ConsumeIntegralInRange(0, 15) == 0) view.device = bytes.ConsumeIntegral<int>();
    return view;
}

void run_hostile(Bytes& bytes) {
    static char memory[8192];
    const auto query = hostile_view<attn::TensorView>(bytes, memory);
    const auto key = hostile_view<attn::TensorView>(bytes, memory);
    const auto value = hostile_view<attn::TensorView>(bytes, memory);
    const auto out = hostile_view<attn::MutableTensorView>(bytes, memory);
    attn::Options options;
    if (bytes.ConsumeBool()) options.mask = hostile_view<attn::TensorView>(bytes, memory);
    options.causal = pick(bytes, causal_rules);
    if (bytes.ConsumeBool()) options.scale = bytes.ConsumeFloatingPoint<double>();
    attn::Execution execution;
    if (bytes.ConsumeBool())
        execution.logsumexp = hostile_view<attn::MutableTensorView>(bytes, memory);
    execution.threads = bytes.ConsumeIntegral<int>();
    const std::string tier = bytes.ConsumeRandomLengthString(12);
    if (bytes.ConsumeBool()) execution.tier = tier;

    const attn::Check verdict = attn::check(query, key, value, out, options, execution);
    if (!verdict) {
        if (verdict.message.empty()) report("refused without a sentence");
        return;
    }
    // What is accepted can also be explained and has a size of scratch.
    attn::explain(query, key, value, out, options, execution);
    attn::scratch_bytes(query, key, value, out, options, execution);
}

// ---- sound --------------------------------------------------------------------------------------

/// A view and the exact block of memory it spans.
struct Block {
    std::vector<unsigned char> before;  // a copy, to see what a run changed
    unsigned char* memory = nullptr;
    std::size_t size = 0;
    attn::MutableTensorView view;

    Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() { std::free(memory); }
};

/// \brief Lays a tensor out with its axes in any order, reversed, with gaps or (inputs) repeated.
void lay_out(Bytes& bytes, Block& block, const std::vector<Index>& shape, DType dtype,
             bool output) {
    const int rank = static_cast<int>(shape.size());
    std::vector<int> order(shape.size());
    std::iota(order.begin(), order.end(), 0);
    for (int i = rank - 1; i > 0; --i)
        std::swap(order[static_cast<std::size_t>(i)],
                  order[static_cast<std::size_t>(bytes.ConsumeIntegralInRange(0, i))]);
    block.view.rank = rank;
    block.view.dtype = dtype;
    Index step = 1, lowest = 0, highest = 0;
    bool empty = false;
    for (const int axis : order) {
        const Index size = block.view.shape[axis] = shape[static_cast<std::size_t>(axis)];
        empty |= size == 0;
        step += bytes.ConsumeIntegralInRange<Index>(0, 2);  // a gap
        const int kind = bytes.ConsumeIntegralInRange(0, 7);
        Index stride = kind == 0 ? -step : step;
        if (kind == 1 && !output) stride = 0;
        block.view.stride[axis] = stride;
        if (size == 0) continue;
        (stride < 0 ? lowest : highest) += (size - 1) * stride;
        if (stride != 0) step *= size;
    }
    block.size = empty ? 0 : static_cast<std::size_t>(highest - lowest + 1) * attn::size_of(dtype);
    block.memory = static_cast<unsigned char*>(std::malloc(block.size));
    if (block.size > 0) std::memset(block.memory, 0xff, block.size);  // NaN everywhere
    block.view.data =
        block.memory + (empty ? 0 : static_cast<std::size_t>(-lowest) * attn::size_of(dtype));
}

/// \brief Calls `visit(address)` for every element.
template <class Visit>
void each(const attn::MutableTensorView& view, Visit&& visit, int axis = 0, Index offset = 0) {
    if (axis == view.rank) {
        visit(static_cast<unsigned char*>(view.data) +
              offset * static_cast<Index>(attn::size_of(view.dtype)));
        return;
    }
    for (Index i = 0; i < view.shape[axis]; ++i)
        each(view, visit, axis + 1, offset + i * view.stride[axis]);
}

void store(unsigned char* to, DType dtype, double number) {
    if (dtype == DType::boolean) {
        *to = number != 0;
        return;
    }
    attn::visit_float(dtype, [&]<class T>(T) {
        const T element = T(static_cast<attn::Compute<T>>(number));
        std::memcpy(to, &element, sizeof element);
    });
}

/// \brief A stream of codes from one seed: elements need not be spelled out in the fuzzer's bytes.
class Codes {
  public:
    explicit Codes(Bytes& bytes) : state_(bytes.ConsumeIntegral<std::uint32_t>()) {}
    unsigned operator()() {  // a linear congruential generator; its upper bits are the good ones
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<unsigned>(state_ >> 56);
    }

  private:
    std::uint64_t state_;
};

/// \brief Values by which a tier could be hurt. Finite ones keep |score| small enough that no
///        weight underflows in float32: then an infinity in a visible value row must show in every
///        tier alike.
void fill(Bytes& bytes, Block& block, bool specials) {
    constexpr double finite[] = {0, 1, -1, 0.5, -0.75, 1.5, -0.0, 1e-30, 6e-8, 0.3, -1.25, 2};
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr double special[] = {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()};
    Codes next(bytes);
    each(block.view, [&](unsigned char* element) {
        const unsigned code = next();
        const bool odd = specials && code >= 250;
        store(element, block.view.dtype, odd ? special[code % 3] : finite[code % 12]);
    });
}

void fill_mask(Bytes& bytes, Block& block) {
    Codes next(bytes);
    each(block.view, [&](unsigned char* element) {
        const unsigned code = next();
        if (block.view.dtype == DType::boolean)
            *element = code % 3 == 0 ? 0 : code % 3 == 1 ? 1 : 255;
        else if (code % 4 == 0)
            store(element, block.view.dtype, -std::numeric_limits<double>::infinity());
        else
            store(element, block.view.dtype, static_cast<int>(code % 16) / 4.0 - 2);
    });
}

/// \brief Every byte of the block that belongs to no element is as it was.
void expect_gaps_untouched(const Block& block, const char* tier, const char* name) {
    std::vector<unsigned char> now(block.memory, block.memory + block.size), then = block.before;
    const auto clear = [&](std::vector<unsigned char>& copy) {
        each(block.view, [&](unsigned char* element) {
            std::memset(copy.data() + (element - block.memory), 0, attn::size_of(block.view.dtype));
        });
    };
    clear(now);
    clear(then);
    if (now != then) report(std::string(tier) + " wrote between the elements of " + name);
}

void remember(Block& block) { block.before.assign(block.memory, block.memory + block.size); }

void expect_same(const Block& block, const char* tier, const char* name) {
    if (!std::equal(block.before.begin(), block.before.end(), block.memory))
        report(std::string(tier) + " changed " + name);
}

void expect_right(const attn::Verdict& verdict, const attn::Tier& tier, const char* name) {
    if (!verdict.ok()) report(std::string(tier.name) + " " + name + ": " + attn::text_of(verdict));
}

void run_sound(Bytes& bytes) {
    const int rank = bytes.ConsumeIntegralInRange(2, 5);
    const auto size = [&](Index most) {
        return bytes.ConsumeIntegralInRange(0, 15) == 0
                   ? 0
                   : bytes.ConsumeIntegralInRange<Index>(1, most);
    };
    std::vector<Index> batch;
    for (int axis = 0; axis < rank - 3; ++axis) batch.push_back(size(2));
    const Index H = rank > 2 ? size(2) : 1, Hq = H * (rank > 2 ? size(3) : 1);
    const Index L = size(20), S = size(40), E = size(12), Ev = size(20);
    const auto shape = [&](Index heads, Index rows, Index columns) {
        std::vector<Index> s = batch;
        if (rank > 2) s.push_back(heads);
        s.push_back(rows);
        if (columns >= 0) s.push_back(columns);
        return s;
    };

    const DType dtype = pick(bytes, float_types);
    const DType lse_dtype = dtype == DType::float64 ? DType::float64 : DType::float32;
    Block query, key, value, mask, out, logsumexp;
    lay_out(bytes, query, shape(Hq, L, E), dtype, false);
    lay_out(bytes, key, shape(H, S, E), dtype, false);
    lay_out(bytes, value, shape(H, S, Ev), dtype, false);
    lay_out(bytes, out, shape(Hq, L, Ev), dtype, true);
    lay_out(bytes, logsumexp, shape(Hq, L, -1), lse_dtype, true);

    attn::Options options;
    options.causal = pick(bytes, causal_rules);
    constexpr double scales[] = {1, 0.5, 0, -1, -0.25};
    if (bytes.ConsumeBool()) options.scale = pick(bytes, scales);
    const bool specials = bytes.ConsumeBool();
    if (bytes.ConsumeBool()) {  // a mask: the last axes of the scores, each full or 1
        std::vector<Index> full = shape(Hq, L, S);
        full.erase(full.begin(), full.begin() + bytes.ConsumeIntegralInRange(0, rank));
        for (Index& n : full)
            if (bytes.ConsumeBool()) n = 1;
        constexpr DType kinds[] = {DType::boolean, DType::float32};
        lay_out(bytes, mask, full,
                bytes.ConsumeIntegralInRange(0, 3) == 0 ? dtype : pick(bytes, kinds), false);
        fill_mask(bytes, mask);
        options.mask = mask.view;
    }
    attn::Execution execution;
    execution.threads = bytes.ConsumeIntegralInRange(0, 3);
    const bool wants_logsumexp = bytes.ConsumeBool();
    fill(bytes, query, specials);
    fill(bytes, key, specials);
    fill(bytes, value, specials);
    for (Block* block : {&query, &key, &value, &mask, &out, &logsumexp}) remember(*block);

    const attn::Isa isa = pick(bytes, isas);
    if (attn::supports(isa)) setenv("ATTN_ISA", attn::name_of(isa), 1);
    attn::Reference want;
    bool known = false;
    for (const attn::Tier* tier : attn::tiers()) {
        if (tier->device != attn::DeviceKind::cpu || !tier->available().ok) continue;
        execution.tier = tier->name;
        execution.logsumexp = {};
        if (wants_logsumexp && tier->limits.logsumexp) execution.logsumexp = logsumexp.view;
        execution.scratch = {};
        const attn::Check accepted =
            attn::check(query.view, key.view, value.view, out.view, options, execution);
        if (!accepted) {
            const bool beyond_limits = accepted.error == attn::ErrorCode::unsupported;
            if (!beyond_limits && options.causal != static_cast<attn::Causal>(7))
                report(std::string(tier->name) + " refused a sound problem: " + accepted.message);
            continue;
        }
        if (!known) {
            want = attn::reference(query.view, key.view, value.view, options);
            known = true;
        }
        std::copy(out.before.begin(), out.before.end(), out.memory);
        std::copy(logsumexp.before.begin(), logsumexp.before.end(), logsumexp.memory);
        const std::size_t scratch =
            attn::scratch_bytes(query.view, key.view, value.view, out.view, options, execution);
        std::byte* working = nullptr;  // exact size, so that AddressSanitizer guards its end
        if (scratch > 0) {
            if (posix_memalign(reinterpret_cast<void**>(&working), 64, scratch) != 0) return;
            std::memset(working, 0xff, scratch);
            execution.scratch = {working, scratch};
        }
        attn::scaled_dot_product_attention(query.view, key.view, value.view, out.view, options,
                                           execution);
        std::free(working);
        for (const auto& [block, name] :
             std::initializer_list<std::pair<const Block*, const char*>>{
                 {&query, "query"}, {&key, "key"}, {&value, "value"}, {&mask, "mask"}})
            expect_same(*block, tier->name, name);
        expect_gaps_untouched(out, tier->name, "out");
        if (execution.logsumexp.absent())
            expect_same(logsumexp, tier->name, "logsumexp");
        else
            expect_gaps_untouched(logsumexp, tier->name, "logsumexp");
        const attn::Allowance allowance(*tier, dtype);
        expect_right(attn::judge(out.view, want, allowance), *tier, "out");
        if (!execution.logsumexp.absent())
            expect_right(attn::judge_logsumexp(logsumexp.view, want, allowance), *tier,
                         "logsumexp");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    if (bytes.ConsumeIntegralInRange(0, 3) == 0)
        run_hostile(bytes);
    else
        run_sound(bytes);
    return 0;
}
