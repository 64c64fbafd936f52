/// \file
/// \brief Rows of float32 become rows of integers: the vectorised form of quantize.hpp, with the
///        same integers.
#pragma once

#include "int8_dot.hpp"
#include "int8_kernel.hpp"
#include "int8_rotate.hpp"
#include "simd_transpose.hpp"

namespace attn::ATTN_ISA {
namespace {

[[gnu::always_inline]] inline Bits larger_ints(Bits a, Bits b) { return a > b ? a : b; }

/// \brief Lane n and lane n ^ Half, for all n.
template <int Half, int... I>
[[gnu::always_inline]] inline Bits exchange(Bits x, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(x, x, (I ^ Half)...);
}

/// \brief The largest lane; magnitudes are not negative.
template <int Half = width / 2>
[[gnu::always_inline]] inline std::uint32_t largest_lane(Bits x) {
    x = larger_ints(x, exchange<Half>(x, std::make_integer_sequence<int, width>()));
    if constexpr (Half > 1)
        return largest_lane<Half / 2>(x);
    else
        return static_cast<std::uint32_t>(x[0]);
}

[[gnu::always_inline]] inline Bits magnitudes(const float* from) {
    return bits_of(Lanes::load_unaligned(from)) & 0x7fffffff;
}

/// \brief The largest magnitude of a row that ends in zeros up to a whole register.
[[gnu::always_inline]] inline std::uint32_t row_magnitude(const float* row, Index count) {
    Bits largest{};
    for (Index e = 0; e < count; e += width) largest = larger_ints(magnitudes(row + e), largest);
    return largest_lane(largest);
}

/// \brief A row in float32 that ends in zeros up to a whole cache line: in place if it is so in
///        memory, otherwise copied to `line`.
[[gnu::always_inline]] inline const float* fetch_row(const Problem& p, const TensorView& from,
                                                     Index row, Index count, float* line) {
    const Index offset = row * from.stride[2];
    if (p.dtype == DType::float32 && from.stride[3] == 1 && count == lines(count))
        return static_cast<const float*>(from.data) + offset;
    widen_row(p.dtype, from.data, offset, from.stride[3], count, line);
    for (Index e = count; e < lines(count); ++e) line[e] = 0;
    return line;
}

/// \brief A row's integers, plus `offset`, as words [0, words(count)).
/// \param to  may be the row itself
/// \return the sum of the integers, without offset
template <int offset>
[[gnu::always_inline]] inline int quantize_row(const Quantizer& quantizer, const float* row,
                                               Index count, void* to) {
    typedef DotElement Narrow
        __attribute__((vector_size(sizeof(DotElement) * width), may_alias, aligned(4)));
    const Lanes inverse(quantizer.inverse);
    Bits sum{};
    DotElement* const numbers = static_cast<DotElement*>(to);
    for (Index e = 0; e < count; e += width) {  // writes stay behind reads
        const Bits q = round_to_ints(load(row + e) * inverse);
        sum += q;
        *reinterpret_cast<Narrow*>(numbers + e) = __builtin_convertvector(q + offset, Narrow);
    }
    const Index end = lines(count), whole = words(count) * dot_depth;
    if (matrix_tiles && end < whole)
        std::memset(numbers + end, 0, static_cast<std::size_t>(whole - end));
    int total = 0;
    for (int n = 0; n < width; ++n) total += sum[n];
    return total;
}

[[gnu::flatten]] Quantizer quantizer_of(std::uint32_t magnitude) { return Quantizer(magnitude); }
[[gnu::flatten]] bool has_integers(std::uint32_t magnitude) { return quantizable(magnitude); }

/// \brief Working memory of `measure` and `quantize`.
struct QuantizeScratch {
    float* line;      ///< (4, line_stride) rows on their way
    float* rotation;  ///< Rotation::floats(E)
    float* inverse;   ///< (Ev), first the largest magnitudes
    Word* words;      ///< (16, Ev) a block's values before they are transposed; matrix tiles only
    Index line_stride;
    Index floats = 0;

