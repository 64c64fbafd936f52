/// \file
/// \brief bfloat16 on the matrix tiles of AMX: what the tier `simd` runs for it where the machine
/// has
///        them. Everything but the two products is the code of the other instruction sets.
///
/// One instruction multiplies a tile of 16 x 32 bfloat16 by one of 32 x 16 and adds the exact
/// products to a tile of 16 x 16 floats, in 16 cycles: 16 times the multiply-adds of AVX-512. The
/// second operand comes in pairs: row k of its tile holds, for each column, the elements 2k and 2k
/// + 1.
///
///     product   first operand (16 rows x 32 deep)   second operand (16 pairs deep x 16 columns)
///     scores^T  16 keys, as they lie in memory      16 queries, paired along E once per task
///     output^T  16 columns of V, transposed in a    weights of 16 queries, paired along the keys
///               tile of 64 keys                     when they are rounded to bfloat16
///
/// Scores, softmax and sums stay in float32, one query in each lane. Rounding a weight to bfloat16
/// costs up to 2^-8 of it: Tier.accuracy says so.
#include "simd_decode.hpp"

#include <immintrin.h>

namespace attn::ATTN_ISA {
namespace {

using Half = std::uint16_t;  // the bits of a bfloat16

constexpr int side = 16;            // rows of a tile register; dwords in each
constexpr int depth = 2 * side;     // bfloat16 in a row: the depth of one multiplication
constexpr int tile_bytes_row = 64;  // bytes of a row

/// \brief Up to a multiple of the depth; what is added holds zeros.
constexpr Index deep(Index n) { return (n + depth - 1) / depth * depth; }
/// \brief Up to a multiple of the rows of a tile.
constexpr Index tall(Index n) { return (n + side - 1) / side * side; }

/// \brief Working memory of one thread, besides TileScratch. `lanes` is 64 at most.
struct AmxScratch {
    TileScratch tile;
    Half* query;   ///< (deep(E) / 2, lanes, 2) pairs along E
    Half* key;     ///< (64, deep(E)) copied; unused where keys are read in place
    Half* value;   ///< (tall(Ev), 64) transposed
    Half* weight;  ///< (64 / 2, lanes, 2) pairs along the keys
    float* pairs;  ///< (64 / 2, tall(Ev)) values paired along the keys, a pair seen as one float
    float* score;  ///< (64, lanes)
    float* out;    ///< (tall(Ev), lanes)
    Index floats;  ///< in all

