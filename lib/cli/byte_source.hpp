/// \file
/// \brief Where a file reader takes its bytes from: a file, or memory for tests and fuzzers.
#pragma once

#include <attn/attention.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

/// \brief Bytes of known length that can be read from any place.
class ByteSource {
  public:
    virtual ~ByteSource() = default;
    /// \brief What messages call it.
    const std::string& name() const { return name_; }
    /// \brief In bytes.
    std::uint64_t size() const { return size_; }
    /// \brief Fills `target` with the bytes from `offset` on.
    /// \throws Error `bad_file` when they are not all there.
    virtual void read(std::uint64_t offset, std::span<std::byte> target) const = 0;

  protected:
    ByteSource(std::string name, std::uint64_t size) : name_(std::move(name)), size_(size) {}

  private:
    std::string name_;
    std::uint64_t size_;
};

/// \brief A regular file.
class FileSource final : public ByteSource {
  public:
    /// \throws Error `bad_file` when there is no such file, it is not a regular one, or it may not
    ///         be read.
    explicit FileSource(const std::string& path);
    ~FileSource() override;
    FileSource(const FileSource&) = delete;
    FileSource& operator=(const FileSource&) = delete;
    void read(std::uint64_t offset, std::span<std::byte> target) const override;

  private:
    FileSource(const std::string& path, int descriptor);
    int descriptor_;
};

/// \brief Bytes that somebody else owns.
class MemorySource final : public ByteSource {
  public:
    MemorySource(std::string name, std::span<const std::byte> bytes)
        : ByteSource(std::move(name), bytes.size()), bytes_(bytes) {}
    void read(std::uint64_t offset, std::span<std::byte> target) const override;

  private:
    std::span<const std::byte> bytes_;
};

/// \brief "name: sentence" as an `Error` of code `bad_file`.
Error file_error(std::string_view name, std::string_view sentence);

/// \brief Text from a file as a message may show it: in quotes, unprintable bytes as \\xNN (a
///        terminal would obey them), cut after 60 characters.
std::string shown(std::string_view text);

/// \brief "(2, 3)" as Python writes it: "(3,)" for one axis.
std::string tuple_text(std::span<const Index> shape);

/// \brief Bytes that a tensor takes; every partial product is checked too, so that the strides of
///        an empty tensor fit as well.
/// \throws Error `bad_file` for more axes than `max_rank` or a product that overflows.
std::uint64_t checked_bytes(const ByteSource& source, std::span<const Index> shape,
                            std::size_t element_bytes);

/// \brief Refuses bytes other than 0 and 1 in a tensor of bools.
void check_bools(const ByteSource& source, const Tensor& tensor);

}  // namespace attn
