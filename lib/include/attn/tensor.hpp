/// \file
/// \brief Tensors: type-erased strided views for the API's door, typed views for the tiers behind
///        it, and `Tensor`, which owns its memory.
#pragma once

#include <attn/dtype.hpp>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

namespace attn {

/// \brief Sizes, strides and indices. Signed, so that a stride may be negative; 64-bit, so that an
///        offset may exceed 2^31 elements.
using Index = std::int64_t;

/// \brief Most axes a tensor may have.
inline constexpr int max_rank = 8;

/// \brief Where memory lives: -1 is the host, 0, 1, ... are CUDA devices.
using DeviceId = int;
/// \brief The `DeviceId` of host memory.
inline constexpr DeviceId host = -1;

/// \brief A window onto somebody else's memory: address, element type, shape and strides.
///
/// Strides count elements, not bytes. 0 repeats one element along the axis (one key head can
/// serve every query head without a copy); a negative stride walks backwards from `data`, which is
/// the address of element (0, ..., 0). The stride of an axis of size 1 is never used.
/// \tparam Void `const void` for a view that only reads, `void` for one that may write.
template <class Void>
struct BasicTensorView {
    Void* data = nullptr;          ///< address of element (0, ..., 0)
    DType dtype = DType::float32;  ///< of the elements
    DeviceId device = host;        ///< where the memory is
    int rank = 0;                  ///< 0 to max_rank
    Index shape[max_rank]{};       ///< the first `rank` entries count
    Index stride[max_rank]{};      ///< in elements

    BasicTensorView() = default;
    /// \brief A contiguous (row-major) tensor of the given shape. More than `max_rank` axes leave
    ///        a rank that the call then refuses.
    BasicTensorView(Void* data_, DType dtype_, std::span<const Index> shape_,
                    DeviceId device_ = host);
    /// \brief The same, for a shape written in braces.
    BasicTensorView(Void* data_, DType dtype_, std::initializer_list<Index> shape_,
                    DeviceId device_ = host)
        : BasicTensorView(data_, dtype_, std::span<const Index>(shape_.begin(), shape_.size()),
                          device_) {}
    /// \brief A tensor with the given strides, as many as there are axes.
    BasicTensorView(Void* data_, DType dtype_, std::span<const Index> shape_,
                    std::span<const Index> stride_, DeviceId device_ = host);
    /// \brief A writable view may be used where a reading one is wanted.
    template <class Other>
    requires(std::is_const_v<Void> && !std::is_const_v<Other>)
        BasicTensorView(const BasicTensorView<Other>& other);

    /// \brief True for a view that was never given a shape: "no mask", "no logsumexp".
    ATTN_HD bool absent() const { return data == nullptr && rank == 0; }
    /// \brief Product of the shape; 1 for rank 0.
    Index size() const;
};

/// \brief A view that only reads.
using TensorView = BasicTensorView<const void>;
/// \brief A view that may write.
using MutableTensorView = BasicTensorView<void>;

/// \brief "(2, 8, 64, 64)", as error messages write a shape.
template <class Void>
std::string shape_text(const BasicTensorView<Void>& view);

/// \brief A typed view of fixed rank: what a tier reads and writes. Host and device.
template <class T, int Rank>
struct View {
    T* data = nullptr;     ///< address of element (0, ..., 0)
    Index shape[Rank]{};   ///< sizes of the axes
    Index stride[Rank]{};  ///< in elements

    /// \brief The element at these indices, one for each axis. Not checked.
    template <class... I>
    ATTN_HD T& operator()(I... at) const {
        static_assert(sizeof...(I) == Rank, "one index per axis");
        const Index index[] = {static_cast<Index>(at)...};
        Index offset = 0;
        for (int axis = 0; axis < Rank; ++axis) offset += index[axis] * stride[axis];
        return data[offset];
    }
};

/// \brief The first `Rank` axes of a type-erased view, as elements of type T. The caller has
///        checked dtype and rank.
template <class T, int Rank, class Void>
ATTN_HD View<T, Rank> as(const BasicTensorView<Void>& view) {
    View<T, Rank> typed;
    typed.data = static_cast<T*>(view.data);
    for (int axis = 0; axis < Rank; ++axis) {
        typed.shape[axis] = view.shape[axis];
        typed.stride[axis] = view.stride[axis];
    }
    return typed;
}

/// \brief A row-major host tensor that owns its memory, 64-byte aligned.
class Tensor {
  public:
    Tensor() = default;
    /// \brief Zero-filled.
    /// \throws Error `bad_shape` for a negative size, too many axes or a byte count that overflows,
    ///         `no_memory` when there is none.
    explicit Tensor(std::span<const Index> shape, DType dtype = DType::float32);
    /// \brief The same, for a shape written in braces.
    Tensor(std::initializer_list<Index> shape, DType dtype = DType::float32)
        : Tensor(std::span<const Index>(shape.begin(), shape.size()), dtype) {}

    /// \brief Type of the elements.
    DType dtype() const { return view_.dtype; }
    /// \brief Number of axes.
    int rank() const { return view_.rank; }
    /// \brief Sizes of the axes, `rank()` of them.
    std::span<const Index> shape() const {
        return {view_.shape, static_cast<std::size_t>(view_.rank)};
    }
    /// \brief Number of elements; 0 for a tensor that was default-constructed or moved from.
    Index size() const { return view_.data == nullptr ? 0 : view_.size(); }
    /// \brief Bytes of all elements.
    std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype()); }

    /// \brief Address of the first element; never null for a tensor that was given a shape.
    void* data() { return view_.data; }
    /// \brief The same, to read.
    const void* data() const { return view_.data; }
    /// \brief All elements in row-major order.
    /// \tparam T  the C++ type of `dtype()`
    /// \throws Error `bad_dtype` for another type
    template <class T>
    std::span<T> values();
    /// \brief The same, to read.
    template <class T>
    std::span<const T> values() const;
    /// \brief Element `i` in row-major order, widened to double (a bool gives 0 or 1).
    double get(Index i) const;
    /// \brief Writes element `i` in row-major order, rounded to `dtype()`.
    void set(Index i, double value);
    /// \brief A copy with every element converted to `dtype`, rounded to nearest.
    /// \throws Error `no_memory` when there is none.
    Tensor to(DType dtype) const;

    /// \brief A view of all of it. Valid as long as the tensor; a tensor also converts to one.
    MutableTensorView view() { return view_; }
    /// \brief The same, to read.
    TensorView view() const { return view_; }
    /// \brief So that a tensor can be given where a view is wanted.
    operator MutableTensorView() { return view_; }
    /// \brief The same, to read.
    operator TensorView() const { return view_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const;
    };
    std::unique_ptr<std::byte[], Free> memory_;
    MutableTensorView view_;
};

}  // namespace attn