    QuantizeScratch(const Problem& p, float* memory) {
        const auto take = taker(memory, floats);
        const Index longest = p.E > p.Ev ? p.E : p.Ev;
        line_stride = lines(longest > int8_block ? longest : int8_block);
        line = take(4 * line_stride);
        rotation = take(Rotation::floats(p.E));
        inverse = take(p.Ev);
        words = reinterpret_cast<Word*>(take(matrix_tiles ? 16 * lines(p.Ev) : 0));
    }
};

/// \brief Marks the keys of a block that some query may see: 1, others 0.
/// \param line  working memory, (int8_block)
void mark_used(const Problem& p, Index first, Index keys, float* line, std::uint8_t* used) {
    const Index limit = p.L == 0 ? 0 : p.L + p.diagonal - first;  // the last query sees the most
    for (Index j = 0; j < keys; ++j) used[j] = j < limit && p.mask_kind == MaskKind::none;
    if (p.mask_kind == MaskKind::none) return;
    // A mask that is the same for all queries is read once, with the last one's causal limit.
    const Index last = p.mask.stride[2] == 0 ? p.L - 1 : 0;
    const Index heads = p.mask.stride[1] == 0 ? 1 : p.Hq;
    for (Index i = p.L - 1; i >= last; --i) {
        const Index seen = i + 1 + p.diagonal - first;
        const Index end = seen < keys ? seen : keys;
        if (end <= 0) return;
        for (Index h = 0; h < heads; ++h) {
            const Index at = h * p.mask.stride[1] + i * p.mask.stride[2] + first * p.mask.stride[3];
            if (p.mask_kind == MaskKind::boolean) {
                const std::uint8_t* row = static_cast<const std::uint8_t*>(p.mask.data) + at;
                for (Index j = 0; j < end; ++j) used[j] |= row[j * p.mask.stride[3]] != 0;
            } else {
                widen_row(p.mask.dtype, p.mask.data, at, p.mask.stride[3], end, line);
                for (Index j = 0; j < end; ++j) used[j] |= !(line[j] == minus_infinity);
            }
        }
        Index count = 0;
        for (Index j = 0; j < keys; ++j) count += used[j];
        if (count == keys) return;
    }
}

void measure(const Problem& p, const Int8Head& head, Index block, float* memory) {
    const QuantizeScratch scratch(p, memory);
    const Index first = block * int8_block;
    const Index end = first + int8_block < p.S ? first + int8_block : p.S;
    mark_used(p, first, end - first, scratch.line, head.used + first);
    head.not_integer[block] = head.counts[block] = 0;
    const bool counts = counts_for_mean(first, p.S);
    float* const sum = head.sums + block / smoothing_stride(p.S) * lines(p.E);  // (E)
    for (Index e = 0; counts && e < lines(p.E); ++e) sum[e] = 0;
    for (Index j = first; j < end; ++j) {
        if (head.used[j] == 0) continue;
        const float* const row = fetch_row(p, p.key, j, p.E, scratch.line);  // (E)
        if (!has_integers(row_magnitude(row, p.E))) {
            head.used[j] = 2;
            ++head.not_integer[block];
            continue;
        }
        if (!counts) continue;
        for (Index e = 0; e < p.E; e += width)
            store(sum + e, load(sum + e) + Lanes::load_unaligned(row + e));
        ++head.counts[block];
    }
}

void average(const Problem& p, const Int8Head& head) {
    Index tokens = 0;
    for (Index e = 0; e < lines(p.E); ++e) head.mean[e] = 0;
    const Index stride = smoothing_stride(p.S);
    for (Index sample = 0; sample * stride * int8_block < p.S; ++sample) {
        tokens += head.counts[sample * stride];
        const float* const sum = head.sums + sample * lines(p.E);  // (E)
        for (Index e = 0; e < p.E; e += width)
            store(head.mean + e, load(head.mean + e) + load(sum + e));
    }
    if (tokens == 0) return;
    for (Index e = 0; e < p.E; e += width)
        store(head.mean + e, load(head.mean + e) / Lanes(static_cast<float>(tokens)));
}

//! [quantize keys]
/// \brief Smooths, rotates and rounds the keys first .. end - 1. Keys that are not used are zero.
void quantize_keys(const Problem& p, const Int8Head& head, Index first, Index end,
                   const QuantizeScratch& scratch) {
    const Rotation rotate(p.E, Operand::key, scratch.rotation);
    const std::size_t bytes = static_cast<std::size_t>(head.key_words) * sizeof(std::int32_t);
    float* const line = scratch.line;
    for (Index j = first; j < end; ++j) {
        std::int32_t* const words = head.key + j * head.key_words;
        if (head.used[j] != 1) {
            std::memset(words, 0, bytes);
            head.key_start[j] = 0;
            head.key_scale[j] = 0;
            continue;
        }
        const float* const row = fetch_row(p, p.key, j, p.E, line);  // (E)
        for (Index e = 0; e < p.E; e += width)
            store(line + e, Lanes::load_unaligned(row + e) - load(head.mean + e));
        rotate(line);
        const Quantizer quantizer = quantizer_of(row_magnitude(line, p.E));
        head.key_start[j] = -query_offset * quantize_row<0>(quantizer, line, p.E, line);
        head.key_scale[j] = quantizer.scale;
        std::memcpy(words, line, bytes);
    }
}
//! [quantize keys]

/// \brief The largest magnitude of each channel of the values first .. end - 1, to `largest`, (Ev).
///        Keys whose value has no integers are marked; so are all with a value, if none of the
///        block reaches 2^-80.
void measure_values(const Problem& p, const Int8Head& head, Index first, Index end, float* line,
                    float* largest) {
    std::int32_t& marked = head.not_integer[first / int8_block];
    const auto for_each_value = [&](auto&& visit) {
        for (Index j = first; j < end; ++j)
            if (head.used[j] == 1) visit(fetch_row(p, p.value, j, p.Ev, line), head.used[j]);
    };
    Bits block{};
    for (Index e = 0; e < lines(p.Ev); ++e) largest[e] = 0;
    for_each_value([&](const float* row, std::uint8_t& used) {
        if (!has_integers(row_magnitude(row, p.Ev))) {
            used = 2, ++marked;
            return;
        }
        for (Index e = 0; e < p.Ev; e += width) {
            const Bits x = magnitudes(row + e);
            block = larger_ints(x, block);
            store_words(largest + e, larger_ints(x, load_words(largest + e)));
        }
    });
    const std::uint32_t most = largest_lane(block);
    if (most == 0 || quantizer_of(most).scale != 0) return;
    for_each_value([&](const float* row, std::uint8_t& used) {
        if (row_magnitude(row, p.Ev) != 0) used = 2, ++marked;
    });
}

/// \brief (16, columns) words become (columns, 16).
void transpose_words(const Word* from, Index columns, Word* to) {
    for (Index e = 0; e < columns; e += 4)
        for (Index w = 0; w < 16; w += width)
            transpose_fours(
                [&](Index r) {
                    return reinterpret_cast<const float*>(from + (w + r) * columns + e);
                },
                reinterpret_cast<float*>(to + e * 16 + w), 16);
}

/// \brief Rounds the values first .. end - 1 by the steps of their channels, and turns `dot_depth`
///        neighbouring keys into one word.
void quantize_values(const Problem& p, const Int8Head& head, Index first, Index end,
                     const QuantizeScratch& scratch) {
    float* const inverse = scratch.inverse;  // (Ev)
    float* const scale = head.value_scale + first / int8_block * lines(p.Ev);
    measure_values(p, head, first, end, scratch.line, inverse);
    for (Index e = 0; e < lines(p.Ev); ++e) {
        const Quantizer quantizer = quantizer_of(std::bit_cast<std::uint32_t>(inverse[e]));
        inverse[e] = quantizer.inverse;
        scale[e] = quantizer.scale / weight_levels;
    }
    //! [quantize values]
    // Matrix tiles want whole blocks, and a channel's 64 keys side by side.
    Word* const value = head.value + first / dot_depth * lines(p.Ev);  // of this block
    Word* const block = matrix_tiles ? scratch.words : value;          // (words, Ev)
    const Index block_end = matrix_tiles ? first + int8_block : end;
    for (Index j = first; j < block_end; j += dot_depth) {
        const float* row[dot_depth];  // (Ev) each
        for (Index d = 0; d < dot_depth; ++d) {
            float* const line = scratch.line + d * scratch.line_stride;
            row[d] = line;
            if (j + d < end && head.used[j + d] == 1)
                row[d] = fetch_row(p, p.value, j + d, p.Ev, line);
            else
                for (Index e = 0; e < lines(p.Ev); ++e) line[e] = 0;
        }
        Word* const words = block + (j - first) / dot_depth * lines(p.Ev);
        for (Index e = 0; e < p.Ev; e += width) {
            Bits q[dot_depth];
#pragma GCC unroll 4
            for (int d = 0; d < dot_depth; ++d)
                q[d] = round_to_ints(Lanes::load_unaligned(row[d] + e) * load(inverse + e));
            store_words(words + e, pack(q));
        }
    }
    //! [quantize values]
    if (matrix_tiles) transpose_words(block, lines(p.Ev), value);
}

void quantize(const Problem& p, Int8Values values, const Int8Head& head, Index block,
              float* memory) {
    const QuantizeScratch scratch(p, memory);
    const Index first = block * int8_block;
    const Index end = first + int8_block < p.S ? first + int8_block : p.S;
    quantize_keys(p, head, first, end, scratch);
    if (values == Int8Values::int8) quantize_values(p, head, first, end, scratch);
}

}  // namespace
}  // namespace attn::ATTN_ISA
