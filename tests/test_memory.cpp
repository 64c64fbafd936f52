/// \file
/// \brief No byte outside of the tensors is read or written, every output is, and what memory held
///        before does not matter.
#include "harness.hpp"

#include <sys/mman.h>
#include <unistd.h>

using namespace attn;
using namespace attn::testing;

namespace {

/// Memory with an unreadable page before and after it. A tensor is placed against one of them.
class Guarded {
  public:
    /// `at_end`: the last byte is the last before the guard; else the first is the first after one.
    Guarded(std::size_t bytes, bool at_end, std::size_t alignment = 1) {
        const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t inner = (bytes + page - 1) / page * page;
        size_ = inner + 2 * page;
        base_ =
            static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        REQUIRE(base_ != MAP_FAILED);
        if (inner) REQUIRE(mprotect(base_ + page, inner, PROT_READ | PROT_WRITE) == 0);
        data = base_ + page + (at_end ? (inner - bytes) / alignment * alignment : 0);
    }
    Guarded(const Guarded&) = delete;
    ~Guarded() { munmap(base_, size_); }
    char* data;

  private:
    char* base_;
    std::size_t size_;
};

/// A contiguous copy of a tensor against a guard page.
struct GuardedTensor {
    Guarded memory;
    MutableTensorView view;
    GuardedTensor(const Tensor& from, bool at_end)
        : memory(from.bytes(), at_end), view(memory.data, from.dtype(), from.shape()) {
        std::memcpy(memory.data, from.data(), from.bytes());
    }
};

}  // namespace

TEST_CASE("every tier touches no byte before or after its tensors") {
    const Sizes shapes[] = {
        {1, 1, 1, 1, 1, 1, 1},     {1, 2, 1, 3, 5, 7, 9},       {2, 2, 2, 17, 33, 15, 5},
        {1, 1, 1, 65, 63, 64, 64}, {1, 1, 1, 2, 129, 31, 17},   {1, 2, 2, 33, 31, 72, 40},
        {1, 1, 1, 8, 16, 203, 3},  {1, 3, 1, 1, 257, 128, 128}, {1, 1, 1, 1, 1111, 16, 8}};
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float64})
            for (int kind = 0; kind < 3; ++kind)
                for (bool at_end : {true, false}) {
                    const std::string name = std::string(attn::name_of(dtype)) + " mask kind " +
                                             std::to_string(kind) +
                                             (at_end ? " page after" : " page before");
                    SUBCASE(subcase(tier, name).c_str()) {
                        for (const Sizes& s : shapes) {
                            const Qkv x = generate("gauss", s, 50, dtype);
                            Tensor mask({s.L, s.S}, kind == 1 ? DType::boolean : dtype);
                            for (Index i = 0; i < mask.size(); ++i)
                                mask.set(i, kind == 1 ? i % 3 != 0 : i % 3 ? 0.5 : -INFINITY);
                            Options plain;
                            if (kind) plain.mask = mask;
                            if (!takes(*tier, x.query, x.key, x.value, plain)) continue;
                            const Output want = run(*tier, x.query, x.key, x.value, plain);

                            const GuardedTensor q(x.query, at_end), k(x.key, at_end),
                                v(x.value, at_end), m(mask, at_end),
                                out(Tensor({s.B, s.Hq, s.L, s.Ev}, dtype), at_end),
                                lse(Tensor({s.B, s.Hq, s.L}, want.logsumexp.view.dtype), at_end);
                            Options options;
                            if (kind) options.mask = m.view;
                            Execution execution;
                            execution.tier = tier->name;
                            if (tier->limits.logsumexp) execution.logsumexp = lse.view;
                            const std::size_t bytes =
                                tier->device != DeviceKind::cpu
                                    ? 0
                                    : scratch_bytes(q.view, k.view, v.view, out.view, options,
                                                    execution);
                            const Guarded scratch(bytes, at_end, 64);
                            if (bytes)
                                execution.scratch = {reinterpret_cast<std::byte*>(scratch.data),
                                                     bytes};
                            scaled_dot_product_attention(q.view, k.view, v.view, out.view, options,
                                                         execution);
                            CAPTURE(shape_text(q.view));
                            expect_same_bits(*tier, want,
                                             {{Tensor(), out.view}, {Tensor(), lse.view}});
                        }
                    }
                }
}

TEST_CASE("every tier writes every output whatever memory held before") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float64}) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                for (const Sizes& s :
                     {Sizes{2, 4, 2, 19, 67, 24, 40}, Sizes{1, 2, 2, 1, 1100, 64, 7},
                      Sizes{1, 1, 1, 66, 9, 5, 129}})
                    for (Causal causal : {Causal::none, Causal::lower_right}) {
                        Case c;
                        c.sizes = s;
                        c.dtype = dtype;
                        c.causal = causal;
                        c.mask.kind = MaskKind::boolean;
                        c.seed = 51;
                        const Inputs in = make_inputs(c);
                        if (!takes(*tier, in)) continue;
                        const Output nan = run(*tier, in, {.poison = 0xff});
                        expect_same_bits(*tier, nan, run(*tier, in, {.poison = 0x7f}));
                        expect_same_bits(*tier, nan, run(*tier, in, {.poison = 0x00}));
                        expect_same_bits(*tier, nan, run(*tier, in, {.own_scratch = false}));
                        for (double o : values(nan.out.view)) REQUIRE(std::isfinite(o));
                    }
            }
        }
}

TEST_CASE("every tier asks for scratch by sizes alone") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "scratch").c_str()) {
            const Sizes s{1, 2, 2, 33, 65, 16, 16};
            const Qkv a = generate("gauss", s, 52), b = generate("key_bias", s, 53);
            if (!takes(*tier, a.query, a.key, a.value)) continue;
            Tensor out({1, 2, 33, 16});
            Execution execution;
            execution.tier = tier->name;
            CHECK(scratch_bytes(a.query, a.key, a.value, out, {}, execution) ==
                  scratch_bytes(b.query, b.key, b.value, out, {}, execution));
        }
    }
}
