#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

namespace attn {

const char* name_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::bad_shape:
            return "bad_shape";
        case ErrorCode::bad_dtype:
            return "bad_dtype";
        case ErrorCode::bad_option:
            return "bad_option";
        case ErrorCode::bad_device:
            return "bad_device";
        case ErrorCode::bad_file:
            return "bad_file";
        case ErrorCode::unsupported:
            return "unsupported";
        case ErrorCode::unavailable:
            return "unavailable";
        case ErrorCode::no_memory:
            return "no_memory";
        case ErrorCode::device_error:
            return "device_error";
    }
    return "?";
}

// ---- views -----------------------------------------------------------------------------------

template <class Void>
BasicTensorView<Void>::BasicTensorView(Void* data_, DType dtype_, std::span<const Index> shape_,
                                       DeviceId device_)
    : data(data_), dtype(dtype_), device(device_), rank(static_cast<int>(shape_.size())) {
    // Unsigned: a shape that overflows wraps here without undefined behaviour and is refused later.
    std::uint64_t step = 1;
    for (int axis = std::min(rank, max_rank) - 1; axis >= 0; --axis) {
        shape[axis] = shape_[static_cast<std::size_t>(axis)];
        stride[axis] = static_cast<Index>(step);
        step *= static_cast<std::uint64_t>(shape[axis]);
    }
}

template <class Void>
BasicTensorView<Void>::BasicTensorView(Void* data_, DType dtype_, std::span<const Index> shape_,
                                       std::span<const Index> stride_, DeviceId device_)
    : data(data_), dtype(dtype_), device(device_), rank(static_cast<int>(shape_.size())) {
    if (shape_.size() != stride_.size())
        throw Error(ErrorCode::bad_shape, "a view has " + std::to_string(shape_.size()) +
                                              " axes but " + std::to_string(stride_.size()) +
                                              " strides");
    for (int axis = 0; axis < std::min(rank, max_rank); ++axis) {
        shape[axis] = shape_[static_cast<std::size_t>(axis)];
        stride[axis] = stride_[static_cast<std::size_t>(axis)];
    }
}

template <class Void>
template <class Other>
requires(std::is_const_v<Void> && !std::is_const_v<Other>)
    BasicTensorView<Void>::BasicTensorView(const BasicTensorView<Other>& other)
    : data(other.data), dtype(other.dtype), device(other.device), rank(other.rank) {
    std::copy(other.shape, other.shape + max_rank, shape);
    std::copy(other.stride, other.stride + max_rank, stride);
}

template <class Void>
Index BasicTensorView<Void>::size() const {
    Index product = 1;
    for (int axis = 0; axis < rank; ++axis) product *= shape[axis];
    return product;
}

template <class Void>
std::string shape_text(const BasicTensorView<Void>& view) {
    std::string text = "(";
    for (int axis = 0; axis < view.rank && axis < max_rank; ++axis) {
        if (axis > 0) text += ", ";
        text += std::to_string(view.shape[axis]);
    }
    return text + ")";
}

template struct BasicTensorView<const void>;
template struct BasicTensorView<void>;
template BasicTensorView<const void>::BasicTensorView(const BasicTensorView<void>&);
template std::string shape_text(const TensorView&);
template std::string shape_text(const MutableTensorView&);

// ---- Tensor ------------------------------------------------------------------------------------

namespace {
constexpr std::align_val_t alignment{64};  // a cache line, and one AVX-512 register
}

void Tensor::Free::operator()(std::byte* memory) const { ::operator delete[](memory, alignment); }

Tensor::Tensor(std::span<const Index> shape, DType dtype) {
    if (shape.size() > static_cast<std::size_t>(max_rank))
        throw Error(ErrorCode::bad_shape, "a tensor has " + std::to_string(shape.size()) +
                                              " axes, more than " + std::to_string(max_rank));
    std::size_t count = size_of(dtype);
    for (Index extent : shape) {
        if (extent < 0)
            throw Error(ErrorCode::bad_shape,
                        "a tensor has an axis of size " + std::to_string(extent));
        if (__builtin_mul_overflow(count, static_cast<std::size_t>(extent), &count) ||
            count > static_cast<std::size_t>(PTRDIFF_MAX))
            throw Error(ErrorCode::bad_shape, "a tensor's size in bytes overflows 63 bits");
    }
    const std::size_t bytes =
        std::max<std::size_t>(count, 1);  // an empty tensor has an address too
    memory_.reset(static_cast<std::byte*>(::operator new[](bytes, alignment, std::nothrow)));
    if (memory_ == nullptr)
        throw Error(ErrorCode::no_memory,
                    "no memory for a tensor of " + std::to_string(count) + " bytes");
    std::memset(memory_.get(), 0, bytes);
    view_ = MutableTensorView(memory_.get(), dtype, shape);
}

template <class T>
std::span<T> Tensor::values() {
    if (dtype() != dtype_of<T>)
        throw Error(ErrorCode::bad_dtype, std::string("a tensor of ") + name_of(dtype()) +
                                              " was read as " + name_of(dtype_of<T>));
    return {static_cast<T*>(view_.data), static_cast<std::size_t>(size())};
}
template <class T>
std::span<const T> Tensor::values() const {
    return const_cast<Tensor*>(this)->values<T>();
}
#define ATTN_VALUES(T)                         \
    template std::span<T> Tensor::values<T>(); \
    template std::span<const T> Tensor::values<T>() const;
ATTN_VALUES(double)
ATTN_VALUES(float)
ATTN_VALUES(float16)
ATTN_VALUES(bfloat16)
ATTN_VALUES(bool)
#undef ATTN_VALUES

double Tensor::get(Index i) const {
    if (dtype() == DType::boolean) return static_cast<const std::uint8_t*>(view_.data)[i] != 0;
    return visit_float(dtype(), [&]<class T>(T) -> double {
        const T element = static_cast<const T*>(view_.data)[i];
        return static_cast<double>(static_cast<Compute<T>>(element));
    });
}

namespace {
/// To float by rounding to odd: a result that is not exact gets an odd last bit, so that it is
/// never taken for a tie when it is rounded again, to 16 bits.
float to_odd_float(double value) {
    const float nearest = static_cast<float>(value);
    const bool inexact = std::isfinite(nearest) && static_cast<double>(nearest) != value;
    if (!inexact || std::bit_cast<std::uint32_t>(nearest) % 2 == 1) return nearest;
    return std::nextafter(nearest, static_cast<double>(nearest) < value ? HUGE_VALF : -HUGE_VALF);
}
}  // namespace

void Tensor::set(Index i, double value) {
    if (dtype() == DType::boolean) {
        static_cast<std::uint8_t*>(view_.data)[i] = value != 0;
        return;
    }
    visit_float(dtype(), [&]<class T>(T) {
        if constexpr (sizeof(T) == 2)
            static_cast<T*>(view_.data)[i] = T(to_odd_float(value));
        else
            static_cast<T*>(view_.data)[i] = static_cast<T>(value);
    });
}

Tensor Tensor::to(DType dtype) const {
    Tensor converted(shape(), dtype);
    for (Index i = 0; i < size(); ++i) converted.set(i, get(i));
    return converted;
}

}  // namespace attn
