/// \file
/// \brief Inputs are regular files and nothing else; an output appears whole or not at all.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "complaint.hpp"
#include "folder.hpp"
#include "npy.hpp"

using namespace attn;
namespace fs = std::filesystem;

namespace {

void store(const fs::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

TEST_CASE("the readers take regular files only") {
    const Folder folder;
    CHECK(complaint([&] { read_npy(folder / "none.npy"); }) ==
          folder / "none.npy" + ": cannot be opened (No such file or directory)");
    CHECK(
        complaint([&] { read_npy(folder.path.string()); }).ends_with(": is a folder, not a file"));
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    CHECK(complaint([&] { read_npy(folder / "pipe"); }).ends_with(": is not a regular file"));
    CHECK(complaint([&] { read_npy("/dev/zero"); }).ends_with(": is not a regular file"));
    // A file that is shorter than it was when it was opened.
    store(folder / "x", std::string(100, 'x'));
    const FileSource source(folder / "x");
    fs::resize_file(folder / "x", 60);
    std::byte bytes[50];
    CHECK(complaint([&] {
              source.read(50, bytes);
          }).ends_with(": ends at byte 60, 40 bytes too early"));
}

TEST_CASE("the output file appears whole or not at all") {
    const Folder folder;
    store(folder / "x", "old");
    {
        OutputFile file(folder / "x");
        file.write(std::string("new"));
        CHECK(contents(folder / "x") == "old");
        CHECK(folder.count() == 2);
    }
    CHECK(contents(folder / "x") == "old");
    CHECK(folder.count() == 1);
    {
        OutputFile file(folder / "x");
        file.write(std::string("new"));
        file.commit();
    }
    CHECK(contents(folder / "x") == "new");
    CHECK(folder.count() == 1);

    fs::create_symlink("x", folder / "link");
    fs::create_directory(folder / "sub");
    CHECK(complaint([&] {
              OutputFile file(folder / "link");
          }).ends_with("is there already and is not a regular file; it is not replaced"));
    CHECK(complaint([&] { OutputFile file(folder / "sub"); }).ends_with("it is not replaced"));
    CHECK(complaint([&] { OutputFile file("/dev/null"); }).ends_with("it is not replaced"));
    CHECK(complaint([&] {
              OutputFile file(folder / "none/x");
          }).ends_with("cannot be written (No such file or directory)"));
    CHECK(complaint([&] { OutputFile file(folder / "none/"); }).ends_with("is not a file name"));
    CHECK(complaint([&] { OutputFile file(""); }).ends_with("is not a file name"));
    CHECK(complaint([&] { OutputFile file("/proc/x"); }).find("cannot be written (") !=
          std::string::npos);
    CHECK(contents(folder / "x") == "new");
    CHECK(folder.count() == 3);

    // A disk that is full, as the limit on file sizes shows it.
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const rlimit small{100, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    const std::string full =
        complaint([&] { write_npy(folder / "y.npy", Tensor({100}, DType::float32)); });
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(full.ends_with("y.npy: cannot be written (File too large)"));
    CHECK(folder.count() == 3);
    // Ctrl-C.
    OutputFile file(folder / "z");
    CHECK(folder.count() == 4);
    remove_unfinished_files();
    CHECK(folder.count() == 3);
    CHECK(complaint([&] { file.commit(); }).find("cannot be written (") != std::string::npos);
}
