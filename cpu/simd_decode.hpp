/// \file
/// \brief Few queries against many keys (decoding): each key and value is used once or a few times,
///        so memory is the limit and one query per lane would leave most lanes empty. Here a
///        register holds neighbouring elements of one row, keys and values stream through once, and
///        all query heads of a group use them on the way.
#pragma once

#include "simd_decode_products.hpp"
#include "simd_merge.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief Working memory of one thread.
struct RowScratch {
    float* query;   ///< (rows, E rounded up to whole registers) scaled, zeros behind E
    float* weight;  ///< (rows, tile_keys) scores, then weights
    float* state;   ///< (rows, simd_partial_stride(Ev))
    float* line;    ///< (tile_keys) additive mask of one row
    float* key;     ///< (tile_keys, E) elements copied; unused where keys are read in place
    float* value;   ///< (tile_keys, Ev) likewise
    Index query_stride;
    Index floats;  ///< in all

    RowScratch(const Problem& p, float* memory) : query_stride(lines(p.E)), floats(0) {
        const auto take = taker(memory, floats);
        query = take(simd_few_rows * query_stride);
        weight = take(simd_few_rows * simd_tile_keys);
        state = take(simd_few_rows * simd_partial_stride(p.Ev));
        line = take(simd_tile_keys);
        key = take(p.key.stride[3] != 1 ? simd_tile_keys * p.E : 0);
        value = take(p.value.stride[3] != 1 ? simd_tile_keys * p.Ev : 0);
    }
};

/// \brief Most registers of Ev that one pass over the values takes for a group of rows.
constexpr int value_registers(int group) {
    constexpr int accumulators = width == 16 ? 16 : 8;
    return accumulators / group < 8 ? accumulators / group : 8;
}

/// \brief The tile of keys as `Element`s with unit stride along E and Ev.
template <class Element>
struct RowTile {
    const typename Element::Memory* key;
    const typename Element::Memory* value;
    Index key_stride, value_stride;
    Index keys;
    const typename Element::Memory* next_key;  ///< of the next tile; null: there is none
    std::uint64_t allowed[64];                 ///< one word per row
};

/// \brief `Group` rows against one tile of keys.
template <class Element, int Group>
void visit_rows(const Problem& p, const SimdTask& task, const RowMap& map,
                const RowScratch& scratch, Index first_row, Index first_key,
                const RowTile<Element>& tile, bool careful) {
    const Index stride = simd_partial_stride(p.Ev);
    float* const weight = scratch.weight + first_row * simd_tile_keys;  // (Group, tile_keys)
    float* const state = scratch.state + first_row * stride;            // (Group, stride)
    using Next = RowsNext<Element, Group>;
    const bool first = first_row == 0;  // the first rows fetch for all
    score_rows<Element, Group>(scratch.query + first_row * scratch.query_stride,
                               scratch.query_stride, tile.key, tile.key_stride, tile.keys, p.E,
                               first ? Next{tile.value, tile.value_stride} : Next{}, weight);
    float shrink[Group];
    for (int g = 0; g < Group; ++g) {
        const Index r = first_row + g;
        const bool additive = p.mask_kind == MaskKind::additive;
        if (additive)
            widen_row(p.mask.dtype, p.mask.data,
                      task.b * p.mask.stride[0] + map.head[r] * p.mask.stride[1] +
                          map.query[r] * p.mask.stride[2] + first_key * p.mask.stride[3],
                      p.mask.stride[3], tile.keys, scratch.line);
        shrink[g] = weigh_row(weight + g * simd_tile_keys, tile.allowed[r],
                              additive ? scratch.line : nullptr, state + g * stride);
    }
    float* const out = state + simd_partial_header;
    const Index whole = p.Ev / width;
    for_register_tiles<value_registers(Group)>(whole, [&]<int Count>(Rows<Count>, Index column) {
        sum_rows<Element, Group, Count>(weight, tile.value + column * width, tile.value_stride,
                                        tile.keys, 0, shrink,
                                        first && tile.next_key != nullptr
                                            ? Next{tile.next_key + column * width, tile.key_stride}
                                            : Next{},
                                        out + column * width, stride, careful);
    });
    if (p.Ev % width != 0)
        sum_rows<Element, Group, 1>(weight, tile.value + whole * width, tile.value_stride,
                                    tile.keys, p.Ev % width, shrink, Next{}, out + whole * width,
                                    stride, careful);
}

