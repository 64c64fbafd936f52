#include "device.hpp"

#include <mutex>
#include <string>

namespace attn::gpu {
namespace {

std::string text(cudaError_t code) {
    return std::string(cudaGetErrorString(code)) + " (" + cudaGetErrorName(code) + ")";
}

/// One pool per device, for the life of the process. It keeps freed memory: the default pool would
/// hand it back to the driver at every synchronisation, and take it again at the next call.
cudaMemPool_t pool_of(int device) {
    constexpr int most_devices = 64;
    static std::mutex mutex;
    static cudaMemPool_t pools[most_devices] = {};
    if (device >= most_devices)
        throw Error(ErrorCode::unsupported,
                    "device " + std::to_string(device) + " is beyond the 64 that are taken");
    const std::lock_guard lock(mutex);
    if (pools[device] == nullptr) {
        cudaMemPoolProps properties{};
        properties.allocType = cudaMemAllocationTypePinned;
        properties.location.type = cudaMemLocationTypeDevice;
        properties.location.id = device;
        check(cudaMemPoolCreate(&pools[device], &properties), "cudaMemPoolCreate");
        std::uint64_t keep_all = UINT64_MAX;
        check(cudaMemPoolSetAttribute(pools[device], cudaMemPoolAttrReleaseThreshold, &keep_all),
              "cudaMemPoolSetAttribute");
    }
    return pools[device];
}

}  // namespace

void check(cudaError_t code, const char* what) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // an error that is not sticky must not show up in the caller's next call
    throw Error(code == cudaErrorMemoryAllocation ? ErrorCode::no_memory : ErrorCode::device_error,
                std::string(what) + ": " + text(code));
}

Availability probe(int capability, const void* kernel) {
    const auto no = [](const std::string& reason) {
        cudaGetLastError();
        return Availability{false, reason};
    };
    int driver = 0, count = 0, device = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return no("no NVIDIA driver");
    if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess)
        return no(text(code));
    if (count == 0) return no("no NVIDIA device");
    if (const cudaError_t code = cudaGetDevice(&device); code != cudaSuccess) return no(text(code));
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (10 * major + minor < capability)
        return no("needs compute capability " + std::to_string(capability / 10) + "." +
                  std::to_string(capability % 10) + ", the device has " + std::to_string(major) +
                  "." + std::to_string(minor));
    cudaFuncAttributes attributes{};
    if (const cudaError_t code = cudaFuncGetAttributes(&attributes, kernel); code != cudaSuccess)
        return no("no code for this device in the binary: " + text(code));
    return {};
}

namespace {
int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&value, which, device) == cudaSuccess)
        return value;
    cudaGetLastError();
    return 0;
}
}  // namespace

int compute_capability() {
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
           attribute(cudaDevAttrComputeCapabilityMinor);
}

bool can_wait(const void* kernel) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion >= 90;  // what it was compiled for, not what it runs on
}

bool has_wgmma() {
#if defined(ATTN_SM90A)
    return compute_capability() == 90;
#else
    return false;  // code for other architectures runs there, but its kernels for sm_90a are empty
#endif
}
int shared_memory() { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

OnDevice::OnDevice(DeviceId device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
}

OnDevice::~OnDevice() {
    if (changed_) cudaSetDevice(previous_);
}

StreamMemory::StreamMemory(std::size_t bytes, cudaStream_t stream) : stream_(stream) {
    if (bytes == 0) return;
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    void* memory = nullptr;
    check(cudaMallocFromPoolAsync(&memory, bytes, pool_of(device), stream),
          "cudaMallocFromPoolAsync");
    data_ = static_cast<std::byte*>(memory);
}

StreamMemory::~StreamMemory() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
}

Workspace::Workspace(const Problem& p, std::size_t bytes)
    : given_(p.scratch.data()), own_(p.scratch.size() >= bytes ? 0 : bytes, stream_of(p)) {}

}  // namespace attn::gpu
