/// \file
/// \brief Every integer, step and mean of `cuda_int8` is that of quantize.hpp, bit for bit: those of
///        the pre-pass, and those of queries as the fused kernel makes them. Needs a GPU.
#include "cuda_int8_whole.cuh"
#include "cuda_mma_plan.hpp"
#include "device.hpp"
#include "device_memory.hpp"

#include <attn/generate.hpp>
#include <attn/tier.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using namespace attn;
using namespace attn::gpu;
using namespace attn::testing;

namespace {

struct Head {
    Index L, S, E;
    DType dtype;
    Index diagonal = Index{1} << 40;
    bool masked = false;  ///< a boolean mask hides every fifth key, which holds NaN
    bool bits = false;    ///< the mask reaches the pre-pass as bits and classes
    Index spoilt = -1;    ///< a visible key with an infinity
    Index spread = 1;     ///< distance of neighbouring elements of a row
};

struct Model {
    std::vector<int> integers;  ///< (S, E)
    std::vector<float> scale, mean;
    std::vector<int> used;       ///< 1: a seen key with integers, 2: one without
    std::vector<bool> integral;  ///< the key has integers, seen or not
};

std::uint32_t largest(const std::vector<float>& row) {
    std::uint32_t most = 0;
    for (float x : row) most = std::max(most, magnitude(x));
    return most;
}

std::vector<float> row_of(const Tensor& t, Index row, Index E) {
    std::vector<float> x(static_cast<std::size_t>(E));
    for (Index e = 0; e < E; ++e) x[e] = static_cast<float>(t.get(row * E + e));
    return x;
}

Model model(const Head& c, const Tensor& key, const std::vector<std::uint8_t>& mask) {
    Model m;
    std::vector<std::vector<float>> keys;
    for (Index j = 0; j < c.S; ++j) {
        keys.push_back(row_of(key, j, c.E));
        const bool seen = j < c.L + c.diagonal && (!c.masked || mask[j] != 0);
        m.integral.push_back(quantizable(largest(keys.back())));
        m.used.push_back(!seen ? 0 : m.integral.back() ? 1 : 2);
    }
    for (Index e = 0; e < c.E; ++e) {
        ChannelMean channel;
        for (Index j = 0; j < c.S; ++j) {
            if (m.used[j] == 1 && counts_for_mean(j, c.S)) channel.add(keys[j][e]);
            if (j % smoothing_block == smoothing_block - 1) channel.end_block();
        }
        channel.end_block();
        m.mean.push_back(channel.mean());
    }
    for (Index j = 0; j < c.S; ++j) {
        Quantizer quantizer;
        if (m.integral[j]) {
            for (Index e = 0; e < c.E; ++e) keys[j][e] -= m.mean[e];
            rotate(keys[j].data(), c.E, Operand::key);
            quantizer = Quantizer(largest(keys[j]));
        }
        m.scale.push_back(quantizer.scale);
        for (Index e = 0; e < c.E; ++e)
            m.integers.push_back(m.integral[j] ? quantizer(keys[j][e]) : 0);
    }
    return m;
}

/// What the fused kernel calls for its queries: 64 rows of one head.
template <class T, int HeadDim>
__global__ void __launch_bounds__(128)
    dump_whole_queries(const Problem p, const float* mean, std::int8_t* integers,
                       QueryScales scales) {
    using Staged = StagedRows<T, HeadDim>;
    __shared__ __align__(1024) unsigned char staging[64 * Staged::row_bytes];
    const int thread = static_cast<int>(threadIdx.x);
    Staged::template copy<64, 128>(shared_address(staging), static_cast<const T*>(p.query.data),
                                   p.query.stride[2], p.L, thread);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const RowHalf at(thread);
    float x[HeadDim / 2];
    const float largest = Staged::read(x, staging, at.row, at.half);
    const auto to = [&](int piece) {
        return reinterpret_cast<uint4*>(
            integers + swizzled<HeadDim>(at.row, at.half * (HeadDim / 32) + piece));
    };
    round_query<HeadDim>(x, at, at.half == 0 ? 1.0f : -1.0f, has_integers(largest), mean, 1.0f,
                         1.0f, to, scales);
}

/// Where the pre-pass puts channel e of key j: tiles are copied to shared memory as they lie.
std::uint32_t place_of(Index j, Index e, int head_dim) {
    const int row = static_cast<int>(j), piece = static_cast<int>(e / 16);
    const std::uint32_t at = head_dim == 64    ? swizzled<64>(row, piece)
                             : head_dim == 128 ? swizzled<128>(row, piece)
                                               : swizzled<256>(row, piece);
    return at + static_cast<std::uint32_t>(e % 16);
}

}  // namespace

