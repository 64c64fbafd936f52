#include "byte_source.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>

namespace attn {

static_assert(std::endian::native == std::endian::little,
              "both file formats hold little-endian numbers, which are read as they are");

namespace {

/// \brief O_NONBLOCK: opening a named pipe must not wait for a writer.
int open_to_read(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        throw file_error(path, fmt::format("cannot be opened ({})", std::strerror(errno)));
    return descriptor;
}

std::uint64_t regular_size(const std::string& path, int descriptor) {
    struct stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    if (known && S_ISREG(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
    ::close(descriptor);
    throw file_error(path, known && S_ISDIR(status.st_mode) ? "is a folder, not a file"
                                                            : "is not a regular file");
}

}  // namespace

FileSource::FileSource(const std::string& path) : FileSource(path, open_to_read(path)) {}

FileSource::FileSource(const std::string& path, int descriptor)
    : ByteSource(path, regular_size(path, descriptor)), descriptor_(descriptor) {}

FileSource::~FileSource() { ::close(descriptor_); }

void FileSource::read(std::uint64_t offset, std::span<std::byte> target) const {
    // Linux reads at most 2 GiB at a time.
    while (!target.empty()) {
        const ssize_t count =
            ::pread(descriptor_, target.data(), target.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0)
            throw file_error(name(), fmt::format("cannot be read ({})", std::strerror(errno)));
        if (count == 0)
            throw file_error(
                name(), fmt::format("ends at byte {}, {} bytes too early", offset, target.size()));
        offset += static_cast<std::uint64_t>(count);
        target = target.subspan(static_cast<std::size_t>(count));
    }
}

void MemorySource::read(std::uint64_t offset, std::span<std::byte> target) const {
    if (offset > bytes_.size() || target.size() > bytes_.size() - offset)
        throw file_error(name(),
                         fmt::format("ends at byte {}, but {} bytes are wanted from byte {}",
                                     bytes_.size(), target.size(), offset));
    if (!target.empty()) std::memcpy(target.data(), bytes_.data() + offset, target.size());
}

Error file_error(std::string_view name, std::string_view sentence) {
    return Error(ErrorCode::bad_file, fmt::format("{}: {}", name, sentence));
}

std::string shown(std::string_view text) {
    constexpr std::size_t longest = 60;
    std::string safe = "'";
    for (char c : text.substr(0, longest)) {
        if (c >= ' ' && c <= '~')
            safe += c;
        else
            safe += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
    return safe + (text.size() > longest ? "...'" : "'");
}

std::string tuple_text(std::span<const Index> shape) {
    return shape.size() == 1 ? fmt::format("({},)", shape[0])
                             : fmt::format("({})", fmt::join(shape, ", "));
}

std::uint64_t checked_bytes(const ByteSource& source, std::span<const Index> shape,
                            std::size_t element_bytes) {
    if (shape.size() > static_cast<std::size_t>(max_rank))
        throw file_error(source.name(), fmt::format("has {} axes, but at most {} are taken",
                                                    shape.size(), max_rank));
    std::uint64_t bytes = element_bytes;
    bool empty = false;
    for (Index extent : shape) {
        empty = empty || extent == 0;
        const auto factor = static_cast<std::uint64_t>(std::max<Index>(extent, 1));
        if (bytes > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / factor)
            throw file_error(
                source.name(),
                fmt::format("has shape {}, whose size in bytes overflows", tuple_text(shape)));
        bytes *= factor;
    }
    return empty ? 0 : bytes;
}

void check_bools(const ByteSource& source, const Tensor& tensor) {
    const auto* bytes = static_cast<const unsigned char*>(tensor.data());
    const auto* end = bytes + tensor.bytes();
    const auto* bad = std::find_if(bytes, end, [](unsigned char byte) { return byte > 1; });
    if (bad != end)
        throw file_error(source.name(), fmt::format("bool number {} is {}, but must be 0 or 1",
                                                    bad - bytes, static_cast<int>(*bad)));
}

}  // namespace attn
