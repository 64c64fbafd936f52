/// \file
/// \brief The reference, and the comparison with it. Shares no code with the tiers or with their
///        validation, except that `literal` is run through the API.
#include "judge_rounding.hpp"

#include <attn/judge.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>

namespace attn {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

double element(const TensorView& view, Index offset) {
    if (view.dtype == DType::boolean)
        return static_cast<const unsigned char*>(view.data)[offset] != 0;
    return visit_float(view.dtype, [&](auto type) {
        return static_cast<double>(static_cast<const decltype(type)*>(view.data)[offset]);
    });
}

/// Calls visit(offset) for every element in row-major order.
template <class Visit>
void each_offset(const TensorView& view, Visit&& visit) {
    Index at[max_rank] = {}, offset = 0;
    for (Index left = view.size(); left > 0; --left) {
        visit(offset);
        for (int axis = view.rank - 1; axis >= 0; --axis) {  // one step, carried like an odometer
            offset += view.stride[axis];
            if (++at[axis] < view.shape[axis]) break;
            offset -= view.stride[axis] * view.shape[axis];
            at[axis] = 0;
        }
    }
}

std::vector<double> elements(const TensorView& view) {
    std::vector<double> all;
    all.reserve(static_cast<std::size_t>(view.size()));
    each_offset(view, [&](Index offset) { all.push_back(element(view, offset)); });
    return all;
}

/// Size of the axis that stands `from_right` places from the last; 1 for a missing one.
Index axis(const TensorView& view, int from_right) {
    return from_right < view.rank ? view.shape[view.rank - 1 - from_right] : 1;
}

/// Where row (n, h, i) of the scores begins in a mask, and its step from key to key.
Index mask_offset(const TensorView& mask, const TensorView& query, Index n, Index h, Index i) {
    Index index[max_rank] = {0, i, h};  // counted from the right
    for (int a = 3; a < query.rank; ++a) {
        index[a] = n % axis(query, a);
        n /= axis(query, a);
    }
    Index offset = 0;
    for (int a = 1; a < mask.rank; ++a)
        if (axis(mask, a) != 1) offset += index[a] * mask.stride[mask.rank - 1 - a];
    return offset;
}

/// A problem, widened to float64.
struct Inputs {
    Tensor query, key, value, mask;
    Options options;

