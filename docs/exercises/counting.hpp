/// \file
/// \brief A counting exercise: no GPU is needed to know how many bytes, banks or fragments a kernel
///        touches. The exercise's check.cpp simulates threads and compares.
#pragma once

#include <string>
#include <vector>

namespace attn::exercises {

/// \brief One question and what came of it.
struct Answer {
    std::string name;
    bool ok = false;
    std::string text;
};

/// \brief Asks the learner's function; defined by each exercise's check.cpp.
std::vector<Answer> check();

/// \brief An answer that should be so; `otherwise` says what is wrong if it is not.
inline Answer claim(const std::string& name, bool ok, const std::string& otherwise) {
    return {name, ok, ok ? "it is so" : otherwise};
}

/// \brief An answer that should be a number.
inline Answer compare(const std::string& name, long long got, long long want) {
    return {name, got == want,
            "you say " + std::to_string(got) + ", the simulation counts " + std::to_string(want)};
}

}  // namespace attn::exercises
