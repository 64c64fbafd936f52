/// \file
/// \brief What is particular to tier `simd`: its instruction sets, its exponential, its
///        environment, its memory. Its results are tested with those of every other tier.
#include "harness.hpp"
#include "isa.hpp"
#include "simd_kernel.hpp"

#include <attn/generate.hpp>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdlib>

using namespace attn;

namespace {

struct Copy {
    Isa isa;
    const SimdKernels& kernels;
};

/// The copies that this machine can run.
std::vector<Copy> copies() {
    std::vector<Copy> list;
#define ATTN_COPY(isa) \
    if (supports(Isa::isa)) list.push_back({Isa::isa, isa::simd_kernels});
    ATTN_FOR_EACH_ISA(ATTN_COPY)
#undef ATTN_COPY
    return list;
}

/// Sets an environment variable, and what it was before at the end.
class Setenv {
  public:
    Setenv(const char* name, const char* value) : name_(name), old_(testing::environment(name)) {
        setenv(name, value, 1);
    }
    ~Setenv() {
        if (old_.empty())
            unsetenv(name_);
        else
            setenv(name_, old_.c_str(), 1);
    }

  private:
    const char* name_;
    std::string old_;
};

Problem problem_of(Index L, Index S, int threads, Index heads = 2, Index E = 8) {
    Problem p;
    p.H = p.Hq = heads;
    p.L = L;
    p.S = S;
    p.E = p.Ev = E;
    p.diagonal = S;
    p.threads = threads;
    p.key.stride[3] = p.value.stride[3] = 1;
    return p;
}

std::size_t scratch_of(Index L, Index S, int threads) {
    return find_tier("simd")->scratch_bytes(problem_of(L, S, threads));
}

}  // namespace

TEST_CASE("the instruction set that ATTN_ISA names is the one that runs") {
    const Tier& simd = *find_tier("simd");
    const Problem p = problem_of(64, 64, 1);
    for (const Copy& copy : copies()) {
        const Setenv force("ATTN_ISA", name_of(copy.isa));
        CHECK(simd.variant(p).starts_with(name_of(copy.isa)));
    }
    Problem bfloat16 = p;
    bfloat16.dtype = DType::bfloat16;
    Problem float16 = p;
    float16.dtype = DType::float16;
    {
        const Setenv force("ATTN_ISA", "avx2");
        CHECK_FALSE(may_use_amx());
    }
    {
        const Setenv force("ATTN_ISA", "amx");
        if (may_use_amx()) {
            CHECK(simd.variant(bfloat16).starts_with("avx512 with amx"));
            CHECK(simd.variant(float16).starts_with("avx512 with amx"));
            CHECK_FALSE(simd.variant(p).starts_with("avx512 with amx"));
        } else {
            CHECK_THROWS_AS(simd.variant(bfloat16), Error);
        }
    }
    const Setenv force("ATTN_ISA", "sse9");
    CHECK_THROWS_AS(simd.variant(p), Error);
}

TEST_CASE("the simd exp2 is within 2^-22 of the true one on every instruction set") {
    // 16 consecutive floats out of each `step`, from -126 up to -2^-30.
    const bool all = testing::environment("ATTN_EXHAUSTIVE") == "1";
    const std::uint32_t step = all ? 16 : 1021;
    const std::uint32_t first = std::bit_cast<std::uint32_t>(-0x1p-30f);
    const std::uint32_t last = std::bit_cast<std::uint32_t>(-126.0f);
    for (const Copy& copy : copies()) {
        CAPTURE(std::string(name_of(copy.isa)));
        double worst = 0;
        for (std::uint64_t bits = first; bits <= last; bits += step) {
            alignas(64) float x[16], y[16];
            for (std::uint32_t n = 0; n < 16; ++n)
                x[n] =
                    std::max(std::bit_cast<float>(static_cast<std::uint32_t>(bits) + n), -126.0f);
            copy.kernels.exp2(x, y, 16);
            for (int n = 0; n < 16; ++n) {
                const double want = std::exp2(static_cast<double>(x[n]));
                const double error = std::abs(static_cast<double>(y[n]) - want) / want;
                if (!(error <= worst)) worst = error;
            }
        }
        MESSAGE(std::string(name_of(copy.isa))
                << ": worst relative error " << worst * 0x1p24 << " x 2^-24");
        CHECK(worst <= 0x1p-22);
    }
}

TEST_CASE("the simd exp2 is exact at 0, 0 at the far end, and keeps NaN") {
    const float inf = std::numeric_limits<float>::infinity();
    const float x[] = {0.0f, -0.0f, -1.0f, -126.0f, -inf, -1e30f, -150.0f, -127.5f, std::nanf("")};
    for (const Copy& copy : copies()) {
        CAPTURE(std::string(name_of(copy.isa)));
        for (float one : x) {
            CAPTURE(one);
            alignas(64) float in[16], out[16];
            std::fill_n(in, 16, one);
            copy.kernels.exp2(in, out, 16);
            for (float got : out) {
                if (std::isnan(one))
                    CHECK(std::isnan(got));
                else if (one >= -126)
                    CHECK(got == std::exp2(one));
                else  // what is left is denormal: flushed by the environment the kernels run in
                    CHECK((got >= 0 && got < std::numeric_limits<float>::min()));
            }
        }
    }
}