    Inputs(const TensorView& q, const TensorView& k, const TensorView& v, const Options& given)
        : query(widened(q)), key(widened(k)), value(widened(v)), options(given) {
        if (given.mask.absent()) return;
        mask = widened(given.mask);
        options.mask = mask;
    }
};

/// The formula row by row in `Real`: fills A and W, with `results` also out and logsumexp, and
/// `rounding` unless that is null.
template <class Real>
void measure(const Inputs& inputs, bool results, Reference& to, QuantizedRounding* rounding) {
    const TensorView query = inputs.query, key = inputs.key, value = inputs.value;
    const Options& options = inputs.options;
    const Index E = axis(query, 0), H = axis(key, 2);
    const std::vector<double> q = elements(query), k = elements(key), v = elements(value);
    const TensorView& mask = options.mask;
    const Real scale = options.scale ? Real(*options.scale)
                       : E == 0      ? Real(1)
                                     : 1 / std::sqrt(Real(E));
    const Real roundoff = to.dtype == DType::float64 ? 0x1p-53L : 0x1p-24L;
    const Real minus_inf = -std::numeric_limits<Real>::infinity();
    const Index first_hidden = options.causal == Causal::none         ? to.S
                               : options.causal == Causal::upper_left ? 1
                                                                      : 1 + to.S - to.L;
    const bool causal = options.causal != Causal::none;
    std::vector<Real> score(static_cast<std::size_t>(to.S)), size(score.size());  // (S)
    const auto mask_value = [&](Index n, Index h, Index i, Index j) -> Real {  // -inf: not visible
        if (causal && j >= i + first_hidden) return minus_inf;
        if (mask.absent()) return 0;
        const Index step = mask.rank > 0 && axis(mask, 0) != 1 ? mask.stride[mask.rank - 1] : 0;
        const Real m = element(mask, mask_offset(mask, query, n, h, i) + j * step);
        return mask.dtype != DType::boolean ? m : m != 0 ? 0 : minus_inf;
    };
    // A second, or a bound: see QuantizedHead.
    const bool exact = static_cast<double>(to.N * to.Hq * to.L) * static_cast<double>(to.S) *
                           static_cast<double>(E * to.Ev) <=
                       1e8;
    const auto quantized_head = [&](Index n, Index h) {
        std::vector<char> used(static_cast<std::size_t>(to.S));
        for (Index i = 0; i < to.L; ++i)
            for (Index j = 0; j < to.S; ++j) used[j] |= mask_value(n, h, i, j) != minus_inf;
        const Index key_row = (n * H + h / (to.Hq / H)) * to.S;
        return QuantizedHead(q.data() + (n * to.Hq + h) * to.L * E, k.data() + key_row * E,
                             v.data() + key_row * to.Ev, to.L, to.S, E, to.Ev,
                             static_cast<double>(scale), used, exact);
    };
    std::optional<QuantizedHead> quantized;

    for (Index row = 0; row < to.N * to.Hq * to.L; ++row) {
        const Index i = row % to.L, h = row / to.L % to.Hq, n = row / to.L / to.Hq;
        const Index key_row = (n * H + h / (to.Hq / H)) * to.S;
        if (i == 0 && rounding) quantized.emplace(quantized_head(n, h));
        Real max = minus_inf;
        bool nan = false;
        for (Index j = 0; j < to.S; ++j) {
            Real dot = 0, terms = 0;
            const Real added = mask_value(n, h, i, j);
            const bool visible = added != minus_inf;
            for (Index e = 0; e < E && visible; ++e) {
                const Real term = Real(q[row * E + e]) * k[(key_row + j) * E + e];
                dot += term;
                terms += std::abs(term);
            }
            score[j] = visible ? scale * dot + added : minus_inf;
            size[j] = visible ? std::abs(scale) * terms + std::abs(added) : 0;
            nan = nan || std::isnan(score[j]);
            max = std::max(max, score[j]);
        }
        nan = nan || max == -minus_inf;
        Real sum = 0, A = 0;
        for (Index j = 0; j < to.S; ++j) {
            // exp(-745) is the smallest double: below that, also with its error, no weight.
            if (score[j] + roundoff * (16 + 8 * size[j]) >= max - 745) A = std::max(A, size[j]);
            score[j] = nan                     ? std::numeric_limits<Real>::quiet_NaN()
                       : score[j] == minus_inf ? 0
                                               : std::exp(score[j] - max);
            sum += score[j];
        }
        to.score_size[row] = static_cast<double>(A);
        for (Index c = 0; c < to.Ev; ++c) {
            Real o = 0, W = 0;
            for (Index j = 0; j < to.S; ++j) {
                if (score[j] == 0) continue;
                o += score[j] * v[(key_row + j) * to.Ev + c];
                W += score[j] * std::abs(v[(key_row + j) * to.Ev + c]);
            }
            to.value_size[row * to.Ev + c] = sum == 0 ? 0 : static_cast<double>(W / sum);
            if (results) to.out[row * to.Ev + c] = sum == 0 ? 0 : o / sum;
        }
        if (quantized && !nan)
            quantized->measure(i, score, sum, to.out.data() + row * to.Ev,
                               rounding->score.data() + row * to.Ev,
                               rounding->value.data() + row * to.Ev, rounding->logsumexp[row]);
        if (results)
            to.logsumexp[row] = nan ? score[0] : sum == 0 ? minus_inf : max + std::log(sum);
    }
}

/// Sums over compared elements, from which a Verdict is made.
class Tally {
  public:
    void add(Index index, double got, long double want, long double bound) {
        ++verdict_.count;
        const bool both_nan = std::isnan(got) && std::isnan(want);
        const bool equal = both_nan || got == want;  // also infinities of the same sign
        if (std::isnan(got) && !both_nan) ++verdict_.nans;
        long double error = equal ? 0 : std::abs(got - want);
        if (std::isnan(error)) error = inf;
        const long double ratio = error == 0 ? 0 : error / bound;
        verdict_.worst_error = std::max(verdict_.worst_error, static_cast<double>(error));
        if (verdict_.index < 0 || !(ratio <= verdict_.worst_ratio)) {
            verdict_.worst_ratio = std::isnan(ratio) ? inf : static_cast<double>(ratio);
            verdict_.bound = static_cast<double>(bound);
            verdict_.index = index;
            verdict_.got = got;
            verdict_.want = static_cast<double>(want);
        }
        if (equal && !std::isfinite(want)) return;  // says nothing about the means below
        l1_ += error;
        want_l1_ += std::abs(want);
        l2_ += error * error;
        got_l2_ += static_cast<long double>(got) * got;
        want_l2_ += want * want;
        dot_ += got * want;
    }

