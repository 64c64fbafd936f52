#include "../counting.hpp"

namespace attn::exercises {

int query_row(int lane, int r);
int query_channel(int lane, int r);
int key_of(int lane);
int key_channel(int lane, int r);

namespace {
constexpr int rows = 16, keys = 8, channels = 32;

/// Some integers of 8 bits, no two rows alike.
int element(int row, int channel) { return (row * 37 + channel * 91 + row * channel) % 255 - 127; }

/// What the lanes put into their registers: of the queries, and of the keys.
struct Registers {
    int query[32][4][4] = {}, key[32][2][4] = {};
    bool inside = true;

    int at(int row, int channel, int count) {
        const bool is = row >= 0 && row < count && channel >= 0 && channel < channels;
        inside &= is;
        return is ? element(row + (count == keys ? 100 : 0), channel) : 0;
    }
};
}  // namespace

std::vector<Answer> check() {
    Registers held;
    std::vector<int> times(rows * channels);
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            for (int r = 0; r < 4; ++r) {
                const int row = query_row(lane, r), channel = query_channel(lane, r) + i;
                held.query[lane][r][i] = held.at(row, channel, rows);
                if (held.inside) ++times[static_cast<std::size_t>(row * channels + channel)];
            }
            for (int r = 0; r < 2; ++r)
                held.key[lane][r][i] = held.at(key_of(lane), key_channel(lane, r) + i, keys);
        }
    long long never = 0, wrong = 0;
    for (int count : times) never += count == 0;
    // The tensor core: row r and key n meet in four lanes each, t by t, half by half, byte by byte.
    for (int row = 0; row < rows; ++row)
        for (int n = 0; n < keys; ++n) {
            int sum = 0, want = 0;
            for (int t = 0; t < 4; ++t)
                for (int half = 0; half < 2; ++half)
                    for (int i = 0; i < 4; ++i)
                        sum += held.query[row % 8 * 4 + t][row / 8 + 2 * half][i] *
                               held.key[4 * n + t][half][i];
            for (int e = 0; e < channels; ++e) want += element(row, e) * element(100 + n, e);
            wrong += sum != want;
        }
    return {claim("every place is in the tile", held.inside, "a row, key or channel is outside"),
            compare("numbers of the query tile that nobody holds", never, 0),
            compare("elements of the product that are wrong", wrong, 0)};
}

}  // namespace attn::exercises
