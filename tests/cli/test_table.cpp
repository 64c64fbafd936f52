/// \file
/// \brief What the command says of a tier that misses its bound: no tier of the library does, so
///        the verdicts here are made up.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "measure.hpp"
#include "text.hpp"

using namespace attn;
using namespace attn::cli;

namespace {

Measurement measured(double ratio, double logsumexp_ratio = 0.5) {
    Measurement m;
    m.tier = find_tier("literal");
    m.seconds = 1e-3;
    m.out.worst_ratio = ratio;
    m.out.bound = 1e-6;
    m.logsumexp.worst_ratio = logsumexp_ratio;
    m.accepted = m.out.ok() && m.logsumexp.ok();
    return m;
}

Inputs small_problem() {
    Inputs inputs;
    Qkv qkv = generate("gauss", {.L = 3, .S = 5, .E = 4, .Ev = 2}, 0);
    inputs.query = std::move(qkv.query);
    inputs.key = std::move(qkv.key);
    inputs.value = std::move(qkv.value);
    return inputs;
}

}  // namespace

TEST_CASE("the comparison fails if one tier misses its bound, or none ran") {
    const Measurement good = measured(0.9), bad = measured(1.1), nan = measured(NAN),
                      bad_logsumexp = measured(0.5, 2);
    Measurement absent = measured(0.5);
    absent.reason = "literal cannot run here: a made-up reason";
    const auto accepted = [](std::vector<Measurement> all) { return all_accepted(all); };
    CHECK(accepted({good, good}));
    CHECK(accepted({good, absent}));
    CHECK_FALSE(accepted({good, bad}));
    CHECK_FALSE(accepted({good, nan}));
    CHECK_FALSE(accepted({bad_logsumexp}));
    CHECK_FALSE(accepted({absent}));
    CHECK_FALSE(accepted({}));

    const Inputs inputs = small_problem();
    const std::vector<Measurement> all = {good, bad, bad_logsumexp, absent};
    const std::string shown = table(all, inputs);
    CAPTURE(shown);
    CHECK(shown.find("ok 0.90") != std::string::npos);
    CHECK(shown.find(" FAILS") != std::string::npos);
    CHECK(shown.find("LSE FAILS") != std::string::npos);
    CHECK(shown.find("not run: literal cannot run here: a made-up reason") != std::string::npos);
    const Json json = describe(all, inputs);
    CHECK(json["tiers"][0]["accepted"] == true);
    CHECK(json["tiers"][1]["accepted"] == false);
    CHECK(json["tiers"][3]["ran"] == false);
}

TEST_CASE("the operations counted are those of the keys that a rule leaves") {
    Inputs inputs = small_problem();  // L=3, S=5, E=4, Ev=2: 2 (E + Ev) for each score
    CHECK(flops(inputs) == 3 * 5 * 12);
    inputs.causal = Causal::upper_left;  // 1 + 2 + 3 keys
    CHECK(flops(inputs) == 6 * 12);
    inputs.causal = Causal::lower_right;  // 3 + 4 + 5 keys
    CHECK(flops(inputs) == 12 * 12);
}

TEST_CASE("the texts have their units") {
    CHECK(seconds_text(2.5) == "2.50 s");
    CHECK(seconds_text(2.5e-3) == "2.50 ms");
    CHECK(seconds_text(2.5e-6) == "2.50 us");
    CHECK(bytes_text(0) == "0");
    CHECK(bytes_text(1023) == "1023 B");
    CHECK(bytes_text(1536) == "1.5 KiB");
    CHECK(bytes_text(3.0 * (1 << 30)) == "3.0 GiB");
    CHECK(wrapped("one two three", 2, 9) == "one two\n  three");
    Table table({{"name", Table::Align::left}, {"n"}});
    table.row({"a", "10"});
    table.remark("b", "a long remark that widens no column");
    CHECK(table.text(0) ==
          "name   n\n----  --\na     10\nb     a long remark that widens no column\n");
}
