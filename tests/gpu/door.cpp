/// \file
/// \brief A C door to the library for the GPU benches, which live in Python beside torch.
#include <attn/attn.hpp>

#include <cstdio>
#include <cstring>

using namespace attn;

extern "C" {

/// \brief A tensor of rank 4 (logsumexp: 3) as Python sees it. `dtype` as in `attn::DType`.
struct DoorTensor {
    void* data;
    int dtype;
    int rank;
    Index shape[4];
    Index stride[4];
};

static char door_message[512];

/// \brief What went wrong in the last call.
const char* door_error() { return door_message; }

static MutableTensorView view_of(const DoorTensor* t, int device) {
    if (t == nullptr || t->data == nullptr) return {};
    const auto rank = static_cast<std::size_t>(t->rank);
    MutableTensorView view(t->data, static_cast<DType>(t->dtype), std::span(t->shape, rank),
                           device);
    for (std::size_t axis = 0; axis < rank; ++axis) view.stride[axis] = t->stride[axis];
    return view;
}

/// \brief Attention on device tensors, queued on `stream`. \return 0, or 1 with `door_error` set.
int door_attention(const char* tier, const DoorTensor* query, const DoorTensor* key,
                   const DoorTensor* value, const DoorTensor* out, const DoorTensor* mask,
                   const DoorTensor* logsumexp, int causal, double scale, int has_scale, int device,
                   void* stream) {
    try {
        Options options;
        if (mask != nullptr) options.mask = view_of(mask, device);
        options.causal = static_cast<Causal>(causal);
        if (has_scale) options.scale = scale;
        Execution execution;
        execution.tier = tier;
        execution.stream = stream;
        if (logsumexp != nullptr) execution.logsumexp = view_of(logsumexp, device);
        scaled_dot_product_attention(view_of(query, device), view_of(key, device),
                                     view_of(value, device), view_of(out, device), options,
                                     execution);
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(door_message, sizeof door_message, "%s", error.what());
        return 1;
    }
}

}  // extern "C"
