/// \file
/// \brief The command `attn` from outside, as a user meets it: results on files made by numpy.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "npy.hpp"
#include "safetensors.hpp"
#include "workplace.hpp"

using namespace attn;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// \brief Largest difference; infinite where NaN or infinity differ.
double difference(const Tensor& a, const Tensor& b) {
    if (!std::ranges::equal(a.shape(), b.shape())) return INFINITY;
    double worst = 0;
    for (Index i = 0; i < a.size(); ++i) {
        if (a.get(i) == b.get(i)) continue;
        const double here = std::abs(a.get(i) - b.get(i));
        if (!(here <= worst)) worst = here;
    }
    return std::isnan(worst) ? INFINITY : worst;
}

/// \brief numpy's own solution is in float64 with sums in another order: values of size 1, 7 keys.
constexpr double numpy_tolerance = 1e-14;

Tensor numpy_made(const char* name) { return read_npy(data + "npy/problem_" + name + ".npy"); }

}  // namespace

TEST_CASE("the command attends as numpy does, in every tier") {
    for (const Tier* tier : tiers()) {
        if (!tier->available().ok || !tier->limits.dtypes.has(DType::float64)) continue;
        CAPTURE(std::string(tier->name));
        const Workplace folder;
        const std::string run = "run " + problem + "--tier " + tier->name + " --out o.npy ";
        REQUIRE(folder.attn(run).status == 0);
        CHECK(difference(read_npy(folder / "o.npy"), numpy_made("plain_out")) <= numpy_tolerance);

        const Result options = folder.attn(run + "--mask " + data +
                                           "npy/problem_seen.npy --causal upper-left --scale -0.3 "
                                           "--logsumexp l.npy --json");
        REQUIRE(options.status == 0);
        CHECK(options.err == "");
        CHECK(difference(read_npy(folder / "o.npy"), numpy_made("options_out")) <= numpy_tolerance);
        CHECK(difference(read_npy(folder / "l.npy"), numpy_made("options_logsumexp")) <=
              numpy_tolerance);
        const json said = json::parse(options.out);
        CHECK(said["tier"] == tier->name);
        CHECK(said["out"]["shape"] == json({2, 4, 5, 3}));
        CHECK(said["logsumexp"]["dtype"] == "float64");
        CHECK(said["problem"]["mask"]["dtype"] == "bool");
        CHECK(said["problem"]["causal"] == "upper-left");
        CHECK(said["problem"]["scale"] == -0.3);

        REQUIRE(folder.attn(run + "--mask " + data + "npy/problem_added.npy --causal lower-right")
                    .status == 0);
        CHECK(difference(read_npy(folder / "o.npy"), numpy_made("additive_out")) <=
              numpy_tolerance);
        CHECK(folder.all().size() == 2);  // o.npy and l.npy
    }
}

TEST_CASE("the command takes safetensors, and gives them") {
    const Workplace folder;
    REQUIRE(folder.attn("run " + problem + "--mask " + data + "npy/problem_seen.npy --out want.npy")
                .status == 0);
    const Tensor query = numpy_made("query"), key = numpy_made("key"), value = numpy_made("value"),
                 mask = numpy_made("seen"), want = read_npy(folder / "want.npy");
    const NamedTensor all[] = {
        {"query", &query}, {"key", &key}, {"value", &value}, {"mask", &mask}};
    write_safetensors(folder / "all.safetensors", all);
    REQUIRE(folder.attn("run --qkv all.safetensors --out o.safetensors --logsumexp l.safetensors")
                .status == 0);
    CHECK(difference(SafetensorsFile(folder / "o.safetensors").read("out"), want) == 0);
    CHECK(SafetensorsFile(folder / "l.safetensors").names() ==
          std::vector<std::string>{"logsumexp"});
    // One tensor from a file by name, and a file that holds a tensor of the right name.
    const NamedTensor renamed[] = {{"layer.0.q", &query}, {"key", &key}, {"m", &mask}};
    write_safetensors(folder / "r.safetensors", renamed);
    REQUIRE(folder
                .attn("run --query r.safetensors:layer.0.q --key r.safetensors --value " + data +
                      "npy/problem_value.npy --mask r.safetensors:m --out o.npy")
                .status == 0);
    CHECK(difference(read_npy(folder / "o.npy"), want) == 0);

    // bfloat16 comes and goes through safetensors alone.
    REQUIRE(folder.attn("generate --shape 1,2,6,8 --dtype bfloat16 --out b.safetensors").status ==
            0);
    REQUIRE(folder.attn("run --qkv b.safetensors --out bo.safetensors").status == 0);
    CHECK(SafetensorsFile(folder / "bo.safetensors").read("out").dtype() == DType::bfloat16);
    const auto before = folder.all();
    const Result npy = folder.attn("run --qkv b.safetensors --out bo.npy");
    CHECK(npy.status == 2);
    CHECK(npy.err ==
          "attn run: bo.npy: .npy cannot hold bfloat16; use a name that ends in .safetensors\n");
    CHECK(folder.all() == before);
}

