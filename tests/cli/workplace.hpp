/// \file
/// \brief A folder in which tests run the command, and what they look at afterwards.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "folder.hpp"

inline const std::string data = ATTN_SOURCE_DIR "/tests/data/";
inline const std::string problem = "--query " + data + "npy/problem_query.npy --key " + data +
                                   "npy/problem_key.npy --value " + data + "npy/problem_value.npy ";

struct Result {
    int status;
    std::string out, err;
};

/// \brief A folder in which the command works. What it prints is caught in another one.
class Workplace : public Folder {
  public:
    /// \brief Runs a shell line in the folder; $attn is the command.
    Result shell(const std::string& line) const {
        const std::string out = caught_ / "out", err = caught_ / "err";
        const std::string all = "cd " + path.string() + " && attn='" ATTN_PROGRAM "' && { " + line +
                                "; } >" + out + " 2>" + err;
        const int status = std::system(all.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out), contents(err)};
    }
    Result attn(const std::string& arguments) const { return shell("\"$attn\" " + arguments); }

  private:
    Folder caught_;
};

inline bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}
