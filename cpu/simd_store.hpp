/// \file
/// \brief From the state of a tile to its outputs: sums of weight * value begin at 0, go out
///        transposed back and divided; and which rows of the next task come nearer meanwhile.
#pragma once

#include "simd_layout.hpp"

namespace attn::ATTN_ISA {
namespace {

/// \brief No key seen: maxima -inf, sums of weights 0.
inline void start_weights(const TileScratch& scratch) {
    for (Index n = 0; n < simd_tile_rows; ++n) scratch.max[n] = minus_infinity, scratch.sum[n] = 0;
}

/// \brief And sums of weight * value 0.
inline void start_sums(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    for (Index n = 0; n < lines(map.rows) * p.Ev; ++n) scratch.out[n] = 0;
}

inline void start_panels(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    start_weights(scratch);
    start_sums(p, map, scratch);
}

/// \brief Whether all sums of weight * value are finite.
inline bool all_finite(const Problem& p, const RowMap& map, const TileScratch& scratch) {
    const Index lanes = (map.rows + width - 1) / width * width;
    Lanes zero[4] = {Lanes(0.0f), Lanes(0.0f), Lanes(0.0f), Lanes(0.0f)};  // sums in flight at once
    for (Index n = 0, turn = 0; n < lanes * p.Ev; n += width, ++turn)
        // 0 * infinity and 0 * NaN are NaN
        zero[turn % 4] = fma(load(scratch.out + n), Lanes(0.0f), zero[turn % 4]);
    const Lanes sum = (zero[0] + zero[1]) + (zero[2] + zero[3]);
    return xsimd::all(sum == sum);
}

/// \brief What a row's sums are multiplied with. A row that saw no key has sum 0 and output 0.
[[gnu::always_inline]] inline float normalizer(float sum) { return sum == 0 ? 0.0f : 1.0f / sum; }

void write_logsumexp(const Problem& p, Index b, Index h, Index i, float max, float sum) {
    if (p.logsumexp.rank == 0) return;
    const MutableTensorView& to = p.logsumexp;
    static_cast<float*>(to.data)[b * to.stride[0] + h * to.stride[1] + i * to.stride[2]] =
        sum == 0 ? minus_infinity : max + __builtin_logf(sum);
}

[[gnu::always_inline]] inline Index out_at(const Problem& p, Index b, Index h, Index i) {
    return b * p.out.stride[0] + h * p.out.stride[1] + i * p.out.stride[2];
}

/// \brief One row's result: the sums divided, rounded and written, and its logsumexp.
inline void write_row(const Problem& p, Index b, Index h, Index i, float max, float sum,
                      float* out) {
    const float factor = normalizer(sum);
    for (Index e = 0; e < p.Ev; ++e) out[e] *= factor;
    narrow_row(p.dtype, out, p.Ev, p.out.data, out_at(p, b, h, i), p.out.stride[3]);
    write_logsumexp(p, b, h, i, max, sum);
}

/// \brief Transposes the sums back and writes them: divided to `out`, or unfinished to the task's
///        `partial`.
/// \return whether all sums are finite
bool store_tile(const Problem& p, const SimdTask& task, const RowMap& map,
                const TileScratch& scratch) {
    const bool in_place = p.dtype == DType::float32 && p.out.stride[3] == 1;
    Lanes zero[4] = {Lanes(0.0f), Lanes(0.0f), Lanes(0.0f), Lanes(0.0f)};
    float rest = 0;
    for (int first = 0; first < map.rows; first += 4) {
        float* to[4];  // (Ev) each
        float factor[4];
        for (Index n = 0; n < 4; ++n) {
            const Index row = first + n;
            to[n] = scratch.line + n * scratch.line_stride;
            factor[n] = 0;
            if (row >= map.rows) continue;
            const float max = scratch.max[row], sum = scratch.sum[row];
            if (task.partial) {
                float* const state = task.partial + row * simd_partial_stride(p.Ev);
                state[0] = max;
                state[1] = sum;
                to[n] = state + simd_partial_header;
                factor[n] = 1;
                continue;
            }
            const Index h = map.head[row], i = map.query[row];
            if (in_place) to[n] = static_cast<float*>(p.out.data) + out_at(p, task.b, h, i);
            factor[n] = normalizer(sum);
            write_logsumexp(p, task.b, h, i, max, sum);
        }
        const int lane = first / panel_lanes * panel_lanes;
        const Index lanes = vectors_at(map, lane) * width;
        const float* const from = panel_at(p, scratch, lane).out + (first - lane);  // (Ev, lanes)
        Index e = 0;
        for (; e + width <= p.Ev; e += width)
            transpose_fours([&](Index r) { return from + (e + r) * lanes; },
                            [&](Index n, Lanes x) {
                                zero[n] = fma(x, Lanes(0.0f), zero[n]);  // NaN for infinity and NaN
                                (x * Lanes(factor[n])).store_unaligned(to[n] + e);
                            });
        for (; e < p.Ev; ++e)
            for (Index n = 0; n < 4; ++n) {
                rest += from[e * lanes + n] * 0.0f;
                to[n][e] = from[e * lanes + n] * factor[n];
            }
        if (in_place || task.partial) continue;
        for (Index n = 0; n < 4 && first + n < map.rows; ++n)
            narrow_row(p.dtype, to[n], p.Ev, p.out.data,
                       out_at(p, task.b, map.head[first + n], map.query[first + n]),
                       p.out.stride[3]);
    }
    const Lanes sum = (zero[0] + zero[1]) + (zero[2] + zero[3]) + Lanes(rest);
    return xsimd::all(sum == sum);
}

/// \brief What the last tiles of this task fetch for the next one, of float32 tensors.
inline RowsAhead rows_ahead(const Problem& p, const SimdTask& task, const RowMap& map) {
    RowsAhead ahead;
    const auto find = [&](const TensorView& from, Index next, Index columns, auto& rows) {
        rows.data = static_cast<const float*>(from.data) + task.b * from.stride[0] +
                    task.key_head * from.stride[1] + next;
        rows.stride = from.stride[2];
        rows.lines = next != 0 && from.stride[3] == 1 ? lines(columns) / 16 : 0;
    };
    find(p.key, task.next_key, p.E, ahead.key);
    find(p.value, task.next_value, p.Ev, ahead.value);
    for (Index r = 0; r < simd_tile_rows; ++r) {
        const Index row = r < map.rows ? r : map.rows - 1, h = map.head[row], i = map.query[row];
        ahead.query[r] =
            static_cast<const float*>(p.query.data) + query_at(p, task.b, h, i) + task.next_query;
        ahead.out[r] = task.partial
                           ? task.partial + row * simd_partial_stride(p.Ev) + simd_partial_header
                           : static_cast<const float*>(p.out.data) + out_at(p, task.b, h, i);
    }
    return ahead;
}

}  // namespace
}  // namespace attn::ATTN_ISA
