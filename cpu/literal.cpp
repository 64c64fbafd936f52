/// \file
/// \brief Tier `literal`: the formula as written.
///
///     O_i = sum_j P_ij V_j,   P_ij = exp(s_ij - max_j s_ij) / sum_j exp(s_ij - max_j s_ij),
///     s_ij = scale * (Q_i . K_j) + mask_ij
///
/// One row of scores at a time, all sums in double, nothing clever: the judge of all other tiers.
/// The largest score is subtracted before exp, which changes nothing in exact arithmetic (it
/// divides numerator and denominator by the same number) and keeps exp from overflowing. Source:
/// Vaswani et al. 2017, eq. 1. Limits: none. Taught in \ref tier_literal.
#include "registry.hpp"
#include "saturate.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

namespace attn {
namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

/// What the mask adds to score (b, h, i, j): 0 or -inf for a boolean one.
double mask_at(const Problem& p, Index b, Index h, Index i, Index j) {
    if (p.mask_kind == MaskKind::none) return 0;
    if (p.mask_kind == MaskKind::boolean)
        return as<const std::uint8_t, 4>(p.mask)(b, h, i, j) != 0 ? 0 : minus_infinity;
    return visit_float(p.mask.dtype, [&]<class M>(M) {
        return static_cast<double>(static_cast<Compute<M>>(as<const M, 4>(p.mask)(b, h, i, j)));
    });
}

/// \brief One query row: its weighted mean of value rows into `out`, its logsumexp returned.
/// \param score  working memory, (S)
template <class T>
double attend(const Problem& p, Index b, Index h, Index i, double* score) {
    const auto query = as<const T, 4>(p.query);  // (B, Hq, L, E)
    const auto key = as<const T, 4>(p.key);      // (B, H, S, E)
    const auto value = as<const T, 4>(p.value);  // (B, H, S, Ev)
    const auto out = as<T, 4>(p.out);            // (B, Hq, L, Ev)
    const Index hk = p.key_head(h);

    //! [scores]
    double max = minus_infinity;
    for (Index j = 0; j < p.S; ++j) {
        const double mask = mask_at(p, b, h, i, j);
        const bool visible = j < p.visible(i) && mask != minus_infinity;
        double dot = 0;
        for (Index e = 0; visible && e < p.E; ++e)
            dot += double(query(b, h, i, e)) * double(key(b, hk, j, e));
        // A key that may not be seen is not even read: NaN in it must not matter.
        score[j] = visible ? p.scale * dot + mask : minus_infinity;
        if (score[j] > max) max = score[j];  // NaN is never larger; its own weight will be NaN
    }
    //! [scores]

    //! [weights]
    double sum = 0;
    for (Index j = 0; j < p.S; ++j) {
        // exp(-inf - -inf) would be NaN: a row that sees nothing has weights of 0.
        score[j] = score[j] == minus_infinity ? 0 : std::exp(score[j] - max);  // now the weight
        sum += score[j];
    }
    //! [weights]

    //! [mean]
    for (Index e = 0; e < p.Ev; ++e) {
        double mean = 0;
        for (Index j = 0; j < p.S; ++j)
            if (score[j] != 0) mean += score[j] * double(value(b, hk, j, e));
        out(b, h, i, e) = T(static_cast<Compute<T>>(sum == 0 ? 0 : mean / sum));
    }
    return sum == 0 ? minus_infinity : max + std::log(sum);
    //! [mean]
}

void run(const Problem& p) {
    double* score = reinterpret_cast<double*>(p.scratch.data());  // (S)
    visit_float(p.dtype, [&]<class T>(T) {
        for (Index b = 0; b < p.B; ++b)
            for (Index h = 0; h < p.Hq; ++h)
                for (Index i = 0; i < p.L; ++i) {
                    const double logsumexp = attend<T>(p, b, h, i, score);
                    if (p.logsumexp.absent()) continue;
                    as<Compute<T>, 3>(p.logsumexp)(b, h, i) = static_cast<Compute<T>>(logsumexp);
                }
    });
}

std::size_t scratch_bytes(const Problem& p) {
    return (counted(p.S) * Saturating{sizeof(double)}).count;
}

}  // namespace

const Tier tier_literal = {
    .limits = {.dtypes = all_floats},
    .available = always_available,
    .scratch_bytes = scratch_bytes,
    .run = run,
};

}  // namespace attn
