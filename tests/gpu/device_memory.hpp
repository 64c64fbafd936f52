/// \file
/// \brief Device memory for tests that hold it themselves.
#pragma once

#include <attn/tensor.hpp>

#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace attn::testing {

inline void must(cudaError_t code) {
    REQUIRE_MESSAGE(code == cudaSuccess, cudaGetErrorString(code));
}

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

/// `count` elements of device memory, poisoned, and a poisoned one behind them.
template <class T>
class Device {
  public:
    explicit Device(std::size_t count) : memory_((count + 1) * sizeof(T)), count_(count) {
        must(cudaMemset(memory_.data(), 0xff, memory_.bytes()));
    }
    T* data() const { return reinterpret_cast<T*>(memory_.data()); }
    std::vector<T> fetch() const {
        std::vector<T> host(count_);
        must(cudaMemcpy(host.data(), memory_.data(), count_ * sizeof(T), cudaMemcpyDefault));
        return host;
    }
    void send(const void* from, std::size_t bytes) {
        must(cudaMemcpy(memory_.data(), from, bytes, cudaMemcpyDefault));
    }

  private:
    Buffer memory_;
    std::size_t count_;
};

/// A tensor's rows on the device, elements `spread` apart.
struct Rows {
    Device<std::byte> memory;  // rows * E * spread elements and one more
    TensorView view;           // (1, 1, rows, E)
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

/// Says so if there is no GPU.
inline bool skipped() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
    cudaGetLastError();
    MESSAGE("ATTN-SKIP: no GPU");
    return true;
}

}  // namespace attn::testing
