/// \file
/// \brief What an exercise's start.cpp and solution.cpp both define: attention of one head.
#pragma once

#include <attn/tensor.hpp>

#include <cmath>
#include <limits>

namespace attn::exercises {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// \brief Working memory that counts: some exercises have a budget.
class Scratch {
  public:
    /// \brief `count` floats, contents undefined. Throws when the exercise's budget is exceeded.
    float* take(Index count);
    explicit Scratch(Index budget);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

  private:
    Index budget_, taken_ = 0;
    float* memory_;
};

/// \brief One head, row-major float32.
struct Head {
    Index L = 0, S = 0, E = 0, Ev = 0;
    const float* query = nullptr;         ///< (L, E)
    const float* key = nullptr;           ///< (S, E)
    const float* value = nullptr;         ///< (S, Ev)
    const unsigned char* mask = nullptr;  ///< (L, S), 0: row i may not see key j; null: no mask
    float scale = 1;
    Scratch* scratch = nullptr;
    float* out = nullptr;        ///< (L, Ev)
    float* logsumexp = nullptr;  ///< (L)

    bool visible(Index i, Index j) const { return mask == nullptr || mask[i * S + j] != 0; }
    /// \brief Query row i times key row j, scaled.
    float score(Index i, Index j) const {
        float dot = 0;
        for (Index e = 0; e < E; ++e) dot += query[i * E + e] * key[j * E + e];
        return scale * dot;
    }
};

/// \brief Writes every element of `head.out` and `head.logsumexp`.
void attend(const Head& head);

}  // namespace attn::exercises
