/// \file
/// \brief The tiers `int8_pv32` and `int8`: their integers are those of quantize.hpp, bit for bit,
///        on every instruction set, and what they compute from them is right on each.
#include "harness.hpp"
#include "int8_kernel.hpp"
#include "int8_products.hpp"

#include <attn/quantize.hpp>

#include <bit>
#include <optional>

using namespace attn;
using namespace attn::testing;

namespace {

struct Copy {
    std::string isa;  ///< as ATTN_ISA names it
    const Int8Kernels* kernels;
    Int8Products products;
};

/// Sets ATTN_ISA and gives it back.
class ForcedIsa {
  public:
    explicit ForcedIsa(const std::string& isa) : before_(environment("ATTN_ISA")) {
        isa.empty() ? unsetenv("ATTN_ISA") : setenv("ATTN_ISA", isa.c_str(), 1);
    }
    ~ForcedIsa() {
        before_.empty() ? unsetenv("ATTN_ISA") : setenv("ATTN_ISA", before_.c_str(), 1);
    }

  private:
    std::string before_;
};

/// Whatever ATTN_ISA says.
bool machine_has_amx() {
    const ForcedIsa none("");
    return may_use_amx();
}

/// The copies of the kernels that this machine can run.
std::vector<Copy> copies() {
    std::vector<Copy> list;
#define ATTN_COPY(isa) \
    if (supports(Isa::isa)) list.push_back({#isa, &isa::int8_kernels, isa::int8_products});
    ATTN_FOR_EACH_DOT_ISA(ATTN_COPY)
#undef ATTN_COPY
#if defined(__x86_64__)
    if (machine_has_amx()) list.push_back({"amx", &amx::int8_kernels, amx::int8_products});
#endif
    return list;
}

/// One head: what its keys and values hold, and which of them some query may see.
struct HeadCase {
    Index L, S, E, Ev;
    DType dtype = DType::float32;
    Index diagonal = 1 << 20;
    bool masked = false;      ///< every fifth key is hidden by a mask, and holds NaN
    Index spoilt_key = -1;    ///< a visible key that holds infinity
    Index spoilt_value = -1;  ///< a visible value that holds NaN
};

/// The head as quantize.hpp alone would have it.
struct Model {
    std::vector<int> key, value;  ///< (S, E), (S, Ev)
    std::vector<float> key_scale, value_scale, mean;
    std::vector<int> used;
};

template <class At>
std::vector<float> row_of(Index count, At&& at) {
    std::vector<float> row(static_cast<std::size_t>(count));
    for (Index e = 0; e < count; ++e) row[e] = static_cast<float>(at(e));
    return row;
}

std::uint32_t largest(const std::vector<float>& row) {
    std::uint32_t most = 0;
    for (float x : row) most = std::max(most, magnitude(x));
    return most;
}

Model model(const HeadCase& c, const Tensor& key, const Tensor& value, const Tensor& mask) {
    Model m;
    std::vector<std::vector<float>> keys, values;
    for (Index j = 0; j < c.S; ++j) {
        keys.push_back(row_of(c.E, [&](Index e) { return key.get(j * c.E + e); }));
        values.push_back(row_of(c.Ev, [&](Index e) { return value.get(j * c.Ev + e); }));
        const bool seen = j < c.L + c.diagonal && (!c.masked || mask.get(j) != 0);
        m.used.push_back(!seen ? 0 : quantizable(largest(keys.back())) ? 1 : 2);
    }
    m.mean.resize(static_cast<std::size_t>(c.E));
    for (Index e = 0; e < c.E; ++e) {
        ChannelMean channel;
        for (Index j = 0; j < c.S; ++j) {
            if (m.used[j] == 1 && counts_for_mean(j, c.S)) channel.add(keys[j][e]);
            if (j % smoothing_block == smoothing_block - 1) channel.end_block();
        }
        channel.end_block();
        m.mean[e] = channel.mean();
    }
    for (Index j = 0; j < c.S; ++j) {
        Quantizer quantizer;
        if (m.used[j] == 1) {
            for (Index e = 0; e < c.E; ++e) keys[j][e] -= m.mean[e];
            rotate(keys[j].data(), c.E, Operand::key);
            quantizer = Quantizer(largest(keys[j]));
        }
        m.key_scale.push_back(quantizer.scale);
        for (Index e = 0; e < c.E; ++e) m.key.push_back(m.used[j] == 1 ? quantizer(keys[j][e]) : 0);
    }
    for (Index first = 0; first < c.S; first += int8_block) {
        const Index end = std::min(first + int8_block, c.S);
        for (Index j = first; j < end; ++j)
            if (m.used[j] == 1 && !quantizable(largest(values[j]))) m.used[j] = 2;
        std::vector<Quantizer> steps;
        for (Index e = 0; e < c.Ev; ++e) {
            std::uint32_t most = 0;
            for (Index j = first; j < end; ++j)
                if (m.used[j] == 1) most = std::max(most, magnitude(values[j][e]));
            steps.emplace_back(most);
            m.value_scale.push_back(steps.back().scale / weight_levels);
        }
        for (Index j = first; j < end; ++j)
            for (Index e = 0; e < c.Ev; ++e)
                m.value.push_back(m.used[j] == 1 ? steps[e](values[j][e]) : 0);
    }
    return m;
}

/// Number n of a sequence of words.
int number_at(const std::int32_t* words, Index n, int in_a_word) {
    if (in_a_word == 4) return reinterpret_cast<const std::int8_t*>(words)[n];
    return reinterpret_cast<const std::int16_t*>(words)[n];
}

}  // namespace

TEST_CASE("the integers of every instruction set are those of the algebra") {
    const HeadCase heads[] = {
        {1, 1, 1, 1},
        {3, 70, 8, 6},
        {5, 300, 40, 33},
        {2, 513, 128, 64},
        {2, 1100, 24, 16},  // the mean is taken from every third block
        {4, 65, 203, 17},
        {9, 257, 16, 16, DType::float16},
        {9, 300, 64, 80, DType::bfloat16},
        {1, 129, 256, 2},
        {7, 64, 3, 5},
        {4, 300, 32, 32, DType::float32, 100},            // the last keys are beyond the diagonal
        {4, 300, 32, 32, DType::float32, 1 << 20, true},  // some are hidden by a mask
        {4, 300, 32, 32, DType::float32, 1 << 20, true, 7, 290},
        {4, 300, 0, 3},
    };
    for (const Copy& copy : copies())
        for (const HeadCase& c : heads) {
            CAPTURE(copy.isa);
            CAPTURE(c.S);
            CAPTURE(c.E);
            const Qkv x = generate("key_bias", {1, 1, 1, c.L, c.S, c.E, c.Ev}, 77, c.dtype);
            Tensor key = x.key.to(c.dtype), value = x.value.to(c.dtype);
            Tensor mask({c.S}, DType::boolean);
            for (Index j = 0; j < c.S; ++j) mask.set(j, j % 5 != 3);
            for (Index j = 3; c.masked && j < c.S; j += 5) {
                for (Index e = 0; e < c.E; ++e) key.set(j * c.E + e, NAN);
                for (Index e = 0; e < c.Ev; ++e) value.set(j * c.Ev + e, 1e30);
            }
            if (c.spoilt_key >= 0) key.set(c.spoilt_key * c.E + 5, INFINITY);
            if (c.spoilt_value >= 0) value.set(c.spoilt_value * c.Ev + 2, NAN);

            Problem p;
            p.L = c.L, p.S = c.S, p.E = c.E, p.Ev = c.Ev;
            p.dtype = c.dtype;
            p.diagonal = c.diagonal;
            p.query = x.query, p.key = key, p.value = value;
            if (c.masked) {
                const Index shape[] = {1, 1, c.L, c.S}, stride[] = {0, 0, 0, 1};
                p.mask = TensorView(mask.data(), DType::boolean, shape, stride);
                p.mask_kind = MaskKind::boolean;
            }
            const Int8Layout layout = copy.kernels->layout;
            const int in_a_word = layout.numbers_in_a_word;
            const Int8Head sizes(p, Int8Values::int8, layout, nullptr);
            Tensor memory({static_cast<Index>(sizes.bytes) + 64}, DType::boolean);
            std::memset(memory.data(), 0xff, memory.bytes());
            const Int8Head head(p, Int8Values::int8, layout,
                                static_cast<std::byte*>(memory.data()));
            Tensor scratch({copy.kernels->scratch_floats(p, Int8Values::int8) + 16});
            float* const own = static_cast<float*>(scratch.data());
            const Index blocks = (c.S + int8_block - 1) / int8_block;
            for (Index block = 0; block < blocks; ++block)
                copy.kernels->measure(p, head, block, own);
            copy.kernels->average(p, head);
            for (Index block = 0; block < blocks; ++block)
                copy.kernels->quantize(p, Int8Values::int8, head, block, own);

            const Model want = model(c, key, value, mask);
            const Index lines_Ev = (c.Ev + 15) / 16 * 16;
            int wrong_keys = 0, wrong_values = 0, wrong_scales = 0, spoilt = 0;
            for (Index e = 0; e < c.E; ++e) wrong_scales += head.mean[e] != want.mean[e];
            for (Index j = 0; j < c.S; ++j) {
                CHECK(int(head.used[j]) == want.used[j]);
                spoilt += want.used[j] == 2;
                wrong_scales += head.key_scale[j] != want.key_scale[j];
                int sum = 0;
                for (Index e = 0; e < c.E; ++e) {
                    const int n = want.key[j * c.E + e];
                    sum += n;
                    wrong_keys += number_at(head.key + j * head.key_words, e, in_a_word) != n;
                }
                for (Index e = c.E; e < head.key_words * in_a_word; ++e)  // padding adds nothing
                    wrong_keys += number_at(head.key + j * head.key_words, e, in_a_word) != 0;
                CHECK(head.key_start[j] == (in_a_word == 4 && !layout.tiles ? -128 * sum : 0));
                for (Index e = 0; e < c.Ev; ++e) {
                    const Index word = j / in_a_word;  // of channel e
                    const Index at =
                        layout.tiles ? (word / 16 * lines_Ev + e) * 16 + word % 16  // transposed
                                     : word * lines_Ev + e;
                    wrong_values += number_at(head.value + at, j % in_a_word, in_a_word) !=
                                    want.value[j * c.Ev + e];
                    wrong_scales += head.value_scale[j / int8_block * lines_Ev + e] !=
                                    want.value_scale[j / int8_block * c.Ev + e];
                }
            }
            CHECK(wrong_keys == 0);
            CHECK(wrong_values == 0);
            CHECK(wrong_scales == 0);
            int counted_spoilt = 0;
            for (Index block = 0; block < blocks; ++block)
                counted_spoilt += head.not_integer[block];
            CHECK(counted_spoilt == spoilt);
        }
}

TEST_CASE("the 8-bit dot product of every instruction set is the sum of its products") {
    // The largest products first: a form that adds two of them in 16 bits would saturate.
    std::vector<std::vector<int>> as(3), bs(3);
    std::uint32_t random = 1;
    for (int i = 0; i < 640; ++i) {
        random = random * 1664525u + 1013904223u;
        const int a = static_cast<int>(random >> 24);
        const int b = static_cast<int>((random >> 8) % 255) - 127;
        const int all_a[] = {255, 255, a}, all_b[] = {127, -127, b};
        for (int n = 0; n < 3; ++n) as[n].push_back(all_a[n]), bs[n].push_back(all_b[n]);
    }
    for (int n = 0; n < 3; ++n) {
        int want = 0;
        for (std::size_t i = 0; i < as[n].size(); ++i) want += as[n][i] * bs[n][i];
        for (const Copy& copy : copies()) {
            CAPTURE(copy.isa);
            CHECK(copy.products(as[n], bs[n], false) == want);
            CHECK(copy.products(as[n], bs[n], true) == want);
        }
    }
}

TEST_CASE("the int8 tiers are right on every instruction set") {
    for (const Copy& copy : copies())
        for (const char* name : {"int8_pv32", "int8"}) {
            const ForcedIsa forced(copy.isa);
            const Tier& tier = *find_tier(name);
            int count = 0;
            for (const Case& c : cases()) {
                if (!c.quick || flops(c.sizes) > 4e6 || ++count % 3 != 0) continue;
                const Inputs in = make_inputs(c);
                if (!takes(tier, in)) continue;
                CAPTURE(copy.isa);
                CAPTURE(c.name);
                expect_right(tier, run(tier, in, {.layout = c.layout}),
                             reference(in.query.view, in.key.view, in.value.view, in.options));
            }
        }
}

TEST_CASE("the matrix tiles give the int8 tiers the bits that registers give") {
    // The sums are the same integers and each step in floats is the same one, in the same order.
    if (!machine_has_amx()) {
        std::printf("ATTN-SKIP: this processor has no AMX\n");
        return;
    }
    Problem few, many;
    few.L = 31, many.L = 32;
    for (const char* name : {"int8_pv32", "int8"}) {
        const Tier& tier = *find_tier(name);
        {
            const ForcedIsa amx("amx");
            CHECK(tier.variant(many) == "avx512vnni with amx");
            CHECK(tier.variant(few) == "avx512vnni");
        }
        const ForcedIsa registers("avx512vnni");
        CHECK(tier.variant(many) == "avx512vnni");
    }
    // Rows of a task, keys of a block, and E and Ev on both sides of what fills a tile.
    const Sizes shapes[] = {{1, 1, 1, 32, 1, 1, 1},       {1, 2, 2, 36, 17, 63, 15},
                            {1, 1, 1, 48, 64, 64, 16},    {2, 2, 1, 33, 65, 65, 17},
                            {1, 1, 1, 33, 130, 128, 128}, {1, 4, 2, 47, 200, 129, 33},
                            {1, 1, 1, 64, 129, 200, 64},  {1, 1, 1, 70, 70, 300, 100},
                            {1, 1, 1, 40, 300, 0, 3},     {1, 2, 2, 130, 190, 96, 70}};
    const auto mask_of = [](const Sizes& sizes, int kind) {
        Tensor mask({sizes.L, sizes.S}, kind == 1 ? DType::boolean : DType::float32);
        for (Index n = 0; n < sizes.L * sizes.S; ++n) {
            const bool seen = n * n % 7 < 3 || n / sizes.S % 9 == 4;
            mask.set(n, kind == 1 ? seen : seen ? n % 5 : -INFINITY);
        }
        return mask;
    };
    for (const char* name : {"int8_pv32", "int8"})
        for (const Sizes& sizes : shapes) {
            const Qkv x = generate("key_bias", sizes, 5);
            for (int kind = 0; kind < 5; ++kind) {  // mask: none, boolean, additive; then causal
                CAPTURE(std::string(name));
                CAPTURE(sizes.L);
                CAPTURE(sizes.S);
                CAPTURE(sizes.E);
                CAPTURE(kind);
                const Tensor mask = mask_of(sizes, kind);
                Options options;
                if (kind == 1 || kind == 2) options.mask = mask;
                if (kind > 2) options.causal = kind == 3 ? Causal::upper_left : Causal::lower_right;
                const auto attend = [&](const char* isa, int threads, Tensor& out, Tensor& lse) {
                    const ForcedIsa forced(isa);
                    out = Tensor({sizes.B, sizes.Hq, sizes.L, sizes.Ev});
                    lse = Tensor({sizes.B, sizes.Hq, sizes.L});
                    Execution execution;
                    execution.tier = name;
                    execution.threads = threads;
                    execution.logsumexp = lse;
                    scaled_dot_product_attention(x.query, x.key, x.value, out, options, execution);
                };
                Tensor want, want_lse, out, lse;
                attend("avx512vnni", 1, want, want_lse);
                for (const int threads : {1, 2, 3, 7}) {
                    attend("amx", threads, out, lse);
                    CHECK(std::memcmp(out.data(), want.data(), out.bytes()) == 0);
                    CHECK(std::memcmp(lse.data(), want_lse.data(), lse.bytes()) == 0);
                }
            }
        }
}
