namespace attn::exercises {

/// Row (0 to 15) of register i (0 to 3) of a lane (0 to 31).
int row_of(int lane, int i) { return lane / 4 + i / 2 * 8; }

/// Its column (0 to 7).
int column_of(int lane, int i) { return lane % 4 * 2 + i % 2; }

/// Lanes that hold parts of one row.
int lanes_of_a_row() { return 4; }

}  // namespace attn::exercises