TEST_CASE("the integers of keys on the GPU are those of the algebra") {
    if (skipped()) return;
    const DType f32 = DType::float32, f16 = DType::float16, bf16 = DType::bfloat16;
    const Head heads[] = {{1, 1, 1, f32},
                          {3, 70, 8, f16},
                          {5, 300, 40, bf16},
                          {70, 64, 64, f16},
                          {64, 65, 64, bf16, 3},
                          {2, 513, 128, f16},
                          {200, 2100, 128, bf16, 0},
                          {9, 190, 128, f32, 100},
                          {4, 129, 203, f16},
                          {4, 130, 256, bf16},
                          {4, 2500, 256, f32},
                          {130, 200, 64, f16, 50, true},
                          {130, 200, 128, bf16, Index{1} << 40, true, true},
                          {130, 200, 72, f32, 20, true, true},
                          {6, 150, 64, f16, Index{1} << 40, false, false, 77},
                          {6, 150, 128, bf16, Index{1} << 40, false, false, 149, 3}};
    for (const Head& c : heads) {
        INFO("L " << c.L << " S " << c.S << " E " << c.E << " " << name_of(c.dtype));
        Tensor key = generate("key_bias", {1, 1, 1, c.L, c.S, c.E, 1}, 3, c.dtype).key;
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(c.S), 1);
        for (Index j = 0; c.masked && j < c.S; j += 5) {
            mask[j] = 0;
            key.set(j * c.E, std::numeric_limits<double>::quiet_NaN());
        }
        if (c.spoilt >= 0) key.set(c.spoilt * c.E + 1, std::numeric_limits<double>::infinity());
        const Model want = model(c, key, mask);

        const Rows rows(key, c.S, c.E, c.spread);
        Int8Problem p;
        Problem& problem = p.problem;
        problem.L = c.L, problem.S = c.S, problem.E = c.E, problem.Ev = 1;
        problem.dtype = c.dtype;
        problem.key = rows.view;
        problem.diagonal = std::min(c.diagonal, c.S);
        // Column j of a mask with one row, or the same row for every query.
        Device<std::uint8_t> mask_memory(static_cast<std::size_t>(c.L * c.S));
        for (Index i = 0; i < c.L; ++i)
            must(cudaMemcpy(mask_memory.data() + i * c.S, mask.data(), mask.size(),
                            cudaMemcpyDefault));
        if (c.masked) {
            const Index shape[] = {1, 1, c.L, c.S};
            problem.mask = TensorView(mask_memory.data(), DType::boolean, shape);
            problem.mask.device = 0;
            problem.mask_kind = MaskKind::boolean;
        }
        const Index blocks = (c.S + 63) / 64;
        const int head_dim = int8_head_dim(problem);
        const std::size_t of_64 = static_cast<std::size_t>(blocks);
        const Device<std::int8_t> integers(of_64 * 64 * head_dim);
        const Device<float> scale(of_64 * 64), mean(head_dim);
        const Device<KeyBlock> found(of_64);
        const Device<std::uint8_t> floating(1);
        const Device<std::uint32_t> words(static_cast<std::size_t>(c.L) * of_64 * 2);
        const Device<std::uint8_t> classes(static_cast<std::size_t>((c.L + 63) / 64) * of_64);
        p.wide_key = wide(problem.key);
        p.keys = {
            1,           blocks,         head_dim, integers.data(), scale.data(), found.data(),
            mean.data(), floating.data()};
        if (c.bits) {
            p.mask = words.data();
            p.mask_stride = {0, 0, 2 * blocks};
            p.tile_class = classes.data();
            p.class_stride = {0, 0, blocks};
            pack_mask(problem.mask, words.data(), p.mask_stride, classes.data(), p.class_stride,
                      nullptr);
        }
        quantize(p, c.bits ? Masking::bits : Masking::none, nullptr);
        must(cudaDeviceSynchronize());

        const auto got = integers.fetch();
        const auto got_scale = scale.fetch(), got_mean = mean.fetch();
        const auto got_found = found.fetch();
        int different = 0;
        for (Index j = 0; j < blocks * 64; ++j) {
            for (Index e = 0; e < head_dim; ++e)
                different += got[place_of(j, e, head_dim)] !=
                             (j < c.S && e < c.E ? want.integers[j * c.E + e] : 0);
            different += std::bit_cast<std::uint32_t>(got_scale[j]) !=
                         std::bit_cast<std::uint32_t>(j < c.S ? want.scale[j] : 0.0f);
            const KeyBlock& block = got_found[j / 64];
            different += (block.integer >> (j % 64) & 1) != (j < c.S && want.integral[j]);
            different += (block.floating >> (j % 64) & 1) != (j < c.S && want.used[j] == 2);
        }
        for (Index e = 0; e < c.E; ++e)
            different += std::bit_cast<std::uint32_t>(got_mean[e]) !=
                         std::bit_cast<std::uint32_t>(want.mean[e]);
        CHECK(different == 0);
        CHECK((floating.fetch()[0] != 0) == (c.spoilt >= 0));
    }
}

