#include "../counting.hpp"

#include <algorithm>
#include <set>

namespace attn::exercises {

int offset(int row, int piece);

namespace {
/// Turns for pieces of 16 bytes: the most that lie in the same group of four banks.
int turns(const std::vector<int>& bytes) {
    int count[8] = {}, most = 0;
    for (int at : bytes) most = std::max(most, ++count[at / 16 % 8]);
    return most;
}
}  // namespace

std::vector<Answer> check() {
    bool inside = true;
    std::set<int> seen;
    int reading = 0, copying = 0;
    for (int first = 0; first < 64; first += 8)
        for (int piece = 0; piece < 8; ++piece) {
            std::vector<int> phase, row;
            for (int n = 0; n < 8; ++n) {
                const int at = offset(first + n, piece);
                inside &= at >= 0 && at < 64 * 128 && at % 16 == 0 && seen.insert(at).second;
                phase.push_back(at);
                row.push_back(offset(first + piece, n));
            }
            reading = std::max(reading, turns(phase));
            copying = std::max(copying, turns(row));
        }
    return {claim("every piece has its own place", inside,
                  "a place is outside, unaligned or taken twice"),
            compare("turns of a phase of ldmatrix", reading, 1),
            compare("turns to copy a row in", copying, 1)};
}

}  // namespace attn::exercises
