namespace attn::exercises {

/// Elements that one head reads; L a multiple of 128, S of 64, E of 32.
long long elements_read(long long L, long long S, long long E, long long Ev) {
    const long long round = 128 * E + 64 * E + 64 * Ev;  // query, key and value tile
    return L / 128 * (S / 64) * round;
}

}  // namespace attn::exercises
