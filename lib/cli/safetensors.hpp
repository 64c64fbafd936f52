/// \file
/// \brief Named tensors in the .safetensors format.
///
/// The file: 8 bytes, the length of the header (little-endian); the header, a JSON object that
/// gives each tensor its dtype, shape and first and last byte; the data.
/// \par Source
/// github.com/huggingface/safetensors, README.md, "Format".
#pragma once

#include "byte_source.hpp"
#include "output_file.hpp"

#include <attn/tensor.hpp>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

/// \brief A .safetensors file whose header has been read and checked whole.
///
/// The file is not trusted: the header's length is bounded before it is read, nesting is limited,
/// keys may not repeat, and the tensors must cover the data exactly: in bounds, each as long as its
/// shape says, no overlaps, no holes, nothing left over.
class SafetensorsFile {
  public:
    /// \throws Error `bad_file` with the name of the file and the values at fault.
    explicit SafetensorsFile(std::unique_ptr<const ByteSource> source);
    explicit SafetensorsFile(const std::string& path);

    /// \brief All names, in the order of their data.
    std::vector<std::string> names() const;
    bool has(std::string_view name) const { return find(name) != nullptr; }
    /// \brief Loads one tensor: float64, float32, float16, bfloat16 or bool.
    /// \throws Error `bad_file` when there is none of that name (listing those that are there), or
    ///         its dtype is another one.
    Tensor read(std::string_view name) const;

  private:
    struct Entry {
        std::string name;
        std::string dtype;  ///< as the file writes it: "F32"
        std::vector<Index> shape;
        std::uint64_t begin = 0, end = 0;  ///< in bytes, from the beginning of the data
    };
    const Entry* find(std::string_view name) const;
    void read_header();
    void check_layout();

    std::unique_ptr<const ByteSource> source_;
    std::vector<Entry> entries_;    ///< by `begin`
    std::uint64_t data_begin_ = 0;  ///< in bytes, from the beginning of the file
};

/// \brief A tensor to write, which somebody else owns.
struct NamedTensor {
    std::string name;
    const Tensor* tensor = nullptr;
};

/// \brief Writes all tensors into one file. `file` is not committed yet.
void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors);
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors);

}  // namespace attn
