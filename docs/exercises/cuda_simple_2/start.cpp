// Broken: takes the floats of neighbouring threads for neighbours.
namespace attn::exercises {

/// Sectors of 32 bytes that a warp touches when lane n reads float n * E.
int sectors(int E) {
    (void)E;
    return 32 * 4 / 32;
}

}  // namespace attn::exercises
