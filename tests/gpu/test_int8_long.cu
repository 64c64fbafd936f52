/// \file
/// \brief Long inputs of `cuda_int8`: the integers of its pre-pass do not depend on how many heads share
///        the work, and `wgmma` takes what it can. Needs a GPU.
#include "cuda_int8.hpp"
#include "cuda_mma_plan.hpp"
#include "device.hpp"
#include "device_memory.hpp"

#include <attn/generate.hpp>
#include <attn/tier.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

using namespace attn;
using namespace attn::gpu;
using namespace attn::testing;

namespace {

/// What the pre-pass makes of heads that all lie in the same place: (heads, .) each.
struct Quantized {
    std::vector<std::int8_t> query, key;
    std::vector<float> factor, scale, query_square, key_square;
    std::vector<std::uint8_t> without;
    std::vector<KeyBlock> blocks;

    Quantized(const TensorView& q, const TensorView& k, Index heads) {
        Int8Problem p;
        Problem& problem = p.problem;
        problem.B = 1, problem.H = problem.Hq = heads;
        problem.L = q.shape[2], problem.S = k.shape[2], problem.E = q.shape[3], problem.Ev = 1;
        problem.dtype = q.dtype, problem.scale = 1, problem.diagonal = problem.S;
        problem.query = q, problem.key = k;
        problem.query.stride[1] = problem.key.stride[1] = 0;
        const int head_dim = int8_head_dim(problem);
        const Index rows = round_up(problem.L, int8_tile_rows(head_dim));
        const Index of_64 = (problem.S + 63) / 64;
        const auto all = [&](Index of_head) { return static_cast<std::size_t>(heads * of_head); };
        const Device<std::int8_t> queries(all(rows * head_dim)), keys(all(of_64 * 64 * head_dim));
        const Device<float> factors(all(rows)), shifts(all(rows)), query_squares(all(rows)),
            scales(all(of_64 * 64)), means(all(head_dim)), key_squares(all(of_64));
        const Device<std::uint8_t> without_integers(all(rows)), floating(all(1)),
            again(all(rows / int8_tile_rows(head_dim)));
        const Device<KeyBlock> found(all(of_64));
        const Device<unsigned long long> next(1);
        p.wide_query = wide(problem.query), p.wide_key = wide(problem.key);
        REQUIRE((p.wide_query && p.wide_key));  // whole rows: else other kernels are asked
        p.keys = {heads,        of_64,        head_dim,        keys.data(),       scales.data(),
                  found.data(), means.data(), floating.data(), key_squares.data()};
        p.queries = {rows,          queries.data(),          factors.data(),
                     shifts.data(), without_integers.data(), query_squares.data()};
        p.again = again.data(), p.next_block = next.data();
        quantize(p, Masking::none, nullptr);
        must(cudaDeviceSynchronize());
        query = queries.fetch(), key = keys.fetch();
        factor = factors.fetch(), scale = scales.fetch();
        query_square = query_squares.fetch(), key_square = key_squares.fetch();
        without = without_integers.fetch(), blocks = found.fetch();
    }
};

/// How many heads of `many` differ from the only one of `one`.
template <class T>
int heads_other_than(const std::vector<T>& one, const std::vector<T>& many) {
    REQUIRE(many.size() % one.size() == 0);
    int other = 0;
    for (std::size_t at = 0; at < many.size(); at += one.size())
        other += std::memcmp(many.data() + at, one.data(), one.size() * sizeof(T)) != 0;
    return other;
}

}  // namespace

// A warp of the pre-pass takes the more tiles in turn, the more there are. Seven and eight tiles a head:
// parts of two, four and eight tiles, the last one of a head shorter.
TEST_CASE("the integers of many heads on the GPU are those of one") {
    if (skipped()) return;
    const Index rows = 400;
    for (DType dtype : {DType::float32, DType::bfloat16})
        for (Index E : {64, 128}) {
            Qkv x = generate("key_bias_sharp", {1, 1, 1, rows, rows, E, 1}, 6, dtype);
            x.query.set(131 * E + 5, std::numeric_limits<double>::infinity());
            x.key.set(200 * E + 63, std::numeric_limits<double>::quiet_NaN());
            const Rows query(x.query, rows, E, 1), key(x.key, rows, E, 1);
            const Quantized one(query.view, key.view, 1);
            for (Index heads : {2, 1200, 2400, 4800}) {
                INFO(name_of(dtype) << " E " << E << " heads " << heads);
                const Quantized many(query.view, key.view, heads);
                CHECK(heads_other_than(one.query, many.query) == 0);
                CHECK(heads_other_than(one.key, many.key) == 0);
                CHECK(heads_other_than(one.factor, many.factor) == 0);
                CHECK(heads_other_than(one.scale, many.scale) == 0);
                CHECK(heads_other_than(one.query_square, many.query_square) == 0);
                CHECK(heads_other_than(one.key_square, many.key_square) == 0);
                CHECK(heads_other_than(one.without, many.without) == 0);
                CHECK(heads_other_than(one.blocks, many.blocks) == 0);
            }
        }
}

TEST_CASE("the long inputs of cuda_int8 go through wgmma where they can") {
    if (skipped()) return;
    const Index L = 1024;
    struct Mask {
        MaskKind kind;
        DType dtype;
    };
    for (Index E : {64, 128, 256})
        for (const Mask& m :
             {Mask{MaskKind::none, DType::boolean}, Mask{MaskKind::boolean, DType::boolean},
              Mask{MaskKind::additive, DType::bfloat16},
              Mask{MaskKind::additive, DType::float32}}) {
            CAPTURE(E);
            const Index shape[] = {1, 2, L, E}, mask_shape[] = {1, 1, L, L};
            const Device<std::uint16_t> memory(static_cast<std::size_t>(2 * L * E));
            const Device<float> mask(static_cast<std::size_t>(L * L));
            Problem p;
            p.B = 1, p.H = p.Hq = 2, p.L = p.S = L, p.E = p.Ev = E, p.scale = 0.1, p.diagonal = L;
            p.dtype = DType::bfloat16;
            p.query = p.key = p.value = TensorView(memory.data(), p.dtype, shape);
            p.mask_kind = m.kind;
            if (m.kind != MaskKind::none) {
                p.mask = TensorView(mask.data(), m.dtype, mask_shape);
                p.mask.stride[1] = 0;  // both heads share it
            }
            const std::string text = find_tier("cuda_int8")->variant(p);
            INFO(text);
            const bool can = has_wgmma() && E <= 128;
            CHECK((text.find("wgmma") != std::string::npos) == can);
        }
}
