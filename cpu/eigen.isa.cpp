/// \file
/// \brief The kernel of tier `eigen`. Compiled once per instruction set, into the namespace that
///        ATTN_ISA names; the namespace Eigen is renamed along with it, so that no function
///        compiled for a large instruction set is shared with the rest of the program.
#include "mask_scores.hpp"

#include <attn/row_state.hpp>
#include <attn/tier.hpp>

// Eigen must not start threads of its own: results may not depend on their number, and its spinning
// barriers cost a thousand times the work when other programs hold the cores.
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include <cmath>
#include <limits>

namespace attn::ATTN_ISA {
namespace {

template <class Real>
using Matrix = Eigen::Map<Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

/// Takes matrices one after the other from the scratch memory.
template <class Real>
struct Pool {
    Real* next;
    Matrix<Real> take(Index rows, Index columns) {
        Real* data = next;
        next += rows * columns;
        return Matrix<Real>(data, rows, columns);
    }
};

/// Copies one head to a contiguous matrix in the compute type: (B, H, rows, columns) -> (rows,
/// columns).
template <class T, class Real>
void load(Matrix<Real>& to, const TensorView& tensor, Index b, Index h) {
    const T* head =
        static_cast<const T*>(tensor.data) + b * tensor.stride[0] + h * tensor.stride[1];
    for (Index row = 0; row < to.rows(); ++row)
        for (Index column = 0; column < to.cols(); ++column)
            to(row, column) = Real(head[row * tensor.stride[2] + column * tensor.stride[3]]);
}

/// Rounds the output of one head to its dtype: (L, Ev) -> (B, Hq, L, Ev).
template <class T, class Real>
void store(const Matrix<Real>& from, const MutableTensorView& tensor, Index b, Index h) {
    T* head = static_cast<T*>(tensor.data) + b * tensor.stride[0] + h * tensor.stride[1];
    for (Index row = 0; row < from.rows(); ++row)
        for (Index column = 0; column < from.cols(); ++column)
            head[row * tensor.stride[2] + column * tensor.stride[3]] = T(from(row, column));
}

/// Turns a row of masked scores, (S), into weights, exp(score - max), and says their maximum and
/// sum.
template <class Real>
void softmax_row(Real* score, Index S, RowState<Real>& state) {
    //! [softmax row]
    Eigen::Map<Eigen::Array<Real, Eigen::Dynamic, 1>> row(score, S);
    if (S > 0) state.max = row.template maxCoeff<Eigen::PropagateNaN>();
    if (S == 0 || state.max == -std::numeric_limits<Real>::infinity()) {
        row.setZero();  // -inf - -inf would be NaN
        return;
    }
    // Below this exp is subnormal (and Eigen's stops falling): far less than an ulp of any sum.
    const Real least = std::log(std::numeric_limits<Real>::min());
    row -= state.max;
    row = (row < least).select(Real(0), row.exp());
    state.sum = row.sum();
    //! [softmax row]
}

/// Sets value rows that hold a NaN or an infinity to zero and adds what they contribute to `out`
/// by hand: in the product, 0 * NaN would reach the rows that may not see them.
template <class Real>
void set_aside_non_finite(Matrix<Real>& value, const Matrix<Real>& weight, Matrix<Real>& out) {
    //! [set aside]
    out.setZero();
    for (Index j = 0; j < value.rows(); ++j) {
        if (value.row(j).allFinite()) continue;
        for (Index i = 0; i < out.rows(); ++i)
            if (weight(i, j) != 0) out.row(i) += weight(i, j) * value.row(j);
        value.row(j).setZero();
    }
    //! [set aside]
}

template <class T>
void attend(const Problem& p, Index b, Index h) {
    using Real = Compute<T>;
    Pool<Real> pool{reinterpret_cast<Real*>(p.scratch.data())};
    Matrix<Real> query = pool.take(p.L, p.E);   // (L, E)
    Matrix<Real> key = pool.take(p.S, p.E);     // (S, E)
    Matrix<Real> value = pool.take(p.S, p.Ev);  // (S, Ev)
    Matrix<Real> weight = pool.take(p.L, p.S);  // (L, S), first the scores
    Matrix<Real> out = pool.take(p.L, p.Ev);    // (L, Ev)
    load<T>(query, p.query, b, h);
    load<T>(key, p.key, b, p.key_head(h));
    load<T>(value, p.value, b, p.key_head(h));

    //! [products]
    query *= Real(p.scale);
    weight.noalias() = query * key.transpose();

    for (Index i = 0; i < p.L; ++i) {
        Real* row = weight.row(i).data();  // (S)
        mask_scores(p, b, h, i, 0, p.S, row);
        RowState<Real> state;
        softmax_row(row, p.S, state);
        // Dividing the weights and not the output costs S instead of Ev operations a row, but then
        // `weight` holds probabilities, as the formula says.
        weight.row(i) *= state.normalizer();
        if (!p.logsumexp.absent()) as<Real, 3>(p.logsumexp)(b, h, i) = state.logsumexp();
    }

    set_aside_non_finite(value, weight, out);
    out.noalias() += weight * value;
    store<T>(out, p.out, b, h);
    //! [products]
}

}  // namespace

void eigen_attention(const Problem& p) {
    visit_float(p.dtype, [&]<class T>(T) {
        for (Index b = 0; b < p.B; ++b)
            for (Index h = 0; h < p.Hq; ++h) attend<T>(p, b, h);
    });
}

}  // namespace attn::ATTN_ISA
