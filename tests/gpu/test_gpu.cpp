/// \file
/// \brief What only tests that hold device memory can ask of the GPU tiers: tensors used where they
///        lie, streams, graphs, threads, scratch, offsets; and the shapes for the sanitizers.
#include "harness.hpp"

#include <cuda_runtime.h>

#include <array>
#include <span>
#include <thread>

using namespace attn;
using namespace attn::testing;

namespace {

void must(cudaError_t code) { REQUIRE_MESSAGE(code == cudaSuccess, cudaGetErrorString(code)); }

/// Device memory of exactly the bytes asked for, so that a sanitizer sees each overrun.
class Buffer {
  public:
    explicit Buffer(std::size_t bytes) : bytes_(bytes) {
        if (bytes > 0) must(cudaMalloc(&data_, bytes));
    }
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
    ~Buffer() { cudaFree(data_); }
    std::byte* data() const { return static_cast<std::byte*>(data_); }
    std::size_t bytes() const { return bytes_; }

  private:
    void* data_ = nullptr;
    std::size_t bytes_;
};

/// A host tensor's memory, gaps and margins included, on the device, and its view there.
struct OnGpu {
    Buffer memory;
    MutableTensorView view;

    explicit OnGpu(const Laid& laid) : memory(laid.memory.bytes()), view(laid.view) {
        if (laid.view.absent()) return;
        must(cudaMemcpy(memory.data(), laid.memory.data(), memory.bytes(), cudaMemcpyDefault));
        view.data = memory.data() + (static_cast<const std::byte*>(laid.view.data) -
                                     static_cast<const std::byte*>(laid.memory.data()));
        view.device = 0;
    }
    void fetch(Laid& laid) const {
        must(cudaMemcpy(laid.memory.data(), memory.data(), memory.bytes(), cudaMemcpyDefault));
    }
};

/// Inputs and outputs of a case on the device.
struct GpuCase {
    Inputs in;
    Output to;
    OnGpu query, key, value, mask, out, logsumexp;
    Options options;

    static Output outputs(const Case& c) {
        const Layout layout = c.layout == Layout::expanded ? Layout::odd : c.layout;
        const Sizes& s = c.sizes;
        Output to{lay_out({s.B, s.Hq, s.L, s.Ev}, c.dtype, layout),
                  lay_out({s.B, s.Hq, s.L, 1},
                          c.dtype == DType::float64 ? DType::float64 : DType::float32, layout)};
        to.logsumexp.view.rank = 3;
        std::memset(to.out.memory.data(), 0xff, to.out.memory.bytes());
        std::memset(to.logsumexp.memory.data(), 0xff, to.logsumexp.memory.bytes());
        return to;
    }
    explicit GpuCase(const Case& c)
        : in(make_inputs(c)),
          to(outputs(c)),
          query(in.query),
          key(in.key),
          value(in.value),
          mask(in.mask),
          out(to.out),
          logsumexp(to.logsumexp),
          options(in.options) {
        if (!in.options.mask.absent()) options.mask = mask.view;
    }
    void run(const Tier& tier, cudaStream_t stream = nullptr,
             std::span<std::byte> scratch = {}) const {
        Execution execution;
        execution.tier = tier.name;
        execution.stream = stream;
        execution.logsumexp = logsumexp.view;
        execution.scratch = scratch;
        scaled_dot_product_attention(query.view, key.view, value.view, out.view, options,
                                     execution);
    }
    std::size_t scratch_bytes(const Tier& tier) const {
        Execution execution;
        execution.tier = tier.name;
        execution.logsumexp = logsumexp.view;
        return attn::scratch_bytes(query.view, key.view, value.view, out.view, options, execution);
    }
    std::vector<std::byte> bits() const {
        must(cudaDeviceSynchronize());
        std::vector<std::byte> all(out.memory.bytes() + logsumexp.memory.bytes());
        must(cudaMemcpy(all.data(), out.memory.data(), out.memory.bytes(), cudaMemcpyDefault));
        must(cudaMemcpy(all.data() + out.memory.bytes(), logsumexp.memory.data(),
                        logsumexp.memory.bytes(), cudaMemcpyDefault));
        return all;
    }
};

std::vector<const Tier*> gpu_tiers() {
    std::vector<const Tier*> list;
    for (const Tier* tier : tiers_under_test())
        if (tier->device == DeviceKind::gpu) list.push_back(tier);
    return list;
}

Case make_case(const char* name, Sizes sizes, DType dtype, MaskKind mask = MaskKind::none,
               Causal causal = Causal::none) {
    Case c;
    c.name = name;
    c.sizes = sizes;
    c.dtype = dtype;
    c.mask.kind = mask;
    c.causal = causal;
    return c;
}

/// One case for each kernel of the ladder.
const std::vector<Case>& kernels() {
    static const std::vector<Case> list = {
        make_case("main 64", {2, 4, 2, 200, 300, 64, 64}, DType::float16),
        make_case("main 128 causal", {1, 2, 2, 200, 200, 128, 128}, DType::bfloat16, MaskKind::none,
                  Causal::lower_right),
        make_case("main 256", {1, 2, 1, 70, 130, 200, 256}, DType::float16),
        make_case("boolean", {2, 2, 2, 130, 190, 64, 64}, DType::bfloat16, MaskKind::boolean),
        make_case("additive", {1, 2, 2, 130, 190, 128, 128}, DType::float16, MaskKind::additive),
        make_case("split", {2, 8, 2, 1, 1000, 128, 128}, DType::bfloat16),
        make_case("packed", {1, 2, 2, 90, 70, 33, 47}, DType::float16),
        make_case("float32", {1, 2, 2, 150, 150, 64, 64}, DType::float32, MaskKind::none,
                  Causal::upper_left),
        // Too long for one kernel: the pre-pass of cuda_int8.
        make_case("long 64", {1, 2, 2, 600, 600, 64, 64}, DType::float16),
        make_case("long 128 causal", {1, 2, 1, 600, 1100, 128, 128}, DType::bfloat16,
                  MaskKind::none, Causal::lower_right),
        make_case("long float32", {1, 2, 2, 530, 300, 72, 40}, DType::float32),
        make_case("long boolean", {2, 2, 2, 530, 300, 128, 128}, DType::float16, MaskKind::boolean),
        make_case("long additive", {1, 2, 2, 530, 300, 64, 64}, DType::bfloat16,
                  MaskKind::additive),
    };
    return list;
}

}  // namespace

