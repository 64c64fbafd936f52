/// \file
/// \brief The error of one head, measured on a sample: what `Execution::max_relative_error` asks.
///
/// No formula on steps and norms is near the error of every head: it depends on which keys matter.
/// So eight rows are computed a second time, by the tier `simd`, and compared. That costs 8 / L of
/// a float32 head (0.8 % at L = 1024, at the speed of single rows). What a sample may miss, the few
/// rows that one loud key half decides, is estimated from its step.
#pragma once

#include "int8_kernel.hpp"
#include "registry.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace attn {

inline constexpr Index sampled_rows = 8;

/// \brief Samples scatter: a head passes if its measured error is below the limit by this factor.
inline constexpr double sample_margin = 1.5;

/// \brief Row i of a problem, with its output to `out`, (1, Hq, 1, Ev), of the problem's dtype.
inline Problem row_of(const Problem& p, Index i, void* out) {
    Problem row = p;
    const auto move = [i](auto& view) {
        using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                        const std::byte, std::byte>;
        view.data = static_cast<Byte*>(view.data) +
                    i * view.stride[2] * static_cast<Index>(size_of(view.dtype));
        view.shape[2] = 1;
    };
    move(row.query);
    if (row.mask_kind != MaskKind::none) move(row.mask);
    row.L = 1;
    row.diagonal = p.diagonal + i;
    row.threads = 1;
    row.logsumexp = {};
    const Index shape[] = {1, p.Hq, 1, p.Ev};
    row.out = MutableTensorView(out, p.dtype, shape);
    return row;
}

inline std::size_t rounded_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

inline std::size_t row_scratch(const Problem& p) {
    return tier_simd.scratch_bytes(row_of(p, 0, nullptr));
}

/// \brief Bytes that `exceeds` needs for a problem of one key head.
inline std::size_t sample_bytes(const Problem& p) {
    const std::size_t heads = static_cast<std::size_t>(p.Hq);
    return rounded_up(heads * static_cast<std::size_t>(p.Ev) * size_of(p.dtype)) +
           rounded_up(heads * 2 * sizeof(double)) + rounded_up(row_scratch(p));
}

/// \brief What a key much louder than the others may do to the rows that it half decides: too few
///        to be met by a sample. 0 if there is none.
///
/// Its score's standard deviation, from its step and the queries' length (a rotated row's largest
/// element is about three times its root mean square), is 0.41 |scale| scale_k |q|; a weight p
/// moves by p (1 - p) of that, at most a quarter, and two rows' values by the square root of two.
inline double loud_key_error(const Problem& p, const Int8Head& head, double query_length) {
    double largest = 0, squares = 0;
    for (Index j = 0; j < p.S; ++j) {
        const double scale = static_cast<double>(head.key_scale[j]);
        largest = std::max(largest, scale), squares += scale * scale;
    }
    if (largest * largest * static_cast<double>(p.S) <= 4 * squares) return 0;
    return 0.41 * 0.25 * std::sqrt(2.0) * std::abs(p.scale) * largest * query_length;
}

/// \brief Whether the relative L2 error of `p.out` in some query head is likely above `limit`.
inline bool exceeds(const Problem& p, const Int8Head& head, double limit, std::byte* memory) {
    const std::size_t out_bytes =
        rounded_up(static_cast<std::size_t>(p.Hq * p.Ev) * size_of(p.dtype));
    const Index rows = std::min(sampled_rows, p.L);
    // (Hq, 2): |error|^2, |out|^2; in double, where no square of a float overflows or vanishes.
    double* const sums = reinterpret_cast<double*>(memory + out_bytes);
    const std::size_t sums_bytes = static_cast<std::size_t>(p.Hq) * 2 * sizeof(double);
    std::fill_n(sums, 2 * p.Hq, 0.0);
    double query_squares = 0;
    visit_float(p.dtype, [&]<class T>(T) {
        const auto query = as<const T, 4>(p.query);                 // (1, Hq, L, E)
        const auto got = as<const T, 4>(p.out);                     // (1, Hq, L, Ev)
        const T* const exact = reinterpret_cast<const T*>(memory);  // (Hq, Ev)
        for (Index n = 0; n < rows; ++n) {
            const Index i = (2 * n + 1) * p.L / (2 * rows);
            Problem row = row_of(p, i, memory);
            row.scratch = {memory + out_bytes + rounded_up(sums_bytes), row_scratch(p)};
            tier_simd.run(row);
            for (Index h = 0; h < p.Hq; ++h) {
                for (Index e = 0; e < p.E; ++e) {
                    const double x =
                        static_cast<double>(static_cast<Compute<T>>(query(0, h, i, e)));
                    query_squares += x * x;
                }
                for (Index e = 0; e < p.Ev; ++e) {
                    const double want = static_cast<double>(Compute<T>(exact[h * p.Ev + e]));
                    const double off = static_cast<double>(Compute<T>(got(0, h, i, e))) - want;
                    sums[2 * h] += off * off;
                    sums[2 * h + 1] += want * want;
                }
            }
        }
    });
    const double query_length =
        rows == 0 ? 0 : std::sqrt(query_squares / static_cast<double>(rows * p.Hq));
    bool above = !(loud_key_error(p, head, query_length) <= limit);
    for (Index h = 0; h < p.Hq; ++h)  // not `>`: NaN counts as too much
        above |= !(sample_margin * std::sqrt(sums[2 * h]) <= limit * std::sqrt(sums[2 * h + 1]));
    return above;
}

}  // namespace attn
