/// \file
/// \brief A working folder for a test, and what lies in it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

/// \brief The bytes of a file; none if there is no such file.
inline std::string contents(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// \brief A new folder that goes away with the test.
struct Folder {
    std::filesystem::path path;

    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "attn_test_XXXXXX").string();
        path = ::mkdtemp(name.data());
    }
    ~Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    std::string operator/(const std::string& name) const { return (path / name).string(); }
    /// \brief Every entry by its name, with what it holds; hidden ones too.
    std::map<std::string, std::string> all() const {
        std::map<std::string, std::string> files;
        for (const auto& entry : std::filesystem::directory_iterator(path))
            files[entry.path().filename()] = entry.is_regular_file() ? contents(entry.path()) : "";
        return files;
    }
    std::size_t count() const { return all().size(); }
};