    AmxScratch(const Problem& p, float* memory) : tile(p, memory), floats(tile.floats) {
        const auto take = [&](Index count) {
            float* const at = memory == nullptr ? nullptr : memory + floats;
            floats += lines(count);
            return at;
        };
        const auto take_halves = [&](Index count) {
            return reinterpret_cast<Half*>(take(count / 2));
        };
        query = take_halves(deep(p.E) * simd_tile_rows);
        key = take_halves(simd_tile_keys * deep(p.E));
        value = take_halves(tall(p.Ev) * simd_tile_keys);
        weight = take_halves(simd_tile_keys * simd_tile_rows);
        pairs = take(simd_tile_keys / 2 * tall(p.Ev));
        score = take(simd_tile_keys * simd_tile_rows);
        out = take(tall(p.Ev) * simd_tile_rows);
        tile.out = out;
    }
};

/// \brief Gives the tile registers their shape while it lives: all 8 are 16 rows of 64 bytes.
class Tiles {
  public:
    Tiles() {
        struct alignas(64) Config {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } config;
        for (int t = 0; t < 8; ++t) config.row_bytes[t] = tile_bytes_row, config.rows[t] = side;
        _tile_loadconfig(&config);
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    ~Tiles() { _tile_release(); }
};

//! [product]
/// \brief c += a b for 16 x Rows rows and 16 x Columns columns, Rows and Columns 1 or 2.
/// \param a  (16 * Rows, depth * steps), rows `a_row` bytes apart
/// \param b  (steps * 16 pairs, columns, 2), rows `b_row` bytes apart
/// \param c  (16 * Rows, 16 * Columns), rows `c_row` bytes apart
/// \param accumulate  false: c is set, not added to
template <int Rows, int Columns>
[[gnu::always_inline]] inline void multiply_tiles(const Half* a, Index a_row, const Half* b,
                                                  Index b_row, Index steps, float* c, Index c_row,
                                                  bool accumulate) {
    float* const c_below = c + side * c_row / 4;
    if (accumulate) {
        _tile_loadd(0, c, c_row);
        if (Columns > 1) _tile_loadd(1, c + side, c_row);
        if (Rows > 1) _tile_loadd(2, c_below, c_row);
        if (Rows > 1 && Columns > 1) _tile_loadd(3, c_below + side, c_row);
    } else {
        _tile_zero(0);
        if (Columns > 1) _tile_zero(1);
        if (Rows > 1) _tile_zero(2);
        if (Rows > 1 && Columns > 1) _tile_zero(3);
    }
    for (Index k = 0; k < steps; ++k) {
        const Half* const a_step = a + k * depth;
        const Half* const b_step = b + k * side * b_row / 2;
        _tile_loadd(6, b_step, b_row);
        _tile_loadd(4, a_step, a_row);
        _tile_dpbf16ps(0, 4, 6);
        if (Columns > 1) {
            _tile_loadd(7, b_step + depth, b_row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (Rows > 1) {
            _tile_loadd(5, a_step + side * a_row / 2, a_row);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (Rows > 1 && Columns > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_row);
    if (Columns > 1) _tile_stored(1, c + side, c_row);
    if (Rows > 1) _tile_stored(2, c_below, c_row);
    if (Rows > 1 && Columns > 1) _tile_stored(3, c_below + side, c_row);
}

/// \brief The whole product: `rows` and `lanes` are multiples of 16.
void multiply(const Half* a, Index a_row, Index rows, const Half* b, Index lanes, Index steps,
              float* c, bool accumulate) {
    const Index b_row = lanes * 4, c_row = lanes * 4;  // bytes
    for (Index r = 0; r < rows; r += 2 * side)
        for (Index n = 0; n < lanes; n += 2 * side) {
            const Half* const a_at = a + r * a_row / 2;
            const Half* const b_at = b + 2 * n;
            float* const c_at = c + r * lanes + n;
            const bool two_rows = r + side < rows, two_columns = n + side < lanes;
            if (two_rows && two_columns)
                multiply_tiles<2, 2>(a_at, a_row, b_at, b_row, steps, c_at, c_row, accumulate);
            else if (two_rows)
                multiply_tiles<2, 1>(a_at, a_row, b_at, b_row, steps, c_at, c_row, accumulate);
            else if (two_columns)
                multiply_tiles<1, 2>(a_at, a_row, b_at, b_row, steps, c_at, c_row, accumulate);
            else
                multiply_tiles<1, 1>(a_at, a_row, b_at, b_row, steps, c_at, c_row, accumulate);
        }
}
//! [product]

/// \brief Copies a row of halves to contiguous memory, zeros up to `padded`.
void copy_row(const Half* from, Index stride, Index count, Half* to, Index padded) {
    if (stride == 1)
        std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(Half));
    else
        for (Index n = 0; n < count; ++n) to[n] = from[n * stride];
    for (Index n = count; n < padded; ++n) to[n] = 0;
}

/// \brief Pairs the queries along E: a pair moves as one float, so this is a transposition.
void pair_queries(const Problem& p, const SimdTask& task, const RowMap& map,
                  const AmxScratch& scratch, Index lanes) {
    const Index pairs = deep(p.E) / 2;
    const TensorView& from = p.query;
    // The scores' memory, (4, deep(E)) halves of it, is free for now; its rows may be longer than
    // E.
    float* const line = scratch.tile.query;  // (64, E) floats: room for 4 rows of deep(E) halves
    for (Index r = 0; r < lanes; r += 4) {
        for (Index n = 0; n < 4; ++n) {
            Half* const to = reinterpret_cast<Half*>(line + n * pairs);
            const Index row = r + n;
            if (row < map.rows)
                copy_row(static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                             map.head[row] * from.stride[1] + map.query[row] * from.stride[2],
                         from.stride[3], p.E, to, 2 * pairs);
            else
                for (Index e = 0; e < 2 * pairs; ++e) to[e] = 0;
        }
        for (Index k = 0; k < pairs; k += 4)
            transpose_4x4(line + k, pairs, reinterpret_cast<float*>(scratch.query) + k * lanes + r,
                          lanes);
    }
}

/// \brief Keys as rows of at least deep(E) halves, 64 of them: in place if they are so in memory.
const Half* fetch_keys(const Problem& p, const SimdTask& task, Index first, Index keys,
                       const AmxScratch& scratch, Index& row_bytes) {
    const TensorView& from = p.key;
    const Half* const source = static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                               task.key_head * from.stride[1] + first * from.stride[2];
    row_bytes = from.stride[2] * static_cast<Index>(sizeof(Half));
    if (from.stride[3] == 1 && p.E % depth == 0 && keys == simd_tile_keys) return source;
    row_bytes = deep(p.E) * static_cast<Index>(sizeof(Half));
    for (Index j = 0; j < simd_tile_keys; ++j)
        copy_row(source + j * from.stride[2], from.stride[3], j < keys ? p.E : 0,
                 scratch.key + j * deep(p.E), deep(p.E));
    return scratch.key;
}

/// \brief Transposes 16 rows of 4: to[c][r] = from[r][c]. Rows 4 apart share a register from the
///        start, so each shuffle works on four 4 x 4 blocks at once.
[[gnu::always_inline]] inline void transpose_16x4(const float* from, Index from_row, float* to,
                                                  Index to_row) {
    const auto rows = [&](Index r) {  // rows r, r + 4, r + 8, r + 12
        const auto four = [&](Index row) { return _mm_loadu_ps(from + row * from_row); };
        __m512 x = _mm512_castps128_ps512(four(r));
        x = _mm512_insertf32x4(x, four(r + 4), 1);
        x = _mm512_insertf32x4(x, four(r + 8), 2);
        return _mm512_castps_pd(_mm512_insertf32x4(x, four(r + 12), 3));
    };
    const auto low = [](__m512d a, __m512d b) {
        return _mm512_castps_pd(_mm512_unpacklo_ps(_mm512_castpd_ps(a), _mm512_castpd_ps(b)));
    };
    const auto high = [](__m512d a, __m512d b) {
        return _mm512_castps_pd(_mm512_unpackhi_ps(_mm512_castpd_ps(a), _mm512_castpd_ps(b)));
    };
    const __m512d a = rows(0), b = rows(1), c = rows(2), d = rows(3);
    const __m512d ab_low = low(a, b), ab_high = high(a, b);
    const __m512d cd_low = low(c, d), cd_high = high(c, d);
    _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)));
    _mm512_storeu_ps(to + to_row, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)));
    _mm512_storeu_ps(to + 2 * to_row, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)));
    _mm512_storeu_ps(to + 3 * to_row, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)));
}

