// Broken: counts every element once, however many threads read it.
namespace attn::exercises {

/// Elements that the three kernels read for one head: query (L, E), key (S, E), value (S, Ev) and
/// the score matrix (L, S).
long long elements_read(long long L, long long S, long long E, long long Ev) {
    return L * E + S * E + S * Ev + L * S;
}

}  // namespace attn::exercises
