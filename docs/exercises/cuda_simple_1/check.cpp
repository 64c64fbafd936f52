#include "../counting.hpp"

namespace attn::exercises {

long long elements_read(long long L, long long S, long long E, long long Ev);

namespace {
/// Runs the loops of gpu/cuda_simple.cu for one head, and counts.
long long simulate(long long L, long long S, long long E, long long Ev) {
    long long reads = 0;
    for (long long thread = 0; thread < L * S; ++thread)  // scores
        for (long long e = 0; e < E; ++e) reads += 2;     // query(i, e), key(j, e)
    for (long long thread = 0; thread < L; ++thread)      // softmax
        for (int pass = 0; pass < 3; ++pass)
            for (long long j = 0; j < S; ++j) reads += 1;  // row[j]
    for (long long thread = 0; thread < L * Ev; ++thread)  // mix
        for (long long j = 0; j < S; ++j) reads += 2;      // row[j], value(j, e)
    return reads;
}
}  // namespace

std::vector<Answer> check() {
    return {
        compare("L=1 S=1 E=1 Ev=1", elements_read(1, 1, 1, 1), simulate(1, 1, 1, 1)),
        compare("L=7 S=5 E=4 Ev=3", elements_read(7, 5, 4, 3), simulate(7, 5, 4, 3)),
        compare("L=64 S=64 E=64 Ev=64", elements_read(64, 64, 64, 64), simulate(64, 64, 64, 64))};
}

}  // namespace attn::exercises