    Verdict verdict() const {
        Verdict v = verdict_;
        if (v.count == 0) return v;
        const auto relative = [](long double error, long double size) {
            return static_cast<double>(error == 0 ? 0 : error / size);
        };
        v.rms = static_cast<double>(std::sqrt(l2_ / v.count));
        v.relative_l1 = relative(l1_, want_l1_);
        v.relative_l2 = relative(std::sqrt(l2_), std::sqrt(want_l2_));
        v.cosine = l2_ == 0 ? 1 : relative(dot_, std::sqrt(got_l2_) * std::sqrt(want_l2_));
        return v;
    }

  private:
    Verdict verdict_;
    long double l1_ = 0, want_l1_ = 0, l2_ = 0, got_l2_ = 0, want_l2_ = 0, dot_ = 0;
};

/// Compares elements first .. first + count - 1.
Verdict compare(const TensorView& view, const std::vector<double>& got,
                const std::vector<long double>& want, const std::vector<double>* value_size,
                const Reference& reference, const Allowance& allowance, Index first, Index count) {
    const long double roundoff = reference.dtype == DType::float64 ? 0x1p-53L : 0x1p-24L;
    const double additions = (value_size ? 2 : 1) * longest_sum(reference.S, reference.dtype);
    Tally tally;
    for (Index i = first; i < first + count; ++i) {
        const double A = reference.score_size[value_size ? i / reference.Ev : i];
        const double W = value_size ? (*value_size)[i] : 1;
        const long double size =
            std::max(std::abs(static_cast<long double>(got[i])), std::abs(want[i]));
        long double bound = half_ulp(size, view.dtype) +
                            (roundoff * (16 + additions + 8 * A) + allowance.weight_error) * W;
        bound += value_size ? allowance.rounding(reference, i)
                            : allowance.logsumexp_rounding(reference, i);
        tally.add(i, got[i], want[i], bound);
    }
    return tally.verdict();
}

void expect_fits(const TensorView& got, Index count, bool right_dtype, const char* what) {
    if (!right_dtype)
        throw Error(ErrorCode::bad_dtype, std::string(what) + " has dtype " + name_of(got.dtype) +
                                              ", which is not that of the reference");
    if (got.size() != count)
        throw Error(ErrorCode::bad_shape, std::string(what) + " has shape " + shape_text(got) +
                                              ", but its reference has " + std::to_string(count) +
                                              " elements");
}

}  // namespace

double longest_sum(Index S, DType dtype) {
    if (dtype == DType::float64) return static_cast<double>(S);
    const Index tiles = S / 64;
    return static_cast<double>(std::min<Index>(S, 64) + tiles);
}

long double half_ulp(long double value, DType dtype) {
    struct Format {
        int digits, smallest_exponent;
    };  // significand bits, log2 of smallest subnormal
    const Format format = dtype == DType::float64    ? Format{53, -1074}
                          : dtype == DType::float16  ? Format{11, -24}
                          : dtype == DType::bfloat16 ? Format{8, -133}
                                                     : Format{24, -149};
    if (!std::isfinite(value)) return inf;
    int exponent = format.smallest_exponent;
    if (value != 0) {
        int binade = 0;  // value = m * 2^binade with 0.5 <= m < 1
        std::frexp(value, &binade);
        exponent = std::max(binade - format.digits, exponent);
    }
    return std::ldexp(1.0L, exponent - 1);
}

Tensor widened(const TensorView& view) {
    const bool boolean = view.dtype == DType::boolean;
    Tensor copy(std::span<const Index>(view.shape, static_cast<std::size_t>(view.rank)),
                boolean ? DType::boolean : DType::float64);
    Index i = 0;
    each_offset(view, [&](Index offset) {
        const double x = element(view, offset);
        if (boolean)
            static_cast<unsigned char*>(copy.data())[i++] = x != 0;
        else
            static_cast<double*>(copy.data())[i++] = x;
    });
    return copy;
}