TEST_CASE("the device tensors of every layout are used where they lie") {
    for (const Tier* tier : gpu_tiers())
        for (const Case& c : cases()) {
            if (!c.quick) continue;
            const GpuCase gpu(c);
            if (!takes(*tier, gpu.in)) continue;
            CAPTURE(std::string(tier->name) + ": " + c.name);
            gpu.run(*tier);
            must(cudaDeviceSynchronize());
            Output got = GpuCase::outputs(c);
            gpu.out.fetch(got.out);
            gpu.logsumexp.fetch(got.logsumexp);
            CHECK(margins_untouched(got.out, 0xff));
            CHECK(margins_untouched(got.logsumexp, 0xff));
            expect_right(
                *tier, got,
                reference(gpu.in.query.view, gpu.in.key.view, gpu.in.value.view, gpu.in.options));
        }
}

TEST_CASE("the same bits come out of a hundred runs") {
    for (const Tier* tier : gpu_tiers())
        for (const Case& c : kernels()) {
            const GpuCase gpu(c);
            if (!takes(*tier, gpu.in)) continue;
            CAPTURE(std::string(tier->name) + ": " + c.name);
            gpu.run(*tier);
            const auto first = gpu.bits();
            int different = 0;
            for (int i = 0; i < 100; ++i) {
                must(cudaMemset(gpu.out.memory.data(), 0xff, gpu.out.memory.bytes()));
                gpu.run(*tier);
                different += gpu.bits() != first;
            }
            CHECK(different == 0);
        }
}

