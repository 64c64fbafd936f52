#include "../counting.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace attn::exercises {

int column(int e, int row);

namespace {
constexpr int rows = 128, channels = 32;

/// Turns that a warp needs: the largest number of different floats in one bank.
int turns(const std::vector<int>& floats) {
    std::map<int, std::set<int>> banks;
    for (int at : floats) banks[at % 32].insert(at);
    std::size_t most = 0;
    for (const auto& [bank, wanted] : banks) most = std::max(most, wanted.size());
    return static_cast<int>(most);
}
}  // namespace

std::vector<Answer> check() {
    bool permutation = true, together = true;
    for (int e = 0; e < channels; ++e) {
        std::set<int> seen;
        for (int row = 0; row < rows; ++row) {
            const int at = column(e, row);
            permutation &= at >= 0 && at < rows && seen.insert(at).second;
            together &= at == column(e, row / 4 * 4) + row % 4 && column(e, row / 4 * 4) % 4 == 0;
        }
    }
    // As load_transposed writes: lane i holds row i / 8 and channels i % 8 * 4 + n.
    int writing = 0;
    for (int first = 0; first < rows; first += 4)
        for (int n = 0; n < 4; ++n) {
            std::vector<int> floats;
            for (int lane = 0; lane < 32; ++lane) {
                const int e = lane % 8 * 4 + n, row = first + lane / 8;
                floats.push_back(e * rows + column(e, row));
            }
            writing = std::max(writing, turns(floats));
        }
    return {
        claim("every row has its own column", permutation, "a column is missing or taken twice"),
        claim("four rows stay together", together,
              "a float4 would not hold four neighbouring rows"),
        compare("turns to write", writing, 1)};
}

}  // namespace attn::exercises
