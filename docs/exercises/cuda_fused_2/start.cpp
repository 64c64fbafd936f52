// Broken: believes that the query tile is loaded once.
namespace attn::exercises {

/// Elements that one head reads; L and S multiples of 128, E of 32.
long long elements_read(long long L, long long S, long long E, long long Ev) {
    return L * E + L / 128 * S * (E + Ev);
}

}  // namespace attn::exercises
