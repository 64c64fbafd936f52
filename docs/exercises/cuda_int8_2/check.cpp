#include "../counting.hpp"

namespace attn::exercises {

long long bytes_moved(long long S, long long E);
long long operations_saved(long long L, long long S, long long E);
long long shortest_length(long long E, long long operations_per_byte);
long long bytes_fused(long long L, long long S, long long E);

namespace {

/// The two kernels of the pre-pass, walking over the keys of one head.
struct PrePass {
    long long read = 0, written = 0;

    PrePass(long long S, long long E) {
        for (long long j = 0; j < S; ++j)  // the sums, for the mean
            for (long long e = 0; e < E; ++e) read += 2;
        for (long long j = 0; j < S; ++j) {  // without the mean, rotated, rounded
            for (long long e = 0; e < E; ++e) read += 2;
            for (long long e = 0; e < E; ++e) written += 1;
            written += 4;
        }
    }
};

/// Instructions of Q K^T, of 16 rows, 8 keys and `depth` channels each.
long long instructions(long long L, long long S, long long E, long long depth) {
    long long count = 0;
    for (long long i = 0; i < L; i += 16)
        for (long long j = 0; j < S; j += 8) count += (E + depth - 1) / depth;
    return count;
}

/// One m16n8k32 of bytes takes the time of one m16n8k16: operations of those that are not needed.
long long saved(long long L, long long S, long long E) {
    return (instructions(L, S, E, 16) - instructions(L, S, E, 32)) * 2 * 16 * 8 * 16;
}

long long shortest(long long E, long long operations_per_byte) {
    for (long long L = 64;; L += 64) {
        const PrePass cost(L, E);
        if (saved(L, L, E) > operations_per_byte * (cost.read + cost.written)) return L;
    }
}

}  // namespace

std::vector<Answer> check() {
    const PrePass cost(4096, 128);
    const long long moved = cost.read + cost.written;
    long long fused = 0;
    for (int block = 0; block < 512; block += 64) fused += PrePass(512, 128).read;
    if (bytes_moved(64, 64) <= 0 || operations_saved(64, 64, 64) <= 0)  // or the search never ends
        return {claim("something is moved and something is saved", false, "you count nothing")};
    return {
        compare("bytes of the pre-pass, S = 4096, E = 128", bytes_moved(4096, 128), moved),
        compare("operations saved, L = S = 512, E = 64", operations_saved(512, 512, 64),
                saved(512, 512, 64)),
        compare("shortest length, 150 operations a byte", shortest_length(128, 150),
                shortest(128, 150)),
        compare("shortest length, 30 operations a byte", shortest_length(64, 30), shortest(64, 30)),
        claim("it never pays for a single query",
              operations_saved(1, 65536, 128) < 150 * bytes_moved(65536, 128),
              "one query has nothing to save"),
        compare("bytes of K in the fused kernel, L = S = 512", bytes_fused(512, 512, 128), fused)};
}

}  // namespace attn::exercises
