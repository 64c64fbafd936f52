#include "arrays.hpp"

#include <attn/error.hpp>

#include <optional>
#include <string>

namespace attn::python {
namespace {

std::optional<DType> dtype_of_dlpack(nb::dlpack::dtype dtype, Bits16 bits16) {
    using Code = nb::dlpack::dtype_code;
    if (dtype.lanes != 1) return {};
    switch (static_cast<Code>(dtype.code)) {
        case Code::Float:
            if (dtype.bits == 64) return DType::float64;
            if (dtype.bits == 32) return DType::float32;
            if (dtype.bits == 16) return DType::float16;
            return {};
        case Code::Bfloat:
            if (dtype.bits == 16) return DType::bfloat16;
            return {};
        case Code::UInt:
            if (dtype.bits == 16 && bits16 == Bits16::bfloat16) return DType::bfloat16;
            return {};
        case Code::Bool:
            if (dtype.bits == 8) return DType::boolean;
            return {};
        default:
            return {};
    }
}

/// Pinned host memory is the host's; managed CUDA memory is used where the device sees it.
std::optional<DeviceId> device_of_dlpack(int type, int id) {
    switch (type) {
        case nb::device::cpu::value:
        case nb::device::cuda_host::value:
            return host;
        case nb::device::cuda::value:
        case nb::device::cuda_managed::value:
            return id;
        default:
            return {};
    }
}

std::string dtype_text(nb::dlpack::dtype dtype) {
    static constexpr const char* kinds[] = {"int",    "uint",    "float", "handle",
                                            "bfloat", "complex", "bool"};
    const std::string kind = dtype.code < std::size(kinds)
                                 ? kinds[dtype.code]
                                 : "type " + std::to_string(dtype.code) + ", ";
    return kind + std::to_string(dtype.bits) +
           (dtype.lanes == 1 ? "" : " x " + std::to_string(dtype.lanes));
}

std::string class_of(nb::handle object) { return Py_TYPE(object.ptr())->tp_name; }

template <class Void, class Array>
BasicTensorView<Void> view_of(const Array& array, const char* name, Bits16 bits16) {
    const std::optional<DType> dtype = dtype_of_dlpack(array.dtype(), bits16);
    if (!dtype)
        throw Error(ErrorCode::bad_dtype,
                    std::string(name) + " has dtype " + dtype_text(array.dtype()) +
                        ", but float64, float32, float16, bfloat16 or, for a mask, bool is needed");
    const std::optional<DeviceId> device = device_of_dlpack(array.device_type(), array.device_id());
    if (!device)
        throw Error(ErrorCode::bad_device, std::string(name) + " is on a device of DLPack type " +
                                               std::to_string(array.device_type()) +
                                               ", but the host or CUDA is needed");
    const std::span<const Index> shape(array.shape_ptr(), array.ndim());
    const std::span<const Index> stride(array.stride_ptr(), array.ndim());
    // `data()` adds DLPack's byte_offset.
    return BasicTensorView<Void>(array.data(), *dtype, shape, stride, *device);
}

}  // namespace

Input import_input(nb::handle object, const char* name, Bits16 bits16) {
    Input input;
    if (object.is_none()) return input;
    if (!nb::try_cast(object, input.array, false))
        throw Error(ErrorCode::bad_dtype,
                    std::string(name) + " is a " + class_of(object) +
                        ", but an array with __dlpack__ is needed (numpy, torch, CuPy, JAX, ...)");
    input.view = view_of<const void>(input.array, name, bits16);
    return input;
}

Output import_output(nb::handle object, const char* name, Bits16 bits16) {
    Output output;
    if (object.is_none()) return output;
    if (!nb::try_cast(object, output.array, false))
        throw Error(ErrorCode::bad_dtype,
                    std::string(name) + " is a " + class_of(object) +
                        ", but an array with __dlpack__ that may be written is needed");
    output.view = view_of<void>(output.array, name, bits16);
    return output;
}

}  // namespace attn::python
