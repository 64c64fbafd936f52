namespace attn::exercises {

/// Column of a (32, 128) tile in which element (e, row) lies.
int column(int e, int row) { return row ^ (e / 4 % 8 * 4); }

}  // namespace attn::exercises