TEST_CASE("the command generates the same files for the same seed") {
    const Workplace folder;
    REQUIRE(
        folder
            .attn("generate --shape 2,4,5,8 --key-heads 2 --keys 7 --value-dim 3 --generator sink "
                  "--seed 7 --dtype float16 --out .")
            .status == 0);
    const Qkv want = generate("sink", {.B = 2, .Hq = 4, .H = 2, .L = 5, .S = 7, .E = 8, .Ev = 3}, 7,
                              DType::float16);
    CHECK(difference(read_npy(folder / "query.npy"), want.query) == 0);
    CHECK(difference(read_npy(folder / "key.npy"), want.key) == 0);
    CHECK(difference(read_npy(folder / "value.npy"), want.value) == 0);
    CHECK(folder.all().size() == 3);
    for (const Generator& g : generators()) {
        CAPTURE(std::string(g.name));
        CHECK(folder
                  .attn("generate --shape 1,1,4,4 --out x.safetensors --generator " +
                        std::string(g.name))
                  .status == 0);
    }
}

TEST_CASE("the command compares, explains and lists every tier") {
    const Workplace folder;
    const json compared =
        json::parse(folder
                        .attn("compare --json --calls 1 --shape 1,4,9,8 --key-heads 2 --keys 11 "
                              "--causal lower-right --scale 0.5")
                        .out);
    const json explained =
        json::parse(folder.attn("explain --json --shape 4,8,128,128 --threads 2").out);
    const json listed = json::parse(folder.attn("tiers --json").out);
    CHECK(compared["accepted"] == true);
    CHECK(compared["problem"]["key"] == json({1, 2, 11, 8}));
    CHECK(compared["problem"]["scale"] == 0.5);
    std::size_t i = 0;
    for (const Tier* tier : tiers()) {
        CAPTURE(std::string(tier->name));
        CHECK(compared["tiers"][i]["tier"] == tier->name);
        CHECK(explained["candidates"][i]["tier"] == tier->name);
        CHECK(explained["candidates"][i]["reason"] != "");
        CHECK(listed["tiers"][i]["tier"] == tier->name);
        CHECK(listed["tiers"][i]["idea"] == tier->idea);
        CHECK(listed["tiers"][i]["available"] == tier->available().ok);
        CHECK(holds(folder.attn("tiers").out, tier->idea) ==
              (std::string(tier->idea).size() <= 80));
        if (compared["tiers"][i]["ran"] == true) {
            CHECK(compared["tiers"][i]["accepted"] == true);
            CHECK(compared["tiers"][i]["calls"] == 1);
            CHECK(compared["tiers"][i]["shape"] == json({1, 4, 9, 8}));
        } else {
            CHECK(compared["tiers"][i]["reason"] != "");
        }
        ++i;
    }
    CHECK(compared["tiers"].size() == i);
    CHECK(find_tier(explained["tier"].get<std::string>()) != nullptr);
    const Result chosen = folder.attn("compare --calls 1 --shape 1,1,3,4 --tiers online,literal");
    CHECK(chosen.status == 0);
    CHECK(chosen.out.find("online") < chosen.out.find("literal "));
    CHECK_FALSE(holds(chosen.out, "eigen"));
    // On the captured data, where the tensors are real.
    CHECK(folder
              .attn("compare --calls 1 --tiers literal,online --causal upper-left --query " + data +
                    "query.npy --key " + data + "key.npy --value " + data + "value.npy")
              .status == 0);
    for (const char* edge : {"0,4,5,8", "2,0,5,8", "2,4,0,8", "2,4,5,0"})
        CHECK(folder.attn(std::string("compare --calls 1 --shape ") + edge).status == 0);
    CHECK(folder.attn("compare --calls 1 --shape 2,4,5,8 --keys 0").status == 0);
    CHECK(folder.all().empty());
}