/// \brief Transposes a tile of values: two keys' elements become a pair, and pairs move as floats.
void transpose_values(const Problem& p, const SimdTask& task, Index first, Index keys,
                      const AmxScratch& scratch) {
    const TensorView& from = p.value;
    const Index columns = tall(p.Ev);
    const Half* const source = static_cast<const Half*>(from.data) + task.b * from.stride[0] +
                               task.key_head * from.stride[1] + first * from.stride[2];
    for (Index j = 0; j < simd_tile_keys; j += 2) {
        std::uint32_t* const to = reinterpret_cast<std::uint32_t*>(scratch.pairs + j / 2 * columns);
        const Half* const even = source + j * from.stride[2];
        const Half* const odd = even + from.stride[2];
        Index e = 0;
        if (from.stride[3] == 1 && j + 1 < keys)
            for (; e + side <= p.Ev; e += side) {
                const __m512i low = _mm512_cvtepu16_epi32(
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + e)));
                const __m512i high = _mm512_cvtepu16_epi32(
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + e)));
                _mm512_store_si512(to + e, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
        for (; e < columns; ++e) {
            const std::uint32_t low = j < keys && e < p.Ev ? even[e * from.stride[3]] : 0;
            const std::uint32_t high = j + 1 < keys && e < p.Ev ? odd[e * from.stride[3]] : 0;
            to[e] = low | high << 16;
        }
    }
    for (Index k = 0; k < simd_tile_keys / 2; k += 16)
        for (Index e = 0; e < columns; e += 4)
            transpose_16x4(scratch.pairs + k * columns + e, columns,
                           reinterpret_cast<float*>(scratch.value) + e * (simd_tile_keys / 2) + k,
                           simd_tile_keys / 2);
}

/// \brief Scales and masks the scores of 16 queries; returns their maxima, and those before.
Lanes mask_scores(const KeyTile& tile, Index lane, Index lanes, float scale, float* score,
                  Lanes top) {
    for (Index j = 0; j < simd_tile_keys; ++j) {
        float* const at = score + j * lanes + lane;
        Lanes x = load(at) * Lanes(scale);
        if (tile.bias) {
            const Lanes add = load(tile.bias + j * simd_tile_rows + lane);
            x = xsimd::select(add == Lanes(minus_infinity), add, x + add);
        }
        if (tile.allowed) x = select(tile.allowed[j] >> lane, x, Lanes(minus_infinity));
        if (j >= tile.keys) x = Lanes(minus_infinity);
        top = larger(x, top);
        store(at, x);
    }
    return top;
}

/// \brief Scores of 16 queries become weights, rounded to bfloat16 and paired along the keys; their
/// sum,
///        of weights before rounding, is added to `sum`.
/// \param score   (64, lanes), from the queries' first
/// \param weight  (32, lanes, 2), likewise
void weigh(const float* score, Index lanes, Lanes shift, Half* weight, Lanes& sum) {
    // The conversion puts its second operand's 16 halves below its first's; pairs want them in
    // turn.
    alignas(64) static constexpr Half in_turn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(in_turn);
    for (Index j = 0; j < simd_tile_keys; j += 2) {
        const Lanes even = exp2((load(score + j * lanes) - shift) * Lanes(log2e));
        const Lanes odd = exp2((load(score + (j + 1) * lanes) - shift) * Lanes(log2e));
        sum = sum + (even + odd);
        const __m512bh both = _mm512_cvtne2ps_pbh(odd, even);
        _mm512_store_si512(weight + j * lanes, _mm512_permutexvar_epi16(order, (__m512i)both));
    }
}

