/// \file
/// \brief bfloat16 and float16 on the matrix tiles of AMX, where the machine has them: a part of
///        the tier `simd`. Everything but the two products is the code of the other instruction
///        sets: scores, softmax and sums stay in float32, one query in each lane.
///
/// A bfloat16 problem rounds its weights to bfloat16, which costs up to 2^-8 of them. A float16
/// problem takes every number as the sum of two bfloat16: queries, keys and values exactly, weights
/// to within 2^-15. Its scores are exact; its second product leaves out the rests of weights, below
/// 2^-7 of them, times the rests of values, at most 2^-8 of them. Tier.accuracy says so.
#include "simd_amx_softmax.hpp"
#include "simd_covers.hpp"
#include "simd_decode.hpp"
#include "simd_store.hpp"
#include "simd_tile.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Puts 0 in the place of every value that is not finite, and adds what it contributes by
///        hand to the rows that give it a weight: in the product, 0 * NaN would reach the others.
template <int Count>
void set_aside_non_finite(Index columns, const AmxBlock& block, const AmxScratch<Count>& scratch) {
    const Index lanes = block.lanes;
    constexpr Half exponent = 0x7f80;
    for (Index e = 0; e < columns; ++e)
        for (Index j = 0; j < simd_tile_keys; ++j) {
            Half& value = scratch.value[e * simd_tile_keys + j];
            if ((value & exponent) != exponent) continue;
            for (Index lane = 0; lane < lanes; ++lane) {
                const Half* const at = scratch.weight + (j / 2 * lanes + lane) * 2 + j % 2;
                const float weight = widen<bfloat16>(*at);
                if (weight != 0)
                    block.tile.out[e * lanes + lane] += weight * widen<bfloat16>(value);
            }
            for (int c = 0; c < Count; ++c) (&value)[c * columns * simd_tile_keys] = 0;
        }
}

/// \brief The rows of a task from one of them on.
SimdTask rows_from(const Problem& p, SimdTask task, Index row) {
    task.first_row += row;
    task.rows -= row;
    if (task.partial != nullptr) task.partial += row * simd_partial_stride(p.Ev);
    return task;
}

/// \brief The tiles of queries of a task, none of them with a key yet.
template <int Count>
int make_blocks(const Problem& p, const SimdTask& task, const AmxScratch<Count>& scratch,
                AmxBlock (&blocks)[amx_blocks]) {
    int count = 0;
    for (Index row = 0; row < task.rows; row += simd_tile_rows, ++count) {
        AmxBlock& block = blocks[count];
        SimdTask part = rows_from(p, task, row);
        if (part.rows > simd_tile_rows) part.rows = simd_tile_rows;
        block.map = map_rows(p, part);
        block.tile = scratch.tile;
        block.tile.out = scratch.out + count * scratch.out_floats;
        block.tile.max = scratch.max + count * simd_tile_rows;
        block.tile.sum = scratch.sum + count * simd_tile_rows;
        block.query = scratch.query + count * scratch.query_halves;
        block.lanes = tall(part.rows);
        const Index visible = block.map.visible[part.rows - 1];
        block.end = visible < task.end_key ? visible : task.end_key;
    }
    return count;
}

/// \brief Visits the tiles of keys as visit_keys does, with several tiles of queries side by side.
template <int Count>
void visit_keys_amx(const Problem& p, const SimdTask& task, const AmxScratch<Count>& scratch,
                    AmxBlock* blocks, int count, bool careful) {
    constexpr Products scores = Count == 1 ? Products::one : Products::four;
    constexpr Products sums = Count == 1 ? Products::one : Products::three;
    const Tiles tiles;
    const ScoreUnit unit(p);
    const Index columns = tall(p.Ev);
    Planes query[amx_blocks];
    Index end = 0;
    for (int n = 0; n < count; ++n) {
        const AmxBlock& block = blocks[n];
        query[n] = pair_queries(p, task, block, scratch);
        for (Index i = 0; i < columns * block.lanes; ++i) block.tile.out[i] = 0;
        for (Index i = 0; i < block.lanes; ++i)
            block.tile.max[i] = minus_infinity, block.tile.sum[i] = 0;
        end = block.end > end ? block.end : end;
    }
    for (Index first = task.first_key; first < end; first += simd_tile_keys) {
        Planes key, value;
        bool fetched = false;
        for (int n = 0; n < count; ++n) {
            const AmxBlock& block = blocks[n];
            KeyTile tile{};
            alignas(64) std::uint64_t allowed[64];
            tile.keys = block.end - first < simd_tile_keys ? block.end - first : simd_tile_keys;
            if (tile.keys <= 0 ||
                mask_tile(p, task, block.map, first, block.tile, allowed, tile) == Cover::none)
                continue;
            if (!fetched) {
                const Index keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;
                key = fetch_keys(p, task, first, keys, scratch);
                value = transpose_values(p, task, first, keys, scratch);
                fetched = true;
            }
            const Planes weight = {scratch.weight, simd_tile_keys * block.lanes, block.lanes * 4};
            multiply<scores>(key, simd_tile_keys, query[n], block.lanes, deep(p.E) / depth,
                             scratch.score, false);
            weigh_tile(tile, unit, columns, block, scratch);
            if (careful) set_aside_non_finite(columns, block, scratch);
            multiply<sums>(value, columns, weight, block.lanes, simd_tile_keys / depth,
                           block.tile.out, true);
        }
    }
    for (int n = 0; n < count; ++n)  // scaled scores from here on
        for (Index i = 0; i < blocks[n].lanes; ++i) blocks[n].tile.max[i] *= unit.unit;
}

template <int Count>
void attend_tile_amx(const Problem& p, const SimdTask& task, float* memory) {
    const AmxScratch<Count> scratch(p, memory);
    AmxBlock blocks[amx_blocks];
    const int count = make_blocks(p, task, scratch, blocks);
    visit_keys_amx(p, task, scratch, blocks, count, false);
    std::uint64_t nan[amx_blocks] = {};
    for (int n = 0; n < count; ++n) {
        const AmxBlock& block = blocks[n];
        // As in attend_tile: a value that is not finite must not reach rows that may not see it.
        if (!all_finite(p, block.map, block.tile))
            visit_keys_amx(p, task, scratch, blocks + n, 1, true);
        // An infinity in a visible query or key times the 0 of a second plane is NaN, where the
        // score may be -infinity. Such rows are rare, and computed again by the code that has no
        // planes: they alone, so that the others have the same bits with and without them.
        for (Index r = 0; Count > 1 && r < block.map.rows; ++r)
            nan[n] |= std::uint64_t{block.tile.sum[r] != block.tile.sum[r]} << r;
        store_tile(p, rows_from(p, task, n * simd_tile_rows), block.map, block.tile);
    }
    for (int n = 0; n < count; ++n)
        for (Index r = 0; r < blocks[n].map.rows; ++r) {
            if ((nan[n] >> r & 1) == 0) continue;
            SimdTask row = rows_from(p, task, n * simd_tile_rows + r);
            row.rows = 1;
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
    .most_rows = simd_task_rows,
    .attend_tile = attend_half_tile,
    .attend_rows = attend_rows,
    .merge = merge,
    .finish = finish,
    .exp2 = nullptr,
};

}  // namespace attn::ATTN_ISA
