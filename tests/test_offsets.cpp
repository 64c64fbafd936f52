/// \file
/// \brief Offsets beyond 2^31 and 2^32 elements, on sparse memory that costs address space alone,
///        and counts beyond 16 bits.
#include "harness.hpp"

#include <sys/mman.h>

using namespace attn;
using namespace attn::testing;

namespace {

/// Address space that takes memory only where it is touched.
class Sparse {
  public:
    explicit Sparse(std::size_t bytes) : bytes_(bytes) {
        data = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (data == MAP_FAILED) data = nullptr;
    }
    Sparse(const Sparse&) = delete;
    ~Sparse() {
        if (data) munmap(data, bytes_);
    }
    char* data;

  private:
    std::size_t bytes_;
};

/// A (2, 2, 2, n) tensor whose axes are `apart` elements apart, forwards or backwards.
struct Far {
    Sparse memory;
    MutableTensorView view;

    Far(const TensorView& like, Index apart, bool backwards)
        : memory(size_of(like.dtype) * static_cast<std::size_t>(8 * apart)), view() {
        if (!memory.data) return;
        const Index b = 4 * apart, h = 2 * apart, r = apart;
        const Index stride[4] = {backwards ? -b : b, backwards ? -h : h, backwards ? -r : r, 1};
        char* first = memory.data;
        if (backwards) first += (b + h + r) * static_cast<Index>(size_of(like.dtype));
        view = MutableTensorView(first, like.dtype, std::span<const Index>(like.shape, 4), stride);
    }
    void fill(const TensorView& from) const { copy_elements(from, view); }
};

}  // namespace

TEST_CASE("every tier reaches elements beyond 2 to the 31 and 2 to the 32") {
    const Index apart[] = {(Index{1} << 31) / 7 + 3, (Index{1} << 31) + 5, (Index{1} << 32) + 7};
    for (const Tier* tier : tiers_under_test()) {
        if (tier->device != DeviceKind::cpu) continue;  // staging would copy the gaps
        for (Index distance : apart)
            for (bool backwards : {false, true}) {
                const std::string name =
                    std::to_string(distance) + (backwards ? " backwards" : " forwards");
                SUBCASE(subcase(tier, name).c_str()) {
                    const Qkv x = generate("gauss", {2, 2, 2, 2, 2, 40, 33}, 70, DType::float16);
                    Tensor mask({2, 2, 2, 2}, DType::boolean);
                    for (Index i = 0; i < 16; ++i) mask.set(i, i % 5 != 1);
                    Options options;
                    options.mask = mask;
                    if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                    const Output want = run(*tier, x.query, x.key, x.value, options);

                    const Far q(x.query, distance, backwards), k(x.key, distance, backwards),
                        v(x.value, distance, backwards), m(mask, distance, backwards),
                        out(want.out.view, distance, backwards);
                    if (!q.memory.data || !k.memory.data || !v.memory.data || !m.memory.data ||
                        !out.memory.data) {
                        MESSAGE("no address space for distance " << distance);
                        continue;
                    }
                    q.fill(x.query), k.fill(x.key), v.fill(x.value), m.fill(mask.view());
                    options.mask = m.view;
                    Execution execution;
                    execution.tier = tier->name;
                    scaled_dot_product_attention(q.view, k.view, v.view, out.view, options,
                                                 execution);
                    CHECK(first_difference(out.view, want.out.view) == -1);
                }
            }
    }
}

TEST_CASE("every tier counts batches and heads and rows beyond 65536") {
    const Sizes shapes[] = {{70000, 1, 1, 1, 3, 4, 2},
                            {1, 70000, 70000, 1, 3, 4, 2},
                            {1, 70000, 2, 1, 3, 4, 2},
                            {2, 1, 1, 70000, 3, 4, 2},
                            {1, 1, 1, 2, 70000, 4, 2}};
    for (const Tier* tier : tiers_under_test())
        for (const Sizes& s : shapes) {
            const std::string name = std::to_string(s.B) + " " + std::to_string(s.Hq) + " " +
                                     std::to_string(s.H) + " " + std::to_string(s.L) + " " +
                                     std::to_string(s.S);
            SUBCASE(subcase(tier, name).c_str()) {
                const Qkv x = generate("gauss", s, 71, DType::float32);
                Tensor mask({s.L, s.S}, DType::boolean);
                for (Index i = 0; i < mask.size(); ++i) mask.set(i, i % 7 != 2);
                Options options;
                options.mask = mask;
                if (!takes(*tier, x.query, x.key, x.value, options)) continue;
                expect_right(*tier, run(*tier, x.query, x.key, x.value, options),
                             reference(x.query, x.key, x.value, options));
            }
        }
}
