/// \file
/// \brief A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace attn {

/// \brief Writes to a temporary name in the target's folder; `commit` renames it to the target.
///
/// Destroyed without `commit`, it removes the temporary file and leaves the target as it was. The
/// temporary file is created exclusively (it cannot be a link laid out by somebody else), and a
/// target that exists and is no regular file (a link, a device, a folder) is refused.
/// Create it before a long computation: what cannot be written is then known at once.
class OutputFile {
  public:
    /// \throws Error `bad_file` when the target cannot be written.
    explicit OutputFile(std::string path);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    /// \throws Error `bad_file` when the bytes cannot be stored (a full disk).
    void write(std::span<const std::byte> bytes);
    void write(const std::string& text) { write(std::as_bytes(std::span(text))); }
    /// \brief Gives the file its name. The last call on this object.
    void commit();

    const std::string& path() const { return path_; }

  private:
    std::string path_;
    std::string temporary_;
    int descriptor_ = -1;
    int slot_ = -1;  ///< in the list of unfinished files
};

/// \brief Removes every temporary file that is open now. May be called from a signal handler, by a
///        program that then ends.
void remove_unfinished_files() noexcept;

}  // namespace attn
