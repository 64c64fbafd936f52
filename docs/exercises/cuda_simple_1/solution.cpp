namespace attn::exercises {

/// Elements that the three kernels read for one head: query (L, E), key (S, E), value (S, Ev) and
/// the score matrix (L, S).
long long elements_read(long long L, long long S, long long E, long long Ev) {
    const long long scores = L * S * 2 * E;  // a query row and a key row for each score
    const long long softmax = L * 3 * S;     // maximum, sum, division
    const long long mix = L * Ev * 2 * S;    // a row of probabilities and a column of values
    return scores + softmax + mix;
}

}  // namespace attn::exercises
