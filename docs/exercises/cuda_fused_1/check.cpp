#include "../counting.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace attn::exercises {

int place(int row, int piece);

namespace {
constexpr int rows = 128, pieces = 8;

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
    bool own = true, within = true;
    std::set<int> seen;
    for (int row = 0; row < rows; ++row)
        for (int piece = 0; piece < pieces; ++piece) {
            const int at = place(row, piece);
            own &= seen.insert(at).second;
            within &= at / 32 == row && at % 4 == 0;
        }
    // As the product reads: eight lanes, one piece of eight neighbouring rows, four floats each.
    int reading = 0;
    for (int first = 0; first < rows; first += 8)
        for (int piece = 0; piece < pieces; ++piece) {
            std::vector<int> floats;
            for (int lane = 0; lane < 8; ++lane)
                for (int n = 0; n < 4; ++n) floats.push_back(place(first + lane, piece) + n);
            reading = std::max(reading, turns(floats));
        }
    return {claim("every piece has its own place", own, "a place is taken twice"),
            claim("a piece stays in its row", within, "a row would not be copied as a whole"),
            compare("turns to read", reading, 1)};
}

}  // namespace attn::exercises
