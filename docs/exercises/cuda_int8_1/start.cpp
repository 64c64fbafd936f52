// Broken: takes the elements of a 16-bit fragment for channels.
namespace attn::exercises {

/// Row (0 to 15) of query register r (0 to 3), and the first of its four channels (0 to 31).
int query_row(int lane, int r) { return lane / 4 + r % 2 * 8; }
int query_channel(int lane, int r) { return lane % 4 * 2 + r / 2 * 8; }

/// Key (0 to 7) of both key registers of a lane, and the first of the four channels of register r.
int key_of(int lane) { return lane / 4; }
int key_channel(int lane, int r) { return lane % 4 * 2 + r * 8; }

}  // namespace attn::exercises