TEST_CASE("the simd tier keeps all 11 bits of a float16") {
    // Keys and queries that differ in their last bit, scores and values that show it: with 8 bits
    // the weights of the two keys would be equal, and the last bits of the value lost.
    constexpr Index L = 64, E = 32;
    Tensor query({1, 1, L, E}, DType::float16), key({1, 1, 2, E}, DType::float16);
    Tensor value({1, 1, 2, 1}, DType::float16);
    for (Index i = 0; i < query.size(); ++i) query.set(i, i % E == 0 ? 1 + 0x1p-10 : 0);
    for (Index i = 0; i < key.size(); ++i) key.set(i, i == 0 ? 1 + 0x1p-10 : i == E ? 1 : 0);
    value.set(0, 1 + 0x1p-10);
    value.set(1, 0);
    Options options;
    options.scale = 1024;
    const Tensor out =
        scaled_dot_product_attention(query, key, value, options, Execution{.tier = "simd"});
    const double difference = 1024 * (1 + 0x1p-10) * 0x1p-10;  // of the two scores
    const double want = (1 + 0x1p-10) / (1 + std::exp(-difference));
    for (Index i = 0; i < L; ++i) CHECK(std::abs(out.get(i) - want) <= 0x1p-12 + 0x1p-17);
}

TEST_CASE("the simd tier restores the floating-point environment") {
    const Qkv x = generate("gauss", {1, 2, 2, 70, 70, 24, 24}, 5);
    Execution execution{.tier = "simd", .threads = 2};
    const Tensor want = scaled_dot_product_attention(x.query, x.key, x.value, {}, execution);
    for (int mode : {FE_TONEAREST, FE_UPWARD, FE_TOWARDZERO}) {
        std::fesetround(mode);
        std::feclearexcept(FE_ALL_EXCEPT);
        std::feraiseexcept(FE_OVERFLOW);
        const Tensor got = scaled_dot_product_attention(x.query, x.key, x.value, {}, execution);
        const int mode_after = std::fegetround(), flags = std::fetestexcept(FE_ALL_EXCEPT);
        volatile float tiny = 0x1p-149f;  // still there: denormals are not flushed for the caller
        const float twice = tiny + tiny;
        std::fesetround(FE_TONEAREST);
        std::feclearexcept(FE_ALL_EXCEPT);
        CHECK(mode_after == mode);
        CHECK((flags & FE_OVERFLOW) != 0);
        CHECK((flags & (FE_INVALID | FE_DIVBYZERO)) == 0);
        CHECK(twice == 0x1p-148f);
        // The kernels round to nearest, whatever the caller does.
        Index different = 0;
        for (Index i = 0; i < want.size(); ++i) different += got.get(i) != want.get(i);
        CHECK(different == 0);
    }
}

TEST_CASE("the simd tier's memory is threads times a tile, independent of L and S") {
    CHECK(scratch_of(1024, 1024, 1) == scratch_of(65536, 65536, 1));
    CHECK(scratch_of(1024, 1024, 4) == scratch_of(65536, 65536, 4));
    CHECK(scratch_of(65536, 65536, 4) == 4 * scratch_of(65536, 65536, 1));
    // Few queries: at most 32 parts of the keys.
    CHECK(scratch_of(1, 16384, 4) == scratch_of(1, 1 << 24, 4));
}

TEST_CASE("the simd tier computes 65536 queries against 65536 keys in a tile's memory") {
    constexpr Index n = 65536, E = 8;
    const Qkv x = generate("gauss", {1, 1, 1, n, n, E, E}, 6);
    Tensor out({1, 1, n, E});
    std::vector<std::byte> memory(1 << 20, std::byte{0x7f});
    Options options{.causal = Causal::upper_left};  // half the work
    Execution execution{.tier = "simd", .threads = 4};
    const std::size_t bytes = scratch_bytes(x.query, x.key, x.value, out, options, execution);
    CHECK(bytes < 512 * 1024);
    const auto aligned = (reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64;
    std::byte* const start =
        memory.data() + (aligned - reinterpret_cast<std::uintptr_t>(memory.data()));
    REQUIRE(bytes + 128 < memory.size());
    execution.scratch = {start, bytes};
    scaled_dot_product_attention(x.query, x.key, x.value, out, options, execution);
    for (std::size_t i = 0; i < 64; ++i) CHECK(start[bytes + i] == std::byte{0x7f});

    for (Index i : {Index{0}, Index{12345}, n - 1}) {
        std::vector<double> weight(static_cast<std::size_t>(i + 1));
        double sum = 0;
        for (Index j = 0; j <= i; ++j) {
            double dot = 0;
            for (Index e = 0; e < E; ++e) dot += x.query.get(i * E + e) * x.key.get(j * E + e);
            sum += weight[static_cast<std::size_t>(j)] = std::exp(dot / std::sqrt(double(E)));
        }
        for (Index e = 0; e < E; ++e) {
            double mean = 0;
            for (Index j = 0; j <= i; ++j)
                mean += weight[static_cast<std::size_t>(j)] / sum * x.value.get(j * E + e);
            // A row's |scores| stay below 32 here: 2^-24 (16 + 8 * 32) of the values' size, 4.
            CHECK(std::abs(out.get(i * E + e) - mean) <= 0x1p-24 * (16 + 8 * 32) * 4);
        }
    }
}
