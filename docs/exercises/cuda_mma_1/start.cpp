// Broken: deals the elements out row by row, four to a lane.
namespace attn::exercises {

/// Row (0 to 15) of register i (0 to 3) of a lane (0 to 31).
int row_of(int lane, int i) { return (lane * 4 + i) / 8; }

/// Its column (0 to 7).
int column_of(int lane, int i) { return (lane * 4 + i) % 8; }

/// Lanes that hold parts of one row.
int lanes_of_a_row() { return 2; }

}  // namespace attn::exercises
