/// \file
/// \brief What every GPU tier needs around its kernels: errors with CUDA's own text, the device a
///        call belongs to, memory in stream order, launches, and the staging of host tensors.
///
/// Rules that all of it keeps: work goes to the caller's stream and nothing waits for it (except
/// that results for host tensors must be there when the call returns); no allocation that
/// synchronises; nothing touches CUDA before a tier is first asked for.
#pragma once

#include <attn/tier.hpp>

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace attn::gpu {

/// \brief Throws `device_error` (`no_memory` when there is none) with CUDA's text unless `code` is
///        success.
void check(cudaError_t code, const char* what);

/// \brief Is there a device of at least this compute capability (80 for 8.0), with code for
///        `kernel` in this binary?
Availability probe(int capability, const void* kernel);

/// \brief Makes a device current for the life of the object.
class OnDevice {
  public:
    explicit OnDevice(DeviceId device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int previous_ = 0;
    bool changed_ = false;
};

/// \brief Device memory in the order of a stream: taken from a pool that keeps what it once had,
///        and given back to it when the object dies. Work already queued on the stream may still
///        use it; other streams may not. Can be captured into a CUDA graph.
class StreamMemory {
  public:
    StreamMemory(std::size_t bytes, cudaStream_t stream);
    ~StreamMemory();
    StreamMemory(const StreamMemory&) = delete;
    StreamMemory& operator=(const StreamMemory&) = delete;
    std::byte* data() const { return data_; }

  private:
    std::byte* data_ = nullptr;
    cudaStream_t stream_;
};

/// \brief The caller's scratch when it is large enough, else `StreamMemory`.
class Workspace {
  public:
    Workspace(const Problem& p, std::size_t bytes);
    std::byte* data() const { return own_.data() != nullptr ? own_.data() : given_; }

  private:
    std::byte* given_;
    StreamMemory own_;
};

inline cudaStream_t stream_of(const Problem& p) { return static_cast<cudaStream_t>(p.stream); }

/// \brief Of the current device: 90 for 9.0; and its multiprocessors. 0 if there is none.
int compute_capability();
int multiprocessors();
/// \brief Is it a 9.0, and was this library compiled for its own instructions (sm_90a)?
bool has_wgmma();
int shared_memory();  ///< bytes that a block may have

/// \brief Blocks of a second pass over `blocks` marks: two for each multiprocessor at most.
inline Index second_blocks(Index blocks) {
    const Index most = 2 * multiprocessors();
    return blocks < most ? blocks : most;
}

/// \brief Was the code of `kernel` that the current device runs compiled for 9.0 or later? A newer
///        device may run code for 8.0, in which `wait_for_last_kernel` does nothing.
bool can_wait(const void* kernel);

/// \brief Calls f(bit) once for each device, while it is the current one.
/// \param done  one bit per device; set last: who sees it may rely on what f did
/// \return the bit of the current device
template <class F>
std::uint64_t once_per_device(std::atomic<std::uint64_t>& done, F&& f) {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    const std::uint64_t bit = std::uint64_t{1} << (device & 63);
    if ((done.load() & bit) == 0) {
        f(bit);
        done.fetch_or(bit);
    }
    return bit;
}

/// \brief Has `kernel` run where most of the L1 cache is shared memory. A multiprocessor divides it anew
///        only when it is empty: kernels that are to overlap must want the same.
template <auto kernel>
void prefer_shared_memory() {
    static std::atomic<std::uint64_t> done{0};
    once_per_device(done, [](std::uint64_t) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared),
              "cudaFuncSetAttribute");
    });
}

/// \brief What `launch` and `launch_early` share.
/// \param early  see `launch_early`
template <auto kernel, int most_shared_bytes, class... Args>
void queue(bool early, std::int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
           const Args&... args) {
    static std::atomic<std::uint64_t> configured{0};
    if (shared_bytes > 48 * 1024)
        once_per_device(configured, [&](std::uint64_t) {
            check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       most_shared_bytes > 0 ? most_shared_bytes : shared_bytes),
                  "cudaFuncSetAttribute");
        });
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    constexpr std::int64_t most = 0x7fffffff;
    for (std::int64_t first = 0; first < blocks; first += most) {
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(blocks - first < most ? blocks - first : most));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = early && first == 0 ? 1 : 0;
        check(cudaLaunchKernelEx(&config, kernel, args..., first), "kernel launch");
    }
}

/// \brief Queues `kernel(args...)`; more than 48 KB of shared memory is asked for once per device.
/// \param blocks  may exceed 2^31 - 1: the kernel gets `first_block` as its last argument and is
///                launched as often as needed. It finds its work at first_block + blockIdx.x.
/// \tparam most_shared_bytes  of all calls, where these differ
template <auto kernel, int most_shared_bytes = 0, class... Args>
void launch(std::int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
            const Args&... args) {
    queue<kernel, most_shared_bytes>(false, blocks, threads, shared_bytes, stream, args...);
}
/// \brief The same for a kernel whose blocks may take their places before the kernel queued before
///        it has ended, where its code can wait. It must call `wait_for_last_kernel` before it
///        touches global memory, and that one may call `start_next_kernel` (mma.cuh).
template <auto kernel, int most_shared_bytes = 0, class... Args>
void launch_early(std::int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
                  const Args&... args) {
    static std::atomic<std::uint64_t> asked{0}, early{0};  // one bit per device
    const std::uint64_t own = once_per_device(asked, [](std::uint64_t bit) {
        if (can_wait(reinterpret_cast<const void*>(kernel))) early.fetch_or(bit);
    });
    queue<kernel, most_shared_bytes>((early.load() & own) != 0, blocks, threads, shared_bytes,
                                     stream, args...);
}

/// \brief Calls `run` with every tensor on a device: at once for device tensors, with that device
///        current; for host tensors after copying them to the current device, and with `out` and
///        `logsumexp` copied back before it returns.
void on_device(const Problem& p, void (*run)(const Problem&));

}  // namespace attn::gpu
