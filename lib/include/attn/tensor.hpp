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
inline constexpr DeviceId host = -1;

/// \brief A window onto somebody else's memory: address, element type, shape and strides.
///
/// Strides count elements, not bytes. 0 repeats one element along the axis (one key head can
/// serve every query head without a copy); a negative stride walks backwards from `data`, which is
/// the address of element (0, ..., 0). The stride of an axis of size 1 is never used.
/// \tparam Void `const void` for a view that only reads, `void` for one that may write.
template <class Void>
struct BasicTensorView {
    Void* data = nullptr;
    DType dtype = DType::float32;
    DeviceId device = host;
    int rank = 0;              ///< 0 to max_rank
    Index shape[max_rank]{};   ///< the first `rank` entries count
    Index stride[max_rank]{};  ///< in elements

    BasicTensorView() = default;
    /// \brief A contiguous (row-major) tensor of the given shape. More than `max_rank` axes leave
    ///        a rank that the call then refuses.
    BasicTensorView(Void* data_, DType dtype_, std::span<const Index> shape_,
                    DeviceId device_ = host);
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

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

/// \brief "(2, 8, 64, 64)", as error messages write a shape.
template <class Void>
std::string shape_text(const BasicTensorView<Void>& view);

/// \brief A typed view of fixed rank: what a tier reads and writes. Host and device.
template <class T, int Rank>
struct View {
    T* data = nullptr;
    Index shape[Rank]{};
    Index stride[Rank]{};  ///< in elements

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
    Tensor(std::initializer_list<Index> shape, DType dtype = DType::float32)
        : Tensor(std::span<const Index>(shape.begin(), shape.size()), dtype) {}

    DType dtype() const { return view_.dtype; }
    int rank() const { return view_.rank; }
    std::span<const Index> shape() const {
        return {view_.shape, static_cast<std::size_t>(view_.rank)};
    }
    Index size() const { return view_.size(); }
    std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype()); }

    void* data() { return view_.data; }
    const void* data() const { return view_.data; }
    /// \brief All elements in row-major order. T must be the C++ type of `dtype()`; throws
    ///        `bad_dtype` otherwise.
    template <class T>
    std::span<T> values();
    template <class T>
    std::span<const T> values() const;
    /// \brief Element `i` in row-major order, widened to double (a bool gives 0 or 1).
    double get(Index i) const;
    /// \brief Writes element `i` in row-major order, rounded to `dtype()`.
    void set(Index i, double value);
    /// \brief A copy with every element converted to `dtype`.
    Tensor to(DType dtype) const;

    MutableTensorView view() { return view_; }
    TensorView view() const { return view_; }
    operator MutableTensorView() { return view_; }
    operator TensorView() const { return view_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const;
    };
    std::unique_ptr<std::byte[], Free> memory_;
    MutableTensorView view_;
};

}  // namespace attn
