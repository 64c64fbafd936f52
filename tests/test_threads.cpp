/// \file
/// \brief The same bits whatever the thread count, the repetition, or who else is calling; and the
///        caller's floating-point environment as it was.
#include "harness.hpp"

#include <cfenv>
#include <thread>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

using namespace attn;
using namespace attn::testing;

namespace {

Case masked_case(const Sizes& sizes, DType dtype, std::uint64_t seed) {
    Case c;
    c.sizes = sizes;
    c.dtype = dtype;
    c.mask.kind = MaskKind::boolean;
    c.seed = seed;
    return c;
}

const Sizes shapes[] = {{2, 4, 2, 21, 150, 16, 12},
                        {1, 2, 1, 1, 2600, 32, 32},  // decode: keys may be split among threads
                        {1, 1, 1, 95, 40, 16, 16},
                        {1, 2, 2, 600, 130, 16, 12}};  // few threads may take several tiles at once

const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

}  // namespace

TEST_CASE("every tier gives the same bits for any number of threads") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                for (const Sizes& s : shapes) {
                    const Inputs in = make_inputs(masked_case(s, dtype, 80));
                    if (!takes(*tier, in)) continue;
                    const Output one = run(*tier, in, {.threads = 1});
                    for (int threads : {2, 3, 7, 0, 1})
                        expect_same_bits(*tier, one, run(*tier, in, {.threads = threads}));
                }
            }
        }
}

TEST_CASE("every tier gives the same bits every time and after a NaN") {
    for (const Tier* tier : tiers_under_test())
        for (DType dtype : dtypes) {
            SUBCASE(subcase(tier, attn::name_of(dtype)).c_str()) {
                const Inputs in = make_inputs(masked_case(shapes[0], dtype, 81));
                if (!takes(*tier, in)) continue;
                const Output first = run(*tier, in);
                for (int repeat = 0; repeat < (small_scale() ? 3 : 10); ++repeat)
                    expect_same_bits(*tier, first, run(*tier, in));
                Inputs spoilt = make_inputs(masked_case(shapes[0], dtype, 81));
                Tensor nan({1}, dtype);
                nan.set(0, std::numeric_limits<double>::quiet_NaN());
                std::memcpy(spoilt.query.view.data, nan.data(), nan.bytes());
                std::memcpy(spoilt.value.view.data, nan.data(), nan.bytes());
                CHECK(first_difference(run(*tier, spoilt).out.view, first.out.view) != -1);
                expect_same_bits(*tier, first, run(*tier, in));
            }
        }
}

TEST_CASE("every tier may be called by several threads at once") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "four callers").c_str()) {
            constexpr int callers = 4;
            std::vector<Inputs> in;
            std::vector<Output> want;
            for (int t = 0; t < callers; ++t) {
                const Sizes s{1, 2, 2, 20 + t, 60 + 7 * t, 16, 8};
                in.push_back(make_inputs(masked_case(s, DType::float32, 82 + t)));
                if (!takes(*tier, in.back())) break;
                want.push_back(run(*tier, in.back()));
            }
            if (want.size() < callers) continue;
            std::vector<int> wrong(callers, 0);
            std::vector<std::thread> threads;
            for (int t = 0; t < callers; ++t)
                threads.emplace_back([&, t] {
                    for (int repeat = 0; repeat < 20; ++repeat) {
                        Execution execution;
                        execution.tier = tier->name;
                        execution.threads = 1 + t % 2;
                        const Tensor out = scaled_dot_product_attention(
                            in[t].query.view, in[t].key.view, in[t].value.view, in[t].options,
                            execution);
                        wrong[t] += first_difference(out, want[t].out.view) != -1;
                    }
                });
            for (std::thread& thread : threads) thread.join();
            for (int t = 0; t < callers; ++t) CHECK(wrong[t] == 0);
        }
    }
}

TEST_CASE("every tier leaves the floating-point environment as it was") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "environment").c_str()) {
            const Inputs in = make_inputs(masked_case(shapes[0], DType::float32, 83));
            if (!takes(*tier, in)) continue;
            const auto call = [&] {
                Execution execution;
                execution.tier = tier->name;
                scaled_dot_product_attention(in.query.view, in.key.view, in.value.view, in.options,
                                             execution);
            };
            call();
            for (int mode : {FE_TONEAREST, FE_UPWARD}) {
                std::fesetround(mode);
                call();
                const int after = std::fegetround();
                std::fesetround(FE_TONEAREST);
                CHECK(after == mode);
            }
#if defined(__SSE2__)
            // The sticky flags may change; rounding, exception masks, flush to zero and denormals
            // are zero may not, whatever they were: the default, or set by the caller.
            constexpr unsigned control = 0xffc0, plain = 0x1f80, flushing = plain | 0x8040;
            for (unsigned mode : {plain, flushing}) {
                _mm_setcsr(mode);
                call();
                const unsigned after = _mm_getcsr() & control;
                _mm_setcsr(plain);
                CHECK(after == mode);
            }
#endif
        }
    }
}