TEST_CASE("the call can be captured into a graph and replayed on new inputs") {
    for (const Tier* tier : gpu_tiers())
        for (const Case& c : kernels()) {
            const GpuCase gpu(c);
            if (!takes(*tier, gpu.in)) continue;
            CAPTURE(std::string(tier->name) + ": " + c.name);
            cudaStream_t stream;
            cudaGraph_t graph;
            cudaGraphExec_t replay;
            must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
            must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
            gpu.run(*tier, stream);
            must(cudaStreamEndCapture(stream, &graph));
            must(cudaGraphInstantiate(&replay, graph, 0));
            for (int i = 0; i < 3; ++i) {
                // Other queries: the keys' first bytes. The graph must read them, not what it saw.
                if (i == 2)
                    must(cudaMemcpy(gpu.query.memory.data(), gpu.key.memory.data(),
                                    std::min(gpu.query.memory.bytes(), gpu.key.memory.bytes()),
                                    cudaMemcpyDefault));
                const auto poison = [&] {  // the stream waits for no other
                    must(cudaMemset(gpu.out.memory.data(), 0xff, gpu.out.memory.bytes()));
                    must(cudaDeviceSynchronize());
                };
                poison();
                must(cudaGraphLaunch(replay, stream));
                must(cudaStreamSynchronize(stream));
                const auto replayed = gpu.bits();
                poison();
                gpu.run(*tier, stream);
                must(cudaStreamSynchronize(stream));
                CHECK(gpu.bits() == replayed);
            }
            cudaGraphExecDestroy(replay);
            cudaGraphDestroy(graph);
            cudaStreamDestroy(stream);
        }
}

TEST_CASE("the results do not depend on other threads and streams") {
    constexpr int threads = 8;
    for (const Tier* tier : gpu_tiers()) {
        std::vector<const Case*> mine;
        std::vector<GpuCase> problems;
        std::vector<std::vector<std::byte>> want;
        for (const Case& c : kernels()) {
            problems.emplace_back(c);
            if (!takes(*tier, problems.back().in)) {
                problems.pop_back();
                continue;
            }
            problems.back().run(*tier);
            want.push_back(problems.back().bits());
        }
        std::array<std::string, threads> failed;
        std::vector<std::thread> pool;
        for (int t = 0; t < static_cast<int>(problems.size()) && t < threads; ++t)
            pool.emplace_back([&, t] {
                try {
                    cudaStream_t stream;
                    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
                    for (int i = 0; i < 50; ++i) problems[t].run(*tier, stream);
                    if (cudaStreamSynchronize(stream) != cudaSuccess) failed[t] = "CUDA error";
                    cudaStreamDestroy(stream);
                } catch (const std::exception& error) {
                    failed[t] = error.what();
                }
            });
        for (std::thread& thread : pool) thread.join();
        for (const std::string& message : failed) CHECK_MESSAGE(message.empty(), message);
        for (std::size_t t = 0; t < problems.size(); ++t) CHECK(problems[t].bits() == want[t]);
    }
}

TEST_CASE("the caller's scratch is enough and nothing beyond it is touched") {
    for (const Tier* tier : gpu_tiers())
        for (const Case& c : kernels()) {
            const GpuCase gpu(c);
            if (!takes(*tier, gpu.in)) continue;
            CAPTURE(std::string(tier->name) + ": " + c.name);
            gpu.run(*tier);
            const auto want = gpu.bits();
            const std::size_t bytes = gpu.scratch_bytes(*tier);
            if (bytes == 0) continue;
            const Buffer scratch(bytes + 256);
            must(cudaMemset(scratch.data(), 0xff, bytes + 256));
            gpu.run(*tier, nullptr, {scratch.data(), bytes});
            CHECK(gpu.bits() == want);
            std::vector<std::byte> behind(256);
            must(cudaMemcpy(behind.data(), scratch.data() + bytes, 256, cudaMemcpyDefault));
            for (std::byte b : behind) CHECK(b == std::byte{0xff});
        }
}

