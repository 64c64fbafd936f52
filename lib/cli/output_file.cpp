#include "output_file.hpp"

#include "byte_source.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>

namespace attn {
namespace {

/// Names of the temporary files that exist now, for `remove_unfinished_files`. Files beyond the
/// last slot would only survive a Ctrl-C.
std::array<std::atomic<const char*>, 64> unfinished{};
static_assert(std::atomic<const char*>::is_always_lock_free, "a signal handler reads it");

int remember(const char* name) {
    for (std::size_t slot = 0; slot < unfinished.size(); ++slot) {
        const char* none = nullptr;
        if (unfinished[slot].compare_exchange_strong(none, name)) return static_cast<int>(slot);
    }
    return -1;
}

void forget(int slot) {
    if (slot >= 0) unfinished[static_cast<std::size_t>(slot)] = nullptr;
}

/// \brief The folder part of a path, with its slash; "" for the working folder.
std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

std::string random_name() {
    std::random_device random;
    return fmt::format(".attn-{:08x}{:08x}.tmp", random(), random());
}

}  // namespace

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
        throw file_error(path_, "is there already and is not a regular file; it is not replaced");
    if (path_.empty() || path_.back() == '/') throw file_error(path_, "is not a file name");
    temporary_ = folder_of(path_) + random_name();
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                         0666);  // less the user's umask
    if (descriptor_ < 0)
        throw file_error(path_, fmt::format("cannot be written ({})", std::strerror(errno)));
    slot_ = remember(temporary_.c_str());
}

OutputFile::~OutputFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
    forget(slot_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0)
            throw file_error(path_, fmt::format("cannot be written ({})", std::strerror(errno)));
        bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
}

void OutputFile::commit() {
    // The data must be on disk before the name is: else a crash could leave an empty file.
    if (::fsync(descriptor_) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0)
        throw file_error(path_, fmt::format("cannot be written ({})", std::strerror(errno)));
    ::close(descriptor_);
    descriptor_ = -1;
    forget(slot_);
}

void remove_unfinished_files() noexcept {
    for (const auto& name : unfinished)
        if (const char* path = name.load()) ::unlink(path);
}

}  // namespace attn