TEST_CASE("the integers of queries on the GPU are those of the algebra") {
    if (skipped()) return;
    for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
        for (Index E : {1, 8, 16, 17, 40, 64, 72, 96, 128, 200, 256})
            for (Index spread : {1, 3})
                for (bool fused : {false, true}) {
                    if (fused && (spread != 1 || (E != 64 && E != 128))) continue;
                    INFO(name_of(dtype) << " E " << E << " spread " << spread
                                        << (fused ? ", as in the fused kernel" : ""));
                    const Index L = 61;
                    Qkv x = generate("key_bias_sharp", {1, 1, 1, L, 1, E, 1}, 5, dtype);
                    Tensor& query = x.query;
                    query.set(7 * E, std::numeric_limits<double>::quiet_NaN());
                    query.set(8 * E + (E > 1), std::numeric_limits<double>::quiet_NaN());
                    query.set(12 * E + E - 1, -std::numeric_limits<double>::infinity());
                    for (Index e = 0; e < E; ++e) query.set(9 * E + e, 0);
                    const Rows rows(query, L, E, spread), key_rows(x.key, 1, E, spread);
                    Int8Problem p;
                    Problem& problem = p.problem;
                    problem.B = problem.H = problem.Hq = 1;
                    problem.L = L, problem.S = 1, problem.E = E, problem.Ev = 1;
                    problem.dtype = dtype, problem.scale = 1, problem.diagonal = 1;
                    problem.query = rows.view, problem.key = key_rows.view;
                    const int head_dim = int8_head_dim(problem);
                    const Index padded = int8_tile_rows(head_dim);
                    const std::size_t all = static_cast<std::size_t>(padded);
                    const Device<std::int8_t> integers(all * head_dim);
                    const Device<float> factor(all), shift(all);
                    const Device<std::uint8_t> without(all);
                    const Device<std::int8_t> key_integers(std::size_t{64} * head_dim);
                    const Device<float> key_scale(64), mean(head_dim);
                    const Device<KeyBlock> found(1);
                    const Device<std::uint8_t> floating(1), again(1);
                    const Device<unsigned long long> next(1);
                    p.wide_query = wide(problem.query), p.wide_key = wide(problem.key);
                    p.keys = {1,
                              1,
                              head_dim,
                              key_integers.data(),
                              key_scale.data(),
                              found.data(),
                              mean.data(),
                              floating.data()};
                    p.queries = {padded, integers.data(), factor.data(), shift.data(),
                                 without.data()};
                    p.again = again.data(), p.next_block = next.data();
                    const QueryScales scales{factor.data(), shift.data(), without.data()};
                    const auto dump = [&]<class T>(T) {
                        if (E == 64)
                            dump_whole_queries<T, 64>
                                <<<1, 128>>>(problem, nullptr, integers.data(), scales);
                        else
                            dump_whole_queries<T, 128>
                                <<<1, 128>>>(problem, nullptr, integers.data(), scales);
                    };
                    if (!fused)
                        quantize(p, Masking::additive, nullptr);  // natural units
                    else if (dtype == DType::float32)
                        dump(float{});
                    else if (dtype == DType::float16)
                        dump(float16{});
                    else
                        dump(bfloat16{});
                    must(cudaGetLastError());
                    must(cudaDeviceSynchronize());
                    const auto got = integers.fetch();
                    const auto got_factor = factor.fetch();
                    const auto got_without = without.fetch();
                    int different = 0;
                    for (Index i = 0; i < (fused ? 64 : padded); ++i) {
                        std::vector<float> row(static_cast<std::size_t>(E));
                        if (i < L) row = row_of(query, i, E);
                        const bool bad = !quantizable(largest(row));
                        if (bad) std::fill(row.begin(), row.end(), 0.0f);
                        rotate(row.data(), E, Operand::query);
                        const Quantizer quantizer(largest(row));
                        for (Index e = 0; e < head_dim; ++e)
                            different +=
                                got[place_of(i, e, head_dim)] != (e < E ? quantizer(row[e]) : 0);
                        different += got_factor[i] != std::max(quantizer.scale, 0x1p-126f);
                        different += (got_without[i] != 0) != bad;
                    }
                    CHECK(different == 0);
                    if (!fused) {
                        CHECK(again.fetch()[0] == 0);
                        CHECK(next.fetch()[0] == 0);
                    }
                }
}
