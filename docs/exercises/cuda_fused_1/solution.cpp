namespace attn::exercises {

/// Where, in rows of 32 floats, the piece of four floats `piece` of a row lies.
int place(int row, int piece) { return row * 32 + 4 * (piece ^ row % 8); }

}  // namespace attn::exercises
