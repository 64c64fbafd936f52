#include "tensor_map.hpp"

#include "device.hpp"

#include <string>

namespace attn::gpu {
namespace {

constexpr Index most_rows = Index{1} << 31, most_stride = Index{1} << 40;  // rows, bytes

Index bytes_of(DType dtype) { return static_cast<Index>(size_of(dtype)); }

CUtensorMapDataType type_of(DType dtype) {
    switch (dtype) {
        case DType::boolean:
            return CU_TENSOR_MAP_DATA_TYPE_UINT8;
        case DType::float16:
            return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
        case DType::bfloat16:
            return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        default:
            return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    }
}

/// The driver is asked for the function, so that nothing needs to be linked.
decltype(&cuTensorMapEncodeTiled) encode() {
    static const auto function = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result{};
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                               cudaEnableDefault, &result),
              "cudaGetDriverEntryPointByVersion");
        if (result != cudaDriverEntryPointSuccess || found == nullptr)
            throw Error(ErrorCode::device_error, "the driver has no cuTensorMapEncodeTiled");
        return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
    }();
    return function;
}

}  // namespace

bool can_map(const MappedRows& from) {
    const auto can_walk = [&](Index count, Index stride) {
        return count <= 1 ||
               (stride >= 0 && count < most_rows && stride < most_stride / bytes_of(from.dtype));
    };
    return from.columns > 0 && can_walk(from.rows, from.stride.row) &&
           can_walk(from.H, from.stride.head) && can_walk(from.B, from.stride.batch);
}

CUtensorMap map_rows(const MappedRows& from, int box_rows, CUtensorMapL2promotion promotion) {
    const auto count = [](Index n, Index stride) {
        return static_cast<cuuint64_t>(stride == 0 ? 1 : n);
    };
    // Of an axis of length 1 the stride is not used, but must be one that the engine can walk.
    const auto bytes = [&](Index n, Index stride) {
        return static_cast<cuuint64_t>(n > 1 && stride > 0 ? bytes_of(from.dtype) * stride : 16);
    };
    const auto row_bytes =
        from.rows > 1 && from.stride.row == 0 ? 0 : bytes(from.rows, from.stride.row);
    const cuuint64_t size[] = {static_cast<cuuint64_t>(from.columns),
                               static_cast<cuuint64_t>(from.rows), count(from.H, from.stride.head),
                               count(from.B, from.stride.batch)};
    const cuuint64_t stride[] = {row_bytes, bytes(from.H, from.stride.head),
                                 bytes(from.B, from.stride.batch)};
    const cuuint32_t box[] = {static_cast<cuuint32_t>(from.together),
                              static_cast<cuuint32_t>(box_rows), 1, 1};
    const cuuint32_t step[] = {1, 1, 1, 1};
    CUtensorMap map;
    const CUresult code = encode()(
        &map, type_of(from.dtype), 4, const_cast<void*>(from.data), size, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        from.dtype == DType::boolean ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
        promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code != CUDA_SUCCESS)
        throw Error(ErrorCode::device_error,
                    "cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(code)));
    return map;
}

}  // namespace attn::gpu
