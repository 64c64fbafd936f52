/// \file
/// \brief Records the order in which a tier's own loops touch memory, for the course's pictures.
#pragma once

#include <attn/tier.hpp>

#include <string>
#include <vector>

namespace attn::docs {

/// \brief One read or write of an element: which tensor, which of its rows.
struct Access {
    char tensor;  ///< 'q', 'k', 'v' or 'o'
    Index row;    ///< j of a key or value row, i of a query or out row
    bool operator==(const Access&) const = default;
};

/// \brief The accesses of the run in progress; repeated touches of one row count once.
inline std::vector<Access> accesses;

inline void note(Access access) {
    if (accesses.empty() || !(accesses.back() == access)) accesses.push_back(access);
}

/// \brief A float that notes when it is read or assigned. A tier's templates take it as an element
///        type, so what is recorded is the real loop.
struct Traced {
    float value = 0;
    char tensor = 0;  ///< 0: a temporary
    Index row = 0;

    Traced() = default;
    explicit Traced(float value_) : value(value_) {}
    operator float() const {
        note({tensor, row});
        return value;
    }
    Traced& operator=(const Traced& other) {
        value = other.value;
        note({tensor, row});
        return *this;
    }
    Traced(const Traced&) = default;
};

/// \brief One query row against S keys, all with E = Ev = 2: the smallest problem with tiles.
struct TracedRow {
    static constexpr Index E = 2;
    std::vector<Traced> query, key, value, out;  // (1, E), (S, E), (S, E), (1, E)
    Problem problem;

    explicit TracedRow(Index S)
        : query(fill('q', 1)), key(fill('k', S)), value(fill('v', S)), out(fill('o', 1)) {
        problem.L = 1, problem.S = problem.diagonal = S, problem.E = problem.Ev = E;
        problem.query = TensorView(query.data(), DType::float32, {1, 1, 1, E});
        problem.key = TensorView(key.data(), DType::float32, {1, 1, S, E});
        problem.value = TensorView(value.data(), DType::float32, {1, 1, S, E});
        problem.out = MutableTensorView(out.data(), DType::float32, {1, 1, 1, E});
        accesses.clear();
    }

  private:
    static std::vector<Traced> fill(char tensor, Index rows) {
        std::vector<Traced> all(static_cast<std::size_t>(rows * E));
        for (Index n = 0; n < rows * E; ++n) {
            Traced& element = all[static_cast<std::size_t>(n)];
            element.value = static_cast<float>((7 * n) % 5) / 5;
            element.tensor = tensor, element.row = n / E;
        }
        return all;
    }
};

/// \brief Accesses of one query row against S keys, in order.
std::vector<Access> trace_literal(Index S);
std::vector<Access> trace_online(Index S);

}  // namespace attn::docs
