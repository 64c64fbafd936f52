/// \file
/// \brief Every integer, step and mean of `cuda_int8` is that of quantize.hpp, bit for bit: those of
///        the pre-pass, and those of queries as the fused kernel makes them. And which kernels a
///        problem takes. Needs a GPU.
#include "cuda_int8_whole.cuh"
#include "cuda_mma_plan.hpp"
#include "device.hpp"

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

namespace {

void must(cudaError_t code) { REQUIRE_MESSAGE(code == cudaSuccess, cudaGetErrorString(code)); }

template <class T>
class Device {
  public:
    explicit Device(std::size_t count) : count_(count) {
        must(cudaMalloc(&data_, (count + 1) * sizeof(T)));
        must(cudaMemset(data_, 0xff, (count + 1) * sizeof(T)));
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device() { cudaFree(data_); }
    T* data() const { return data_; }
    std::vector<T> fetch() const {
        std::vector<T> host(count_);
        must(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDefault));
        return host;
    }
    void send(const void* from, std::size_t bytes) {
        must(cudaMemcpy(data_, from, bytes, cudaMemcpyDefault));
    }

  private:
    T* data_ = nullptr;
    std::size_t count_;
};

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

/// A tensor's rows on the device, elements `spread` apart.
struct Rows {
    Device<std::byte> memory;
    TensorView view;
    Rows(const Tensor& from, Index rows, Index E, Index spread)
        : memory(static_cast<std::size_t>(rows * E * spread + 1) * size_of(from.dtype())) {
        const std::size_t size = size_of(from.dtype());
        std::vector<std::byte> host(static_cast<std::size_t>(rows * E * spread + 1) * size);
        for (Index i = 0; i < rows * E; ++i)
            std::memcpy(
                host.data() + static_cast<std::size_t>(i * spread) * size,
                static_cast<const std::byte*>(from.data()) + static_cast<std::size_t>(i) * size,
                size);
        memory.send(host.data(), host.size());
        const Index shape[] = {1, 1, rows, E};
        view = TensorView(memory.data(), from.dtype(), shape);
        view.stride[0] = view.stride[1] = rows * E * spread;
        view.stride[2] = E * spread, view.stride[3] = spread;
        view.device = 0;
    }
};

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

bool skipped() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
    cudaGetLastError();
    MESSAGE("ATTN-SKIP: no GPU");
    return true;
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
        bool can;
    };
    for (Index E : {64, 128, 256})
        for (const Mask& m : {Mask{MaskKind::none, DType::boolean, true},
                              Mask{MaskKind::boolean, DType::boolean, true},
                              Mask{MaskKind::additive, DType::bfloat16, true},
                              Mask{MaskKind::additive, DType::float32, false}}) {
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
            const bool can = has_wgmma() && E <= 128 && m.can;
            CHECK((text.find("wgmma") != std::string::npos) == can);
        }
}