TEST_CASE("the offsets of device tensors may exceed 2 to the 32 elements") {
    std::size_t available = 0, total = 0;
    must(cudaMemGetInfo(&available, &total));
    const Index S = 40, E = 64,
                apart = (Index{1} << 32) / (S - 1) + 8;  // elements, a multiple of 8
    const std::size_t bytes = static_cast<std::size_t>(apart * S) * 2;
    if (available < bytes + (std::size_t{1} << 30)) {
        std::printf("ATTN-SKIP: %zu bytes of device memory are needed\n", bytes);
        return;
    }
    for (const Tier* tier : gpu_tiers()) {
        CAPTURE(std::string(tier->name));
        for (Index L : {Index{3}, Index{100}}) {
            const Case c = make_case("far", {1, 2, 2, L, S, E, E}, DType::float16);
            const GpuCase gpu(c);
            gpu.run(*tier);
            const auto want = gpu.bits();
            // Key and value rows of both heads next to each other, then far from the next row.
            const Buffer far(bytes);
            const Index step = apart / 8 * 8;
            const auto spread = [&](const OnGpu& from, Index at) {
                MutableTensorView view = from.view;
                view.data = far.data() + 2 * at;
                view.stride[0] = 0, view.stride[1] = E, view.stride[2] = step;
                for (Index h = 0; h < 2; ++h)
                    must(cudaMemcpy2D(
                        far.data() + 2 * (at + h * E), static_cast<std::size_t>(2 * step),
                        static_cast<std::byte*>(from.view.data) + 2 * h * S * E,
                        static_cast<std::size_t>(2 * E), static_cast<std::size_t>(2 * E),
                        static_cast<std::size_t>(S), cudaMemcpyDefault));
                return view;
            };
            const auto key = spread(gpu.key, 0), value = spread(gpu.value, 4 * E);
            Execution execution;
            execution.tier = tier->name;
            execution.logsumexp = gpu.logsumexp.view;
            must(cudaMemset(gpu.out.memory.data(), 0xff, gpu.out.memory.bytes()));
            scaled_dot_product_attention(gpu.query.view, key, value, gpu.out.view, {}, execution);
            CHECK(gpu.bits() == want);
        }
    }
}

namespace {

struct Shape {
    Sizes s;
    DType dtype;
    MaskKind mask;
    Causal causal;
};

/// On every GPU tier, in buffers without a byte to spare.
void expect_right_shapes(std::span<const Shape> shapes) {
    for (const Tier* tier : gpu_tiers())
        for (const Shape& shape : shapes) {
            const Case c = make_case("sanitizer", shape.s, shape.dtype, shape.mask, shape.causal);
            const GpuCase gpu(c);
            if (!takes(*tier, gpu.in)) continue;
            CAPTURE(std::string(tier->name));
            gpu.run(*tier);
            must(cudaDeviceSynchronize());
            Output got = GpuCase::outputs(c);
            gpu.out.fetch(got.out);
            gpu.logsumexp.fetch(got.logsumexp);
            expect_right(
                *tier, got,
                reference(gpu.in.query.view, gpu.in.key.view, gpu.in.value.view, gpu.in.options));
        }
}

}  // namespace

TEST_CASE("sanitizer: thirty-six shapes") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16, f32 = DType::float32;
    const MaskKind none = MaskKind::none, boolean = MaskKind::boolean, add = MaskKind::additive;
    const Causal all = Causal::none, upper = Causal::upper_left, lower = Causal::lower_right;
    //                B  Hq H  L    S    E    Ev
    const Shape shapes[] = {{{1, 1, 1, 1, 1, 1, 1}, f16, none, all},
                            {{1, 1, 1, 1, 1, 1, 1}, f32, none, all},
                            {{1, 2, 2, 65, 65, 64, 64}, f16, none, all},
                            {{1, 2, 1, 129, 70, 64, 64}, bf16, none, all},
                            {{1, 2, 2, 130, 130, 64, 64}, bf16, none, upper},
                            {{2, 1, 1, 70, 200, 64, 64}, f16, none, lower},
                            {{1, 1, 1, 200, 70, 64, 64}, f16, none, lower},
                            {{1, 2, 2, 129, 129, 128, 128}, f16, none, all},
                            {{1, 1, 1, 140, 140, 128, 128}, bf16, none, upper},
                            {{1, 1, 1, 70, 70, 256, 256}, f16, none, all},
                            {{1, 1, 1, 70, 70, 160, 200}, bf16, none, upper},
                            {{1, 2, 2, 70, 90, 40, 24}, f16, none, all},
                            {{1, 2, 2, 70, 90, 33, 47}, f16, none, all},
                            {{1, 2, 2, 130, 130, 64, 64}, f16, boolean, all},
                            {{1, 2, 2, 130, 129, 128, 128}, bf16, boolean, all},
                            {{1, 1, 1, 70, 130, 256, 256}, f16, boolean, upper},
                            {{1, 2, 2, 130, 130, 64, 64}, bf16, add, all},
                            {{1, 2, 2, 130, 129, 128, 128}, f16, add, all},
                            {{1, 1, 1, 70, 131, 256, 256}, bf16, add, lower},
                            {{2, 8, 2, 1, 300, 64, 64}, f16, none, all},
                            {{1, 8, 2, 3, 700, 128, 128}, bf16, none, lower},
                            {{1, 4, 1, 5, 129, 256, 256}, f16, none, all},
                            {{1, 8, 2, 1, 300, 128, 128}, f16, boolean, all},
                            {{1, 8, 2, 2, 300, 64, 64}, bf16, add, lower},
                            {{1, 2, 2, 129, 129, 64, 64}, f32, none, all},
                            {{1, 2, 1, 130, 70, 128, 128}, f32, none, upper},
                            {{1, 1, 1, 66, 66, 256, 256}, f32, none, all},
                            {{1, 2, 2, 70, 90, 33, 47}, f32, boolean, all},
                            {{1, 2, 2, 70, 90, 64, 64}, f32, add, lower},
                            {{2, 2, 2, 40, 0, 64, 64}, f16, none, all},
                            {{1, 2, 1, 515, 130, 64, 64}, f16, none, upper},
                            {{1, 1, 1, 514, 70, 128, 128}, bf16, boolean, all},
                            {{1, 1, 1, 513, 70, 128, 128}, f16, add, all},
                            {{1, 1, 1, 513, 70, 72, 40}, f32, none, lower},
                            {{1, 1, 1, 513, 66, 256, 256}, bf16, none, all},
                            {{1, 1, 1, 513, 66, 64, 64}, f32, add, all}};
    static_assert(std::size(shapes) == 36);
    expect_right_shapes(shapes);
}

