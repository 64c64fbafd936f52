/// \file
/// \brief Tensors in numpy's .npy format, versions 1 to 3.
/// \par Source
/// NumPy Enhancement Proposal 1, and `numpy.lib.format`.
#pragma once

#include "byte_source.hpp"
#include "output_file.hpp"

#include <attn/tensor.hpp>

#include <string>

namespace attn {

/// \brief Reads one tensor: float64, float32, float16 or bool, little-endian, C or Fortran order,
///        rank 0 to 8. The result is row-major in any case.
///
/// The file is not trusted: the header is bounded before it is read, its text is parsed and never
/// evaluated, pickled objects are refused, and the shape must account for every byte of the file
/// before memory for it is taken.
/// \throws Error `bad_file` with the name of the file and the values at fault.
Tensor read_npy(const ByteSource& source);
Tensor read_npy(const std::string& path);

/// \brief Refuses an element type that .npy cannot hold: bfloat16.
/// \throws Error `bad_file` naming `path`.
void check_npy_dtype(const std::string& path, DType dtype);

/// \brief Writes version 1.0, C order, as numpy itself does. `file` is not committed yet.
void write_npy(OutputFile& file, const Tensor& tensor);
void write_npy(const std::string& path, const Tensor& tensor);

}  // namespace attn