Reference reference(const TensorView& query, const TensorView& key, const TensorView& value,
                    const Options& options) {
    const auto inputs = std::make_shared<const Inputs>(query, key, value, options);
    std::vector<Index> shape(query.shape, query.shape + std::max(query.rank, 0));
    if (!shape.empty()) shape.back() = axis(value, 0);
    Tensor out(shape, DType::float64);
    if (!shape.empty()) shape.pop_back();
    Tensor logsumexp(shape, DType::float64);
    Execution execution;
    execution.tier = "literal";
    execution.logsumexp = logsumexp;
    scaled_dot_product_attention(inputs->query, inputs->key, inputs->value, out, inputs->options,
                                 execution);  // also checks the arguments

    Reference to;
    to.dtype = query.dtype;
    to.Hq = axis(query, 2), to.L = axis(query, 1), to.S = axis(key, 1), to.Ev = axis(value, 0);
    for (int a = 3; a < query.rank; ++a) to.N *= axis(query, a);
    to.value_size.resize(static_cast<std::size_t>(out.size()));
    to.score_size.resize(static_cast<std::size_t>(logsumexp.size()));
    const double* o = static_cast<const double*>(out.data());
    const double* lse = static_cast<const double*>(logsumexp.data());
    to.out.assign(o, o + out.size());
    to.logsumexp.assign(lse, lse + logsumexp.size());
    if (query.dtype == DType::float64)
        measure<long double>(*inputs, true, to, nullptr);
    else
        measure<double>(*inputs, false, to, nullptr);
    to.rounding = std::async(std::launch::deferred, [inputs, copy = to]() mutable {
                      QuantizedRounding rounding;
                      if (copy.dtype == DType::float64) return rounding;
                      rounding.score.resize(copy.value_size.size());
                      rounding.value.resize(copy.value_size.size());
                      rounding.logsumexp.resize(copy.score_size.size());
                      measure<double>(*inputs, false, copy, &rounding);
                      return rounding;
                  }).share();
    return to;
}

Verdict judge(const TensorView& out, const Reference& reference, const Allowance& allowance) {
    const Index count = static_cast<Index>(reference.out.size());
    expect_fits(out, count, out.dtype == reference.dtype, "out");
    return compare(out, elements(out), reference.out, &reference.value_size, reference, allowance,
                   0, count);
}

Verdict judge_logsumexp(const TensorView& logsumexp, const Reference& reference,
                        const Allowance& allowance) {
    const Index count = static_cast<Index>(reference.logsumexp.size());
    const DType want = reference.dtype == DType::float64 ? DType::float64 : DType::float32;
    expect_fits(logsumexp, count, logsumexp.dtype == want, "logsumexp");
    return compare(logsumexp, elements(logsumexp), reference.logsumexp, nullptr, reference,
                   allowance, 0, count);
}

std::vector<Verdict> judge_heads(const TensorView& out, const Reference& reference,
                                 const Allowance& allowance) {
    expect_fits(out, static_cast<Index>(reference.out.size()), out.dtype == reference.dtype, "out");
    const std::vector<double> got = elements(out);
    const Index head = reference.L * reference.Ev;
    std::vector<Verdict> verdicts;
    for (Index h = 0; h < reference.N * reference.Hq; ++h)
        verdicts.push_back(compare(out, got, reference.out, &reference.value_size, reference,
                                   allowance, h * head, head));
    return verdicts;
}

double weight_error_of(const Tier& tier, DType dtype) {
    if (dtype == DType::float16) return tier.accuracy.weight_error_f16;
    if (dtype == DType::bfloat16) return tier.accuracy.weight_error_bf16;
    return tier.accuracy.weight_error;
}

Allowance::Allowance(const Tier& tier, DType dtype)
    : weight_error(weight_error_of(tier, dtype)),
      quantized_scores(tier.accuracy.quantized),
      quantized_values(tier.accuracy.quantized_values) {}

double Allowance::rounding(const Reference& reference, Index i) const {
    const std::size_t at = static_cast<std::size_t>(i);
    return (quantized_scores ? reference.rounding.get().score.at(at) : 0) +
           (quantized_values ? reference.rounding.get().value.at(at) : 0);
}

double Allowance::logsumexp_rounding(const Reference& reference, Index i) const {
    const bool quantized = quantized_scores || quantized_values;
    return quantized ? reference.rounding.get().logsumexp.at(static_cast<std::size_t>(i)) : 0;
}

std::string text_of(const Verdict& v) {
    char text[256];
    if (v.count == 0) return "nothing to compare";
    std::snprintf(text, sizeof text,
                  "worst error %.3g; at element %lld got %.9g, want %.9g: %.3g of its bound %.3g"
                  "; %lld of %lld are NaN and should not be",
                  v.worst_error, static_cast<long long>(v.index), v.got, v.want, v.worst_ratio,
                  v.bound, static_cast<long long>(v.nans), static_cast<long long>(v.count));
    return text;
}

}  // namespace attn
