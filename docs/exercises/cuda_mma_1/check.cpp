#include "../counting.hpp"

#include <set>

namespace attn::exercises {

int row_of(int lane, int i);
int column_of(int lane, int i);
int lanes_of_a_row();

std::vector<Answer> check() {
    bool every = true;
    std::set<int> seen;
    std::set<int> lanes_of_row[16];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const int row = row_of(lane, i), column = column_of(lane, i);
            every &= row >= 0 && row < 16 && column >= 0 && column < 8;
            every &= seen.insert(row * 8 + column).second;
        }
    // Walk over the fragment as the hardware fills it: group by group, pair by pair.
    long long wrong = 0;
    for (int half = 0; half < 2; ++half)
        for (int group = 0; group < 8; ++group)
            for (int t = 0; t < 4; ++t)
                for (int pair = 0; pair < 2; ++pair) {
                    const int lane = 4 * group + t, i = 2 * half + pair;
                    lanes_of_row[group + 8 * half].insert(lane);
                    wrong += row_of(lane, i) != group + 8 * half;
                    wrong += column_of(lane, i) != 2 * t + pair;
                }
    return {claim("every element has one place", every, "an element is missing or held twice"),
            compare("rows or columns that differ", wrong, 0),
            compare("lanes that share a row", lanes_of_a_row(),
                    static_cast<long long>(lanes_of_row[0].size()))};
}

}  // namespace attn::exercises
