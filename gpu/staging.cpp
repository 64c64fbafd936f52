/// \file
/// \brief Host tensors on their way to a GPU tier and back.
///
/// Only elements of the views are read and written, never the gaps between them: each tensor is
/// gathered into a packed buffer whose axes lie in memory in the same order as in the original (so
/// a transposed tensor stays transposed), with stride 0 kept where it was. Cost: one pass over each
/// tensor that is not packed already, and two trips over the bus.
#include "device.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace attn::gpu {
namespace {

/// A view's counterpart without gaps.
struct Packed {
    Index stride[max_rank]{};  // elements
    Index size = 1;            // elements
    bool same = true;          // the view itself is packed
};

template <class Void>
Packed packed(const BasicTensorView<Void>& view) {
    int order[max_rank], count = 0;
    Packed result;
    for (int axis = 0; axis < view.rank; ++axis)
        if (view.shape[axis] != 1 && view.stride[axis] != 0) order[count++] = axis;
    std::stable_sort(order, order + count, [&](int a, int b) {
        return std::abs(view.stride[a]) < std::abs(view.stride[b]);
    });
    for (int k = 0; k < count; ++k) {
        result.stride[order[k]] = result.size;
        result.same = result.same && view.stride[order[k]] == result.size;
        result.size *= view.shape[order[k]];
    }
    return result;
}

/// Calls `move(view offset, packed offset)` for every distinct element.
template <class Void, class Move>
void for_each_element(const BasicTensorView<Void>& view, const Packed& to, Move&& move) {
    Index at[max_rank]{};
    if (to.size == 0) return;
    for (Index from_offset = 0, to_offset = 0;;) {
        move(from_offset, to_offset);
        int axis = view.rank - 1;
        for (; axis >= 0; --axis) {
            if (to.stride[axis] == 0) continue;
            from_offset += view.stride[axis];
            to_offset += to.stride[axis];
            if (++at[axis] < view.shape[axis]) break;
            at[axis] = 0;
            from_offset -= view.stride[axis] * view.shape[axis];
            to_offset -= to.stride[axis] * view.shape[axis];
        }
        if (axis < 0) return;
    }
}

/// Copies elements between a view and its packed counterpart.
template <bool Gather, class Void>
void rearrange(const BasicTensorView<Void>& view, const Packed& to, std::byte* buffer) {
    const auto run = [&]<class Element>(Element) {
        using Here = std::conditional_t<Gather, const Element, Element>;
        auto* here = static_cast<Here*>(view.data);
        auto* there = reinterpret_cast<Element*>(buffer);
        for_each_element(view, to, [&](Index a, Index b) {
            if constexpr (Gather)
                there[b] = here[a];
            else
                here[a] = there[b];
        });
    };
    switch (size_of(view.dtype)) {
        case 1:
            return run(std::uint8_t{});
        case 2:
            return run(std::uint16_t{});
        case 4:
            return run(std::uint32_t{});
        default:
            return run(std::uint64_t{});
    }
}

constexpr std::size_t alignment = 256;
std::size_t padded(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

template <class Void>
std::size_t bytes_of(const BasicTensorView<Void>& view, const Packed& p) {
    return view.absent() ? 0 : static_cast<std::size_t>(p.size) * size_of(view.dtype);
}

/// Sends a view's elements to `device_data` and returns the view of them there.
TensorView send(const TensorView& view, std::byte* device_data, DeviceId device,
                cudaStream_t stream) {
    if (view.absent()) return view;
    const Packed to = packed(view);
    const std::size_t bytes = bytes_of(view, to);
    std::vector<std::byte> buffer;
    const void* source = view.data;
    if (!to.same) {
        buffer.resize(bytes);
        rearrange<true>(view, to, buffer.data());
        source = buffer.data();
    }
    // From pageable memory the call returns once the source has been read.
    if (bytes > 0)
        check(cudaMemcpyAsync(device_data, source, bytes, cudaMemcpyHostToDevice, stream),
              "copy to the device");
    TensorView there = view;
    there.data = device_data;
    there.device = device;
    std::copy(std::begin(to.stride), std::end(to.stride), there.stride);
    return there;
}

MutableTensorView reserve(const MutableTensorView& view, std::byte* device_data, DeviceId device) {
    if (view.absent()) return view;
    const Packed to = packed(view);
    MutableTensorView there = view;
    there.data = device_data;
    there.device = device;
    std::copy(std::begin(to.stride), std::end(to.stride), there.stride);
    return there;
}

void fetch(const MutableTensorView& view, const std::byte* device_data, cudaStream_t stream) {
    if (view.absent()) return;
    const Packed to = packed(view);
    const std::size_t bytes = bytes_of(view, to);
    if (bytes == 0) return;
    std::vector<std::byte> buffer(to.same ? 0 : bytes);
    check(cudaMemcpyAsync(to.same ? view.data : buffer.data(), device_data, bytes,
                          cudaMemcpyDeviceToHost, stream),
          "copy from the device");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (!to.same) rearrange<false>(view, to, buffer.data());
}

void run_staged(const Problem& p, void (*run)(const Problem&)) {
    DeviceId device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    const cudaStream_t stream = cudaStreamPerThread;  // host threads do not wait for one another

    const TensorView inputs[] = {p.query, p.key, p.value, p.mask};
    const MutableTensorView outputs[] = {p.out, p.logsumexp};
    std::size_t total = 0, input_at[4], output_at[2];
    for (int i = 0; i < 4; ++i) {
        input_at[i] = total;
        total += padded(bytes_of(inputs[i], packed(inputs[i])));
    }
    for (int i = 0; i < 2; ++i) {
        output_at[i] = total;
        total += padded(bytes_of(outputs[i], packed(outputs[i])));
    }

    const StreamMemory memory(total, stream);
    Problem there = p;
    there.device = device;
    there.stream = stream;
    there.query = send(p.query, memory.data() + input_at[0], device, stream);
    there.key = send(p.key, memory.data() + input_at[1], device, stream);
    there.value = send(p.value, memory.data() + input_at[2], device, stream);
    there.mask = send(p.mask, memory.data() + input_at[3], device, stream);
    there.out = reserve(p.out, memory.data() + output_at[0], device);
    there.logsumexp = reserve(p.logsumexp, memory.data() + output_at[1], device);
    run(there);
    fetch(p.out, memory.data() + output_at[0], stream);
    fetch(p.logsumexp, memory.data() + output_at[1], stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace

void on_device(const Problem& p, void (*run)(const Problem&)) {
    if (p.device == host) return run_staged(p, run);
    const OnDevice current(p.device);
    run(p);
}

}  // namespace attn::gpu