// How many parts of the keys a block has depends on the batch, and with it the kernel, the teams of a
// block and who merges. The bits do not.
TEST_CASE("short queries have the same bits in any batch") {
    for (const Tier* tier : gpu_tiers())
        for (Index E : {64, 128}) {
            SUBCASE((std::string(tier->name) + " E=" + std::to_string(E)).c_str()) {
                const Qkv x = generate("gauss", {33, 16, 8, 2, 1000, E, E}, 7, DType::bfloat16);
                const auto first = [](auto view, Index batches) {
                    return slice(view, 0, 0, batches);
                };
                const Output all = attn::testing::run(*tier, x.query, x.key, x.value);
                for (Index B : {1, 18, 20}) {
                    CAPTURE(B);
                    expect_same_bits(
                        *tier,
                        attn::testing::run(*tier, first(x.query.view(), B), first(x.key.view(), B),
                                           first(x.value.view(), B)),
                        {{Tensor(), first(all.out.view, B)},
                         {Tensor(), first(all.logsumexp.view, B)}});
                }
            }
        }
}

// Masks of their own for each head, whose rows the copy engine can walk.
TEST_CASE("sanitizer: dense masks") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16;
    const MaskKind boolean = MaskKind::boolean, add = MaskKind::additive;
    //                B  Hq H  L    S    E    Ev
    const Shape shapes[] = {{{1, 2, 2, 300, 272, 40, 40}, bf16, boolean, Causal::none},
                            {{1, 2, 1, 300, 272, 40, 40}, bf16, add, Causal::lower_right},
                            {{2, 1, 1, 140, 400, 72, 40}, f16, boolean, Causal::upper_left},
                            {{1, 2, 2, 140, 400, 72, 128}, f16, add, Causal::none}};
    expect_right_shapes(shapes);
}

// Where the copy engine feeds short queries: parts merged by a second kernel; two tiles of query
// rows; parts merged by the block that computed them, two and one of a head; two heads of a block,
// and tiles of a head; two teams whose results a second kernel merges.
TEST_CASE("sanitizer: short queries") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16;
    //                B   Hq  H  L  S    E    Ev
    const Shape shapes[] = {{{1, 8, 2, 1, 700, 128, 128}, bf16, MaskKind::none, Causal::none},
                            {{1, 34, 2, 1, 600, 128, 96}, f16, MaskKind::none, Causal::none},
                            {{27, 4, 4, 1, 530, 128, 128}, bf16, MaskKind::none, Causal::none},
                            {{2, 4, 2, 3, 512, 128, 40}, f16, MaskKind::none, Causal::none},
                            {{1, 4, 2, 1, 700, 72, 128}, f16, MaskKind::none, Causal::lower_right},
                            {{33, 16, 8, 2, 520, 64, 48}, bf16, MaskKind::none, Causal::none},
                            {{44, 34, 1, 1, 600, 40, 64}, f16, MaskKind::none, Causal::none},
                            {{1, 60, 60, 1, 1900, 64, 64}, bf16, MaskKind::none, Causal::none}};
    expect_right_shapes(shapes);
}
