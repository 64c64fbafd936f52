namespace attn::exercises {

/// Bytes that the pre-pass moves for one head: keys (S, E) of 16 bits in; bytes and steps out.
long long bytes_moved(long long S, long long E) { return 2 * 2 * S * E + S * E + 4 * S; }

/// 16-bit operations that would take the time which integers save.
long long operations_saved(long long L, long long S, long long E) { return 2 * L * S * E / 2; }

/// The shortest L = S, a multiple of 64, at which more is saved than moving the bytes costs.
long long shortest_length(long long E, long long operations_per_byte) {
    long long L = 64;
    while (operations_saved(L, L, E) <= operations_per_byte * bytes_moved(L, E)) L += 64;
    return L;
}

/// Bytes of K that the fused kernel reads for one head: each block of 64 queries, all of it, twice.
long long bytes_fused(long long L, long long S, long long E) {
    return (L + 63) / 64 * 2 * 2 * S * E;
}

}  // namespace attn::exercises