/// \brief Puts 0 in the place of every value that is not finite, and adds what it contributes by
/// hand
///        to the rows that give it a weight: in the product, 0 * NaN would reach the others.
void set_aside_non_finite(Index columns, Index lanes, const AmxScratch& scratch) {
    constexpr Half exponent = 0x7f80;
    for (Index e = 0; e < columns; ++e)
        for (Index j = 0; j < simd_tile_keys; ++j) {
            Half& value = scratch.value[e * simd_tile_keys + j];
            if ((value & exponent) != exponent) continue;
            for (Index lane = 0; lane < lanes; ++lane) {
                const float weight =
                    widen<bfloat16>(scratch.weight[(j / 2 * lanes + lane) * 2 + j % 2]);
                if (weight != 0) scratch.out[e * lanes + lane] += weight * widen<bfloat16>(value);
            }
            value = 0;
        }
}

//! [loop]
/// \brief Visits the tiles of keys as visit_keys does.
void visit_keys_amx(const Problem& p, const SimdTask& task, const RowMap& map,
                    const AmxScratch& scratch, bool careful) {
    const Tiles tiles;
    const Index lanes = tall(map.rows), columns = tall(p.Ev);
    const float scale = static_cast<float>(p.scale);
    pair_queries(p, task, map, scratch, lanes);
    for (Index n = 0; n < columns * lanes; ++n) scratch.out[n] = 0;
    float* const max = scratch.tile.max;
    float* const sum = scratch.tile.sum;
    for (Index n = 0; n < lanes; ++n) max[n] = minus_infinity, sum[n] = 0;

    const Index end =
        map.visible[map.rows - 1] < task.end_key ? map.visible[map.rows - 1] : task.end_key;
    for (Index first = task.first_key; first < end; first += simd_tile_keys) {
        KeyTile tile{};
        alignas(64) std::uint64_t allowed[64];
        tile.keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;
        if (mask_tile(p, task, map, first, scratch.tile, allowed, tile) == Cover::none) continue;

        Index key_row = 0;
        const Half* const key = fetch_keys(p, task, first, tile.keys, scratch, key_row);
        multiply(key, key_row, simd_tile_keys, scratch.query, lanes, deep(p.E) / depth,
                 scratch.score, false);

        for (Index lane = 0; lane < lanes; lane += side) {
            const Lanes old = load(max + lane);
            const Lanes top = mask_scores(tile, lane, lanes, scale, scratch.score, old);
            const Lanes shift = xsimd::select(top == Lanes(minus_infinity), Lanes(0.0f), top);
            const Lanes shrink = exp2((old - shift) * Lanes(log2e));
            Lanes total = load(sum + lane) * shrink;
            weigh(scratch.score + lane, lanes, shift, scratch.weight + 2 * lane, total);
            store(max + lane, top);
            store(sum + lane, total);
            if (xsimd::all(shrink == Lanes(1.0f))) continue;  // no maximum grew
            for (Index e = 0; e < columns; ++e) {
                float* const at = scratch.out + e * lanes + lane;
                store(at, load(at) * shrink);
            }
        }
        transpose_values(p, task, first, tile.keys, scratch);
        if (careful) set_aside_non_finite(columns, lanes, scratch);
        multiply(scratch.value, simd_tile_keys * static_cast<Index>(sizeof(Half)), columns,
                 scratch.weight, lanes, simd_tile_keys / depth, scratch.out, true);
    }
}
//! [loop]

void attend_tile_amx(const Problem& p, const SimdTask& task, float* memory) {
    const AmxScratch scratch(p, memory);
    const RowMap map = map_rows(p, task);
    visit_keys_amx(p, task, map, scratch, false);
    // As in attend_tile: a value that is not finite must not reach rows that may not see it.
    if (!all_finite(p, map, scratch.tile)) visit_keys_amx(p, task, map, scratch, true);
    store_tile(p, task, map, scratch.tile);
}

Index scratch_floats(const Problem& p) {
    const Index tile = AmxScratch(p, nullptr).floats, rows = RowScratch(p, nullptr).floats;
    return tile > rows ? tile : rows;
}

}  // namespace

extern const SimdKernels simd_kernels = {
    .scratch_floats = scratch_floats,
    .attend_tile = attend_tile_amx,
    .attend_rows = attend_rows,
    .merge = merge,
    .finish = finish,
    .exp2 = nullptr,
};

}  // namespace attn::ATTN_ISA