/// \brief Where a tile's rows of keys or values lie: in place, or copied if their elements are not
///        neighbours in memory.
template <class Element>
void place(const TensorView& from, const SimdTask& task, Index first, Index keys, Index columns,
           float* copy, const typename Element::Memory*& data, Index& stride) {
    using Memory = typename Element::Memory;
    const Memory* const source = static_cast<const Memory*>(from.data) + task.b * from.stride[0] +
                                 task.key_head * from.stride[1] + first * from.stride[2];
    data = source;
    stride = from.stride[2];
    if (from.stride[3] == 1) return;
    Memory* const to = reinterpret_cast<Memory*>(copy);
    for (Index j = 0; j < keys; ++j)
        for (Index e = 0; e < columns; ++e)
            to[j * columns + e] = source[j * from.stride[2] + e * from.stride[3]];
    data = to;
    stride = columns;
}

/// \brief Streams the task's keys and values once for all its rows; leaves the rows' state in
///        `scratch.state`.
template <class Element>
void stream_keys(const Problem& p, const SimdTask& task, const RowMap& map,
                 const RowScratch& scratch, bool careful) {
    const Index stride = simd_partial_stride(p.Ev);
    for (Index n = 0; n < map.rows * stride; ++n) scratch.state[n] = 0;
    for (Index r = 0; r < map.rows; ++r) scratch.state[r * stride] = minus_infinity;

    const Index end =
        map.visible[map.rows - 1] < task.end_key ? map.visible[map.rows - 1] : task.end_key;
    for (Index first = task.first_key; first < end; first += simd_tile_keys) {
        RowTile<Element> tile;
        tile.keys = end - first < simd_tile_keys ? end - first : simd_tile_keys;
        const Cover cover = read_bits(p, map, first, tile.keys, tile.allowed);
        if (cover == Cover::none) continue;
        if (cover == Cover::all)
            for (Index r = 0; r < map.rows; ++r) tile.allowed[r] = low_bits(tile.keys);

        place<Element>(p.key, task, first, tile.keys, p.E, scratch.key, tile.key, tile.key_stride);
        place<Element>(p.value, task, first, tile.keys, p.Ev, scratch.value, tile.value,
                       tile.value_stride);
        tile.next_key = p.key.stride[3] == 1 && first + simd_tile_keys < end
                            ? tile.key + simd_tile_keys * tile.key_stride
                            : nullptr;
        for_register_tiles<4>(map.rows, [&]<int Group>(Rows<Group>, Index first_row) {
            visit_rows<Element, Group>(p, task, map, scratch, first_row, first, tile, careful);
        });
    }
}

void load_rows(const Problem& p, const SimdTask& task, const RowMap& map,
               const RowScratch& scratch) {
    const float scale = static_cast<float>(p.scale);
    for (Index r = 0; r < map.rows; ++r) {
        float* const row = scratch.query + r * scratch.query_stride;
        widen_row(p.dtype, p.query.data,
                  task.b * p.query.stride[0] + map.head[r] * p.query.stride[1] +
                      map.query[r] * p.query.stride[2],
                  p.query.stride[3], p.E, row);
        for (Index e = 0; e < p.E; ++e) row[e] *= scale;
        for (Index e = p.E; e < scratch.query_stride; ++e) row[e] = 0;
    }
}

/// \brief Whether the outputs of all rows are finite.
bool rows_finite(const Problem& p, const RowMap& map, const float* state) {
    const Index stride = simd_partial_stride(p.Ev);
    float zero = 0;  // 0 * infinity and 0 * NaN are NaN
    for (Index r = 0; r < map.rows; ++r)
        for (Index e = 0; e < p.Ev; ++e) zero += 0.0f * state[r * stride + simd_partial_header + e];
    return zero == 0;
}

template <class Element>
void attend_rows_of(const Problem& p, const SimdTask& task, float* memory) {
    const RowScratch scratch(p, memory);
    const RowMap map = map_rows(p, task);
    load_rows(p, task, map, scratch);
    stream_keys<Element>(p, task, map, scratch, false);
    // As in attend_tile: a value that is not finite must not reach rows that may not see it.
    if (!rows_finite(p, map, scratch.state)) stream_keys<Element>(p, task, map, scratch, true);
    if (task.partial == nullptr) return finish(p, task, scratch.state);
    std::memcpy(task.partial, scratch.state,
                static_cast<std::size_t>(map.rows * simd_partial_stride(p.Ev)) * sizeof(float));
}

void attend_rows(const Problem& p, const SimdTask& task, float* memory) {
    switch (p.dtype) {
        case DType::float16:
            return attend_rows_of<Float16>(p, task, memory);
        case DType::bfloat16:
            return attend_rows_of<Bfloat16>(p, task, memory);
        default:
            return attend_rows_of<Float32>(p, task, memory);
    }
}

}  // namespace
}  // namespace attn::ATTN_ISA
