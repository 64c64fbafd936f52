/// \file
/// \brief Arrays from Python, by DLPack: anything with `__dlpack__` or a DLPack capsule becomes a
///        view of the library, without a copy.
#pragma once

#include <attn/tensor.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace attn::python {

namespace nb = nanobind;

/// \brief What the 16-bit unsigned integers of an array mean. numpy has no bfloat16: its packages
///        hand the bits over as uint16.
enum class Bits16 : bool { refused, bfloat16 };

/// \brief An array that is only read, held alive for as long as this object lives.
struct Input {
    nb::ndarray<nb::ro> array;
    TensorView view;  ///< absent for None
};

/// \brief An array that is written.
struct Output {
    nb::ndarray<> array;
    MutableTensorView view;  ///< absent for None
};

/// \brief Takes `object` as an array. None gives an absent view.
/// \throws Error `bad_dtype` for what is no array or has elements that are not taken, `bad_device`
///         for a device that is neither the host nor CUDA.
Input import_input(nb::handle object, const char* name, Bits16 bits16);

/// \brief The same for an array that will be written: a read-only one is refused.
Output import_output(nb::handle object, const char* name, Bits16 bits16);

}  // namespace attn::python
