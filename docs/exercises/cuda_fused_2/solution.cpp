namespace attn::exercises {

/// Elements that one head reads; L and S multiples of 128, E of 32.
long long elements_read(long long L, long long S, long long E, long long Ev) {
    const long long round = 128 * E + 128 * E + 128 * Ev;  // query, key and value tile
    return L / 128 * (S / 128) * round;
}

}  // namespace attn::exercises
