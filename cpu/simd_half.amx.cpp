/// \file
/// \brief bfloat16 and float16 on the matrix tiles of AMX, where the machine has them: a part of
///        the tier `simd`. Everything but the two products is the code of the other instruction
///        sets: scores, softmax and sums stay in float32, one query in each lane.
///
/// A bfloat16 problem rounds its weights to bfloat16, which costs up to 2^-8 of them. A float16
/// problem takes every number as the sum of two bfloat16: queries, keys and values exactly, weights
/// to within 2^-17. Tier.accuracy says so.
#include "simd_amx_layout.hpp"
#include "simd_decode.hpp"
#include "simd_tile.hpp"

namespace attn::ATTN_ISA {
namespace {

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

/// \brief Scores of 16 queries become weights, rounded to bfloat16 and paired along the keys; what
///        the rounding leaves goes to the second plane. Their sum, of weights before rounding, is
///        added to `sum`.
/// \param score   (64, lanes), from the queries' first
/// \param weight  (Count planes, 32, lanes, 2), likewise
template <int Count>
void weigh(const float* score, Index lanes, Lanes shift, Half* weight, Lanes& sum) {
    // The conversion puts its second operand's 16 halves below its first's; pairs want them in
    // turn.
    alignas(64) static constexpr Half in_turn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(in_turn);
    const auto pair = [&](__m512 even, __m512 odd) {
        return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    };
    const Index plane = simd_tile_keys * lanes;
    for (Index j = 0; j < simd_tile_keys; j += 2) {
        const Lanes even = exp2((load(score + j * lanes) - shift) * Lanes(log2e));
        const Lanes odd = exp2((load(score + (j + 1) * lanes) - shift) * Lanes(log2e));
        sum = sum + (even + odd);
        const __m512i both = pair(even, odd);
        _mm512_store_si512(weight + j * lanes, both);
        if constexpr (Count > 1) {  // a bfloat16 is the upper half of a float
            const __m512 even_part = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            const __m512 odd_part = _mm512_castsi512_ps(
                _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
            _mm512_store_si512(weight + plane + j * lanes,
                               pair(_mm512_sub_ps(even, even_part), _mm512_sub_ps(odd, odd_part)));
        }
    }
}

/// \brief Puts 0 in the place of every value that is not finite, and adds what it contributes by
/// hand
///        to the rows that give it a weight: in the product, 0 * NaN would reach the others.
template <int Count>
void set_aside_non_finite(Index columns, Index lanes, const AmxScratch<Count>& scratch) {
    constexpr Half exponent = 0x7f80;
    for (Index e = 0; e < columns; ++e)
        for (Index j = 0; j < simd_tile_keys; ++j) {
            Half& value = scratch.value[e * simd_tile_keys + j];
            if ((value & exponent) != exponent) continue;
            for (Index lane = 0; lane < lanes; ++lane) {
                const Half* const at = scratch.weight + (j / 2 * lanes + lane) * 2 + j % 2;
                const float weight = widen<bfloat16>(*at);
                if (weight != 0) scratch.out[e * lanes + lane] += weight * widen<bfloat16>(value);
            }
            for (int c = 0; c < Count; ++c) (&value)[c * columns * simd_tile_keys] = 0;
        }
}

//! [loop]
/// \brief Visits the tiles of keys as visit_keys does.
template <int Count>
void visit_keys_amx(const Problem& p, const SimdTask& task, const RowMap& map,
                    const AmxScratch<Count>& scratch, bool careful) {
    const Tiles tiles;
    const Index lanes = tall(map.rows), columns = tall(p.Ev);
    const float scale = static_cast<float>(p.scale);
    const Planes query = pair_queries(p, task, map, scratch, lanes);
    const Planes weight = {scratch.weight, simd_tile_keys * lanes, lanes * 4};
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

        const Planes key = fetch_keys(p, task, first, tile.keys, scratch);
        multiply<Count>(key, simd_tile_keys, query, lanes, deep(p.E) / depth, scratch.score, false);

        for (Index lane = 0; lane < lanes; lane += side) {
            const Lanes old = load(max + lane);
            const Lanes top = mask_scores(tile, lane, lanes, scale, scratch.score, old);
            const Lanes shift = xsimd::select(top == Lanes(minus_infinity), Lanes(0.0f), top);
            const Lanes shrink = exp2((old - shift) * Lanes(log2e));
            Lanes total = load(sum + lane) * shrink;
            weigh<Count>(scratch.score + lane, lanes, shift, scratch.weight + 2 * lane, total);
            store(max + lane, top);
            store(sum + lane, total);
            if (xsimd::all(shrink == Lanes(1.0f))) continue;  // no maximum grew
            for (Index e = 0; e < columns; ++e) {
                float* const at = scratch.out + e * lanes + lane;
                store(at, load(at) * shrink);
            }
        }
        const Planes value = transpose_values(p, task, first, tile.keys, scratch);
        if (careful) set_aside_non_finite(columns, lanes, scratch);
        multiply<Count>(value, columns, weight, lanes, simd_tile_keys / depth, scratch.out, true);
    }
}
//! [loop]

template <int Count>
void attend_tile_amx(const Problem& p, const SimdTask& task, float* memory) {
    const AmxScratch<Count> scratch(p, memory);
    const RowMap map = map_rows(p, task);
    visit_keys_amx(p, task, map, scratch, false);
    // As in attend_tile: a value that is not finite must not reach rows that may not see it.
    if (!all_finite(p, map, scratch.tile)) visit_keys_amx(p, task, map, scratch, true);
    // An infinity in a visible query or key times the 0 of a second plane is NaN, where the score
    // may be -infinity. Such rows are rare, and computed again by the code that has no planes: they
    // alone, so that the others have the same bits with and without them.
    std::uint64_t nan = 0;
    for (Index r = 0; Count > 1 && r < map.rows; ++r)
        nan |= std::uint64_t{scratch.tile.sum[r] != scratch.tile.sum[r]} << r;
    store_tile(p, task, map, scratch.tile);
    for (Index r = 0; r < task.rows; ++r) {
        if ((nan >> r & 1) == 0) continue;
        SimdTask row = task;
        row.first_row += r;
        row.rows = 1;
        if (task.partial != nullptr) row.partial += r * simd_partial_stride(p.Ev);
        attend_tile(p, row, memory);
    }
}

void attend_half_tile(const Problem& p, const SimdTask& task, float* memory) {
    if (p.dtype == DType::bfloat16) return attend_tile_amx<1>(p, task, memory);
    attend_tile_amx<2>(p, task, memory);
}

Index scratch_floats(const Problem& p) {
    const Index rows = RowScratch(p, nullptr).floats;
    const Index tile = p.dtype == DType::bfloat16 ? AmxScratch<1>(p, nullptr).floats
                                                  : AmxScratch<2>(p, nullptr).floats;
    return tile > rows ? tile : rows;
}

}  // namespace

extern const SimdKernels simd_kernels = {
    .scratch_floats = scratch_floats,
    .attend_tile = attend_half_tile,
    .attend_rows = attend_rows,
    .merge = merge,
    .finish = finish,
    .exp2 = nullptr,
};

}  // namespace attn::ATTN_ISA