TEST_CASE("the command leaves judging to the Python module and says when it is not there") {
    const Workplace folder;
    // In place of Python: agrees that the module is there, then shows what it was asked for.
    CHECK(folder
              .shell("printf '#!/bin/sh\\n[ \"$1\" = -c ] && exit 0\\necho \"$@\"; exit 1\\n' >"
                     "py && chmod +x py")
              .status == 0);
    const std::string python = "ATTN_PYTHON=./py \"$attn\" judge ";
    const Result asked = folder.shell(python +
                                      "online --dtype float16 --property formula --case "
                                      "L=2,S=3 --case L=3,S=3 --html r.html --json");
    CHECK(asked.out ==
          "-m attention_ladder judge tier:online --arrays numpy --dtype float16 "
          "--property formula --case L=2,S=3 --case L=3,S=3 --html r.html --json -\n");
    CHECK(asked.status == 1);  // as the judge says it
    for (const auto& mistake :
         {std::pair{python + "onlin", "there is no tier 'onlin'"},
          {python + "auto", "auto is a choice"},
          {python + "online --dtype int8", "--dtype"},
          {std::string("ATTN_PYTHON=./none \"$attn\" judge online"), "pip install"},
          {std::string("ATTN_PYTHON=false \"$attn\" judge online"), "pip install"}}) {
        CAPTURE(mistake.first);
        const Result wrong = folder.shell(mistake.first);
        CHECK(wrong.status == 2);
        CHECK_MESSAGE(holds(wrong.err, mistake.second), wrong.err);
        CHECK(wrong.out.empty());
    }
}

TEST_CASE("the command tells its version, what it was built with, and its help") {
    const Workplace folder;
    const Result version = folder.shell("ATTN_ISA=baseline OMP_NUM_THREADS=3 \"$attn\" --version");
    CHECK(version.status == 0);
    CHECK(version.out.starts_with("attn "));
    CHECK(holds(version.out, "instruction sets: baseline"));
    CHECK(holds(version.out, "; used here: baseline\n"));
    CHECK(holds(version.out, "environment: ATTN_ISA=baseline OMP_NUM_THREADS=3\n"));
    CHECK(json::parse(folder.attn("--version --json").out)["environment"].is_object());
    const Result wrong = folder.shell("ATTN_ISA=mmx \"$attn\" --version");
    CHECK(wrong.status == 2);
    CHECK(
        holds(wrong.err,
              "ATTN_ISA is 'mmx', but must be baseline, avx2, avxvnni, avx512, avx512vnni or amx"));
    for (const char* arguments :
         {"--help", "run --help", "compare -h", "tiers --help", "explain --help", "generate --help",
          "demo --help", "judge --help"}) {
        CAPTURE(std::string(arguments));
        CHECK(folder.attn(arguments).status == 0);
        CHECK(holds(folder.attn(arguments).out, "Usage: attn "));
    }
    CHECK(folder.attn("").status == 2);
}
