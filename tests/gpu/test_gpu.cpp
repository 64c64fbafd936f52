/// \file
/// \brief What only tests that hold device memory can ask of the GPU tiers: tensors used where they
///        lie, streams, graphs, threads, scratch, offsets.
#include "device_case.hpp"

#include <array>
#include <thread>

using namespace attn;
using namespace attn::testing;

namespace {

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
