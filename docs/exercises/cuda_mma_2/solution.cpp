namespace attn::exercises {

/// Byte offset of piece `piece` (0 to 7, 16 bytes each) of row `row` in a tile of 128-byte rows.
int offset(int row, int piece) { return row * 128 + (piece ^ row % 8) * 16; }

}  // namespace attn::exercises
