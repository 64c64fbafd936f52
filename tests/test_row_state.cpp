/// \file
/// \brief The algebra of the online softmax: growing, weighing, merging.
#include <attn/row_state.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace attn;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double NaN = std::numeric_limits<double>::quiet_NaN();

/// State after all scores, one at a time.
template <class Real>
RowState<Real> after(const std::vector<Real>& scores) {
    RowState<Real> row;
    for (Real score : scores) {
        row.grow(score);
        row.sum += row.weight(score);
    }
    return row;
}

std::vector<double> random_scores(std::mt19937_64& random, double spread) {
    std::vector<double> scores(1 + random() % 9);
    for (double& s : scores)
        s = random() % 5 == 0 ? -inf : (static_cast<double>(random() % 2001) / 1000 - 1) * spread;
    return scores;
}

void expect_close(double got, double want) {
    CAPTURE(got);
    CAPTURE(want);
    CHECK((got == want || std::abs(got - want) <= 1e-13 * (1 + std::abs(want))));
}

}  // namespace

TEST_CASE("the row state starts as a row that saw nothing") {
    const RowState<float> row;
    CHECK(row.max == -std::numeric_limits<float>::infinity());
    CHECK(row.sum == 0);
    CHECK(row.normalizer() == 0);
    CHECK(row.logsumexp() == -std::numeric_limits<float>::infinity());
}

TEST_CASE("the row state knows sum and maximum in any order of scores") {
    const std::vector<double> up = {-3, -1, 0.5, 2}, down = {2, 0.5, -1, -3};
    const double sum = std::exp(-5) + std::exp(-3) + std::exp(-1.5) + 1;
    for (const auto& scores : {up, down}) {
        const RowState<double> row = after(scores);
        CHECK(row.max == 2);
        expect_close(row.sum, sum);
        expect_close(row.normalizer(), 1 / sum);
        expect_close(row.logsumexp(), 2 + std::log(sum));
    }
}

TEST_CASE("the shrink factor is 1 when nothing grew and 0 on the first visible score") {
    RowState<double> row;
    CHECK(row.grow(-inf) == 1);  // still nothing visible
    CHECK(row.grow(5) == 0);
    CHECK(row.grow(4) == 1);
    CHECK(row.grow(5) == 1);
    expect_close(row.grow(7), std::exp(-2.0));
    CHECK(row.max == 7);
}

TEST_CASE("the shrink factor also multiplies the sum") {
    RowState<double> row;
    row.grow(1);
    row.sum = 10;
    row.grow(3);
    expect_close(row.sum, 10 * std::exp(-2.0));
}

TEST_CASE("the weight of a hidden score is 0 even before anything was seen") {
    RowState<double> row;
    CHECK(row.weight(-inf) == 0);
    row.grow(0);
    CHECK(row.weight(-inf) == 0);
    CHECK(row.weight(0) == 1);
    expect_close(row.weight(-1), std::exp(-1.0));
}

TEST_CASE("the row state never loses a NaN") {
    CHECK(std::isnan(larger(NaN, 1.0)));
    CHECK(std::isnan(larger(1.0, NaN)));
    CHECK(std::isnan(larger(-inf, NaN)));
    CHECK(larger(-inf, 2.0) == 2);
    CHECK(larger(2.0, -inf) == 2);
    for (const auto& scores : std::vector<std::vector<double>>{
             {NaN}, {NaN, 1}, {1, NaN}, {-inf, NaN}, {NaN, -inf}, {1, NaN, 2}, {inf}, {inf, 0}}) {
        const RowState<double> row = after(scores);
        CHECK(std::isnan(row.sum));
        CHECK(std::isnan(row.normalizer()));
        CHECK(std::isnan(row.logsumexp()));
    }
}

TEST_CASE("the merge of two halves equals the whole") {
    std::mt19937_64 random(1);
    for (double spread : {0.0, 1.0, 30.0, 2000.0}) {
        for (int repeat = 0; repeat < 200; ++repeat) {
            const auto first = random_scores(random, spread),
                       second = random_scores(random, spread);
            auto all = first;
            all.insert(all.end(), second.begin(), second.end());
            const RowState<double> a = after(first), b = after(second), whole = after(all);
            const Merge<double> m = merge(a, b);
            CHECK(m.state.max == whole.max);
            expect_close(m.state.sum, whole.sum);
            expect_close(m.state.logsumexp(), whole.logsumexp());
            // What the factors do to the halves' sums is what they must do to the accumulators.
            expect_close(m.factor_a * a.sum + m.factor_b * b.sum, whole.sum);
        }
    }
}

TEST_CASE("the merge is commutative and associative") {
    std::mt19937_64 random(2);
    for (int repeat = 0; repeat < 300; ++repeat) {
        const RowState<double> a = after(random_scores(random, 20)),
                               b = after(random_scores(random, 20)),
                               c = after(random_scores(random, 20));
        const Merge<double> ab = merge(a, b), ba = merge(b, a);
        CHECK(ab.state.max == ba.state.max);
        CHECK(ab.state.sum == ba.state.sum);
        CHECK(ab.factor_a == ba.factor_b);
        CHECK(ab.factor_b == ba.factor_a);
        const Merge<double> left = merge(ab.state, c), right = merge(a, merge(b, c).state);
        CHECK(left.state.max == right.state.max);
        expect_close(left.state.sum, right.state.sum);
    }
}

TEST_CASE("the merge takes an empty half as neutral") {
    const RowState<double> empty, some = after<double>({0.25, -3, 2});
    for (const Merge<double>& m : {merge(empty, some), merge(some, empty)}) {
        CHECK(m.state.max == some.max);
        CHECK(m.state.sum == some.sum);
    }
    CHECK(merge(some, empty).factor_a == 1);
    CHECK(merge(empty, some).factor_b == 1);
    const Merge<double> nothing = merge(empty, empty);
    CHECK(nothing.state.max == -inf);
    CHECK(nothing.state.sum == 0);
    CHECK_FALSE(std::isnan(nothing.factor_a));
    CHECK_FALSE(std::isnan(nothing.factor_b));
}
