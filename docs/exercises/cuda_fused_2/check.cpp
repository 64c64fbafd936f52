#include "../counting.hpp"

namespace attn::exercises {

long long elements_read(long long L, long long S, long long E, long long Ev);

namespace {
/// Runs the loops of gpu/cuda_fused.cu for one head, and counts what is loaded.
long long simulate(long long L, long long S, long long E, long long Ev) {
    long long reads = 0;
    for (long long row = 0; row < L; row += 128)
        for (long long key = 0; key < S; key += 128) {
            for (long long e0 = 0; e0 < E; e0 += 32) reads += (128 + 128) * 32;  // query, key
            reads += 128 * Ev;                                                   // value
        }
    return reads;
}
}  // namespace

std::vector<Answer> check() {
    return {compare("L=128 S=128 E=64 Ev=64", elements_read(128, 128, 64, 64),
                    simulate(128, 128, 64, 64)),
            compare("L=512 S=256 E=64 Ev=32", elements_read(512, 256, 64, 32),
                    simulate(512, 256, 64, 32)),
            compare("L=1024 S=1024 E=128 Ev=128", elements_read(1024, 1024, 128, 128),
                    simulate(1024, 1024, 128, 128))};
}

}  // namespace attn::exercises
