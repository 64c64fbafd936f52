/// \file
/// \brief What rounding to 8 bits may change in one row of a reference, from the steps of
///        quantize.hpp: a part of judge.cpp.
#pragma once

#include <attn/judge.hpp>
#include <attn/quantize.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace attn {

/// \brief Queries and keys rotated, keys without their mean, and the step of each: one step for a
///        token, as the tiers that are judged by it have.
///
/// An element of a rounded vector is off by a uniform error within half a step: standard deviation
/// step / sqrt(12). A score is a sum of many such errors, so it is all but normally distributed,
/// and `deviations` of its standard deviations are never exceeded by chance.
///
/// The errors of the keys are independent. The error d of a query is common to all scores of its
/// row, and moves the output by d . sum_j p_j (v_j - o) k_j: by the covariance of values and keys
/// under the row's weights. That costs E Ev operations for every score. Where they are too many,
/// its bound takes its place: the variance of the values times that of the keys (Cauchy and
/// Schwarz).
class QuantizedHead {
  public:
    static constexpr double deviations = 8;

    /// \param q     (L, E)
    /// \param k  (S, E)
    /// \param v  (S, Ev)
    /// \param used  (S) keys that some row of the head may see
    /// \param exact  compute covariances, do not bound them
    QuantizedHead(const double* q, const double* k, const double* v, Index L, Index S, Index E,
                  Index Ev, double scale, const std::vector<char>& used, bool exact)
        : v_(v), S_(S), E_(E), Ev_(Ev), scale_(scale), exact_(exact) {
        std::vector<double> mean(static_cast<std::size_t>(E));
        Index count = 0;
        for (Index j = 0; j < S; ++j) {
            if (!used[j] || !finite(k + j * E, E)) continue;
            ++count;
            for (Index e = 0; e < E; ++e) mean[e] += k[j * E + e];
        }
        for (double& m : mean) m /= static_cast<double>(std::max<Index>(count, 1));
        for (Index i = 0; i < L; ++i) add(q + i * E, nullptr, Operand::query, queries_);
        for (Index j = 0; j < S; ++j) add(k + j * E, mean.data(), Operand::key, keys_);

        const Index blocks = (S + value_block - 1) / value_block;
        value_step_.resize(static_cast<std::size_t>(blocks * Ev));
        for (Index j = 0; j < S; ++j)
            for (Index c = 0; used[j] && finite(v + j * Ev, Ev) && c < Ev; ++c) {
                double& step = value_step_[j / value_block * Ev + c];
                step = std::max(step, std::abs(v[j * Ev + c]) / quantized_levels);
            }
        for (double& step : value_step_)  // all below the least become 0: off by their whole size
            if (step * quantized_levels < quantizable_least) step *= 2 * quantized_levels;
    }

    /// \brief The allowances of row i.
    /// \param weight  (S) exp(score - max)
    /// \param sum  of the weights
    /// \param o  (Ev) the result
    template <class Real>
    void measure(Index i, const std::vector<Real>& weight, Real sum, const long double* o,
                 double* score_rounding, double* value_rounding, double& logsumexp_rounding) const {
        const double q_variance = std::pow(queries_.step[i], 2) / 12 * scale_ * scale_;
        std::vector<double> p(weight.size()), variance(weight.size()), largest(value_blocks());
        double worst = 0, missing = 0, own = 0;
        for (Index j = 0; j < S_; ++j) {
            p[j] = sum > 0 ? static_cast<double>(weight[j] / sum) : 0;
            if (p[j] == 0) continue;
            const double both = score_variance(scale_, queries_.step[i], keys_.step[j],
                                               queries_.size[i], keys_.size[j], E_);
            variance[j] = both - q_variance * keys_.size[j];  // by the key's error
            worst = std::max(worst, p[j] > 1e-9 ? both : 0);
            own += p[j] * p[j] * variance[j];
            double& most = largest[static_cast<std::size_t>(j / value_block)];
            most = std::max(most, p[j]);
        }
        // exp(x) - 1 is a little more than x.
        const double factor = deviations * (1 + 4 * std::sqrt(worst));
        for (Index j = 0; j < S_; ++j)
            if (p[j] != 0) missing += half_weight(largest, j);
        // The query's error moves the logsumexp by its product with the mean key.
        const double mean_key = squared_sum(p, [](Index) { return 1.0; });
        logsumexp_rounding = factor * std::sqrt(own + q_variance * mean_key) + missing;

        double key_variance = -mean_key;
        for (Index j = 0; j < S_; ++j) key_variance += p[j] * keys_.size[j];
        for (Index c = 0; c < Ev_; ++c) {
            double spread = 0, value_variance = 0, weights = 0, values = 0;
            const auto from = [&](Index j) {  // how far value j is from the output
                return v_[j * Ev_ + c] - static_cast<double>(o[c]);
            };
            for (Index j = 0; j < S_; ++j) {
                if (p[j] == 0) continue;
                const double pull = p[j] * from(j);
                spread += pull * pull * variance[j];
                value_variance += pull * from(j);
                weights += half_weight(largest, j) * std::abs(from(j));
                values += p[j] * value_step_[j / value_block * Ev_ + c] / 2;
            }
            spread += q_variance * (exact_ ? squared_sum(p, from)
                                           : value_variance * std::max(key_variance, 0.0));
            score_rounding[c] = factor * std::sqrt(spread);
            value_rounding[c] = weights + values;
        }
    }

  private:
    struct Rows {
        std::vector<double> step;  ///< 0 for a row that is not quantized
        std::vector<double> size;  ///< squared length, rotated
        std::vector<double> at;    ///< (rows, E)
    };

    static bool finite(const double* row, Index count) {
        return std::all_of(row, row + count,
                           [](double x) { return std::abs(x) <= quantizable_largest; });
    }

    void add(const double* row, const double* mean, Operand operand, Rows& to) const {
        std::vector<float> x(static_cast<std::size_t>(E_));
        const bool quantized = finite(row, E_);
        for (Index e = 0; quantized && e < E_; ++e)
            x[e] = static_cast<float>(row[e] - (mean ? mean[e] : 0));
        rotate(x.data(), E_, operand);
        std::uint32_t most = 0;
        double size = 0;
        for (float a : x) {
            most = std::max(most, magnitude(a));
            size += static_cast<double>(a) * static_cast<double>(a);
            to.at.push_back(static_cast<double>(a));
        }
        to.step.push_back(static_cast<double>(Quantizer(most).scale));
        to.size.push_back(size);
    }

    std::size_t value_blocks() const {
        return static_cast<std::size_t>((S_ + value_block - 1) / value_block);
    }
    /// Half a step of a weight of key j's block.
    static double half_weight(const std::vector<double>& largest, Index j) {
        return largest[static_cast<std::size_t>(j / value_block)] / (2 * weight_levels);
    }
    /// | sum_j p_j f(j) k_j |^2
    template <class F>
    double squared_sum(const std::vector<double>& p, F&& f) const {
        std::vector<double> sum(static_cast<std::size_t>(E_));
        for (Index j = 0; j < S_; ++j) {
            if (p[j] == 0) continue;
            const double w = p[j] * f(j);
            const double* const key = keys_.at.data() + j * E_;
            double* const to = sum.data();
            for (Index e = 0; e < E_; ++e) to[e] += w * key[e];
        }
        double size = 0;
        for (double x : sum) size += x * x;
        return size;
    }

    const double* v_;
    Index S_, E_, Ev_;
    double scale_;
    bool exact_;
    Rows queries_, keys_;
    std::vector<double> value_step_;  ///< (blocks, Ev)
};

}  // namespace attn
