/// \file
/// \brief Judges an exercise: runs `attend` on a list of small, unkind cases and asks the library's
///        own judge. Exit code 0 if every case passes. `--json` prints the verdicts for the course.
#include "exercise.hpp"

#include <attn/attn.hpp>
#include <attn/judge.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace attn::exercises {

/// Floats of scratch that the exercise allows: budget.cpp.
Index budget(Index L, Index S, Index E, Index Ev);

Scratch::Scratch(Index budget)
    : budget_(budget), memory_(new float[static_cast<std::size_t>(budget)]) {
    std::fill_n(memory_, budget, std::numeric_limits<float>::quiet_NaN());
}
Scratch::~Scratch() { delete[] memory_; }

float* Scratch::take(Index count) {
    if (count < 0 || count > budget_ - taken_)
        throw Error(ErrorCode::no_memory, "asked for " + std::to_string(taken_ + count) +
                                              " floats of scratch, but the budget is " +
                                              std::to_string(budget_));
    float* memory = memory_ + taken_;
    taken_ += count;
    return memory;
}

namespace {

/// One problem: N(0, 1) inputs, changed by `change` to hold what breaks programs.
struct Case {
    const char* name;
    Sizes sizes;
    const char* generator;
    std::function<void(Qkv&, Tensor& mask)> change;
};

/// Moves every score of the row by about `to(j)`, through the first channel.
void shift_scores(Qkv& x, const std::function<double(Index)>& to) {
    const Index E = x.key.shape()[3];
    for (Index i = 0; i < x.query.shape()[2]; ++i) x.query.set(i * E, 1);
    for (Index j = 0; j < x.key.shape()[2]; ++j)
        x.key.set(j * E, to(j) * std::sqrt(static_cast<double>(E)));
}

void mask_some(Tensor& mask) {
    for (Index n = 0; n < mask.size(); ++n) mask.set(n, n * 7 % 10 < 4);
}

std::vector<Case> cases() {
    const Sizes small{.L = 17, .S = 61, .E = 16, .Ev = 12};
    return {
        {"smooth inputs", small, "uniform", {}},
        {"normal inputs", small, "gauss", {}},
        {"one key", {.L = 5, .S = 1, .E = 8, .Ev = 8}, "gauss", {}},
        {"scores near 200", small, "gauss",
         [](Qkv& x, Tensor&) { shift_scores(x, [](Index) { return 200; }); }},
        {"scores near -200", small, "gauss",
         [](Qkv& x, Tensor&) { shift_scores(x, [](Index) { return -200; }); }},
        {"rising scores", small, "gauss",
         [](Qkv& x, Tensor&) { shift_scores(x, [](Index j) { return 0.3 * double(j); }); }},
        {"a mask", small, "gauss", [](Qkv&, Tensor& mask) { mask_some(mask); }},
        {"a row without keys", small, "gauss",
         [](Qkv&, Tensor& mask) {
             mask_some(mask);
             for (Index j = 0; j < 61; ++j) mask.set(3 * 61 + j, 0);
         }},
        {"NaN under the mask", small, "gauss",
         [](Qkv& x, Tensor& mask) {
             mask_some(mask);
             for (Index i = 0; i < 17; ++i) mask.set(i * 61 + 20, 0);
             x.key.set(20 * 16, std::nan(""));
             x.value.set(20 * 12, std::nan(""));
         }},
    };
}

struct Result {
    std::string name;
    double ratio = 0;    // the worse of out's and logsumexp's; at most 1 passes
    bool fixed = false;  // would a tolerance of 1e-2, compared with `>`, have passed it?
    std::string text;
    bool ok() const { return ratio <= 1; }
};

Result run(const Case& c) {
    Qkv x = generate(c.generator, c.sizes, 11);
    const Sizes& s = c.sizes;
    Tensor mask({s.L, s.S}, DType::boolean);
    for (Index n = 0; n < mask.size(); ++n) mask.set(n, 1);
    if (c.change) c.change(x, mask);

    Tensor out({1, 1, s.L, s.Ev}), logsumexp({1, 1, s.L});
    std::ranges::fill(out.values<float>(), std::numeric_limits<float>::quiet_NaN());
    std::ranges::fill(logsumexp.values<float>(), std::numeric_limits<float>::quiet_NaN());
    Scratch scratch(budget(s.L, s.S, s.E, s.Ev));
    Head head{s.L, s.S, s.E, s.Ev};
    head.query = x.query.values<float>().data();
    head.key = x.key.values<float>().data();
    head.value = x.value.values<float>().data();
    head.mask = static_cast<const unsigned char*>(mask.data());
    head.scale = 1 / std::sqrt(static_cast<float>(s.E));
    head.scratch = &scratch;
    head.out = out.values<float>().data();
    head.logsumexp = logsumexp.values<float>().data();

    Result result{.name = c.name};
    try {
        attend(head);
    } catch (const Error& error) {
        result.ratio = std::numeric_limits<double>::infinity();
        result.text = error.what();
        return result;
    }
    const Reference want = reference(x.query, x.key, x.value, {.mask = mask});
    const Verdict first = judge(out, want), second = judge_logsumexp(logsumexp, want);
    const bool out_is_worse = !(first.worst_ratio <= second.worst_ratio);
    result.ratio = std::max(first.worst_ratio, second.worst_ratio);
    result.text = (out_is_worse ? "out: " : "logsumexp: ") + text_of(out_is_worse ? first : second);
    // The comparison that many programs make; false for NaN, so NaN passes.
    bool differs = false;
    for (Index n = 0; n < out.size(); ++n)
        differs |= std::fabs(out.get(n) - static_cast<double>(want.out[std::size_t(n)])) > 1e-2;
    result.fixed = !differs;
    return result;
}

}  // namespace
}  // namespace attn::exercises

int main(int argc, char** argv) try {
    using namespace attn::exercises;
    const bool json = argc > 1 && std::strcmp(argv[1], "--json") == 0;
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    bool passed = true;
    for (const Case& c : cases()) {
        const Result r = run(c);
        passed &= r.ok();
        nlohmann::ordered_json ratio = r.ratio;
        if (!std::isfinite(r.ratio)) ratio = "inf";
        list.push_back({{"case", r.name}, {"ratio", ratio}, {"fixed", r.fixed}, {"text", r.text}});
        if (!json)
            std::printf("%-4s %-20s %s\n", r.ok() ? "ok" : "FAIL", r.name.c_str(), r.text.c_str());
    }
    if (json)
        std::puts(nlohmann::ordered_json{{"passed", passed}, {"cases", list}}.dump().c_str());
    else
        std::puts(passed ? "Solved." : "Not yet: look at the first case that fails.");
    return passed ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "exercise: %s\n", error.what());
    return 1;
}
