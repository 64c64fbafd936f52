/// \file
/// \brief The ladder: every tier has its file, idea, limits and page, and the one that was asked
///        for is the one that ran.
#include "harness.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

using namespace attn;
using namespace attn::testing;

namespace {

const std::filesystem::path source = ATTN_SOURCE_DIR;

std::string read(const std::filesystem::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// Sets an environment variable and restores it.
class With {
  public:
    With(const char* name, const char* value) : name_(name), before_(environment(name)) {
        setenv(name, value, 1);
    }
    With(const With&) = delete;
    ~With() {
        if (before_.empty())
            unsetenv(name_);
        else
            setenv(name_, before_.c_str(), 1);
    }

  private:
    const char* name_;
    std::string before_;
};

}  // namespace

TEST_CASE("the ladder lists every line of tiers.def in its order") {
    std::ifstream file(source / "lib/tiers.def");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);)
        if (line.rfind("ATTN_CPU_TIER(", 0) == 0 || line.rfind("ATTN_GPU_TIER(", 0) == 0)
            lines.push_back(line);
    REQUIRE(lines.size() == tiers().size());
    REQUIRE(lines.size() >= 3);
    for (std::size_t i = 0; i < lines.size(); ++i) {
        const Tier& tier = *tiers()[i];
        const std::string kind = tier.device == DeviceKind::cpu ? "CPU" : "GPU";
        CAPTURE(lines[i]);
        CHECK(lines[i].find("ATTN_" + kind + "_TIER(" + tier.name + ",") == 0);
        CHECK(lines[i].find(tier.idea) != std::string::npos);
    }
    CHECK(std::string(tiers()[0]->name) == "literal");
}

TEST_CASE("the tiers have unique names and build on earlier ones") {
    std::set<std::string> known = {"nothing"};
    for (const Tier* tier : tiers()) {
        CAPTURE(std::string(tier->name));
        CHECK(known.count(tier->builds_on) == 1);
        CHECK(known.insert(tier->name).second);
        CHECK(std::string(tier->name) != "auto");
        CHECK(std::string(tier->idea).size() > 10);
        CHECK(find_tier(tier->name) == tier);
        CHECK((tier->run != nullptr));
        CHECK((tier->scratch_bytes != nullptr));
        CHECK((tier->available != nullptr));
        const Availability can = tier->available();
        CHECK(can.ok == can.reason.empty());
        if (!can.ok) continue;
        CHECK(tier->limits.dtypes.bits != 0);
        CHECK_FALSE(tier->limits.dtypes.has(DType::boolean));
        CHECK(tier->limits.max_head_dim >= 0);
    }
    CHECK(find_tier("auto") == nullptr);
    CHECK(find_tier("") == nullptr);
    CHECK(find_tier("liter") == nullptr);
}

TEST_CASE("the tiers have a file each and a page as soon as there are pages") {
    const bool pages = std::filesystem::exists(source / "docs/course.dox");
    for (const Tier* tier : tiers()) {
        const std::string name = tier->name;
        CAPTURE(name);
        const auto main_file = tier->device == DeviceKind::cpu ? source / "cpu" / (name + ".cpp")
                                                               : source / "gpu" / (name + ".cu");
        CHECK(std::filesystem::exists(main_file));
        CHECK(read(main_file).find("tier_" + name) != std::string::npos);
        if (pages) CHECK(std::filesystem::exists(source / "docs" / ("tier_" + name + ".dox")));
    }
}

TEST_CASE("the recorded speeds are of this ladder and tell the GPU tiers apart") {
    std::map<std::string, double> speeds;
#define ATTN_SPEED(tier, gflops, seconds, nanoseconds) \
    speeds[#tier] = gflops;                            \
    CHECK(seconds >= 0);                               \
    CHECK(nanoseconds >= 0);
#include "speeds.def"
#undef ATTN_SPEED
    for (const auto& speed : speeds) {
        CAPTURE(speed.first);
        CHECK(find_tier(speed.first) != nullptr);
        CHECK(speed.second > 0);
    }
    // Without them auto would take the first tier that can read a GPU's memory: the slowest.
    CHECK(speeds["cuda_mma"] > speeds["cuda_fused"]);
    CHECK(speeds["cuda_fused"] > speeds["cuda_simple"]);
    CHECK(speeds["simd"] > speeds["literal"]);
}

TEST_CASE("the choice of auto rounds to 8 bits only where that was recorded as faster") {
    const auto chosen = [](Index Hq, Index H, Index L, Index S, double max_relative_error) {
        const Tensor query({1, Hq, L, 128}), key({1, H, S, 128});
        Tensor out({1, Hq, L, 128});
        Execution execution;
        execution.threads = 1;
        execution.max_relative_error = max_relative_error;
        return explain(query, key, key, out, {}, execution).tier;
    };
    CHECK(chosen(8, 8, 1024, 1024, 0.05) == "int8");
    CHECK(chosen(8, 8, 1024, 1024, 0) == "simd");
    // All keys and values would become integers for one query.
    CHECK(chosen(32, 8, 1, 4096, 0.05) == "simd");
}

TEST_CASE("the environment variable ATTN_TIER restricts a run to one tier") {
    {
        const With tier("ATTN_TIER", "online");
        REQUIRE(tiers_under_test().size() == 1);
        CHECK(std::string(tiers_under_test()[0]->name) == "online");
    }
    const With all("ATTN_TIER", "");
    CHECK(tiers_under_test().size() >= 3);
}

TEST_CASE("every tier that is asked for is the one that runs") {
    for (const Tier* tier : tiers_under_test()) {
        SUBCASE(subcase(tier, "asked").c_str()) {
            const Sizes s{1, 2, 2, 33, 70, 64, 64};
            const DType dtype =
                tier->limits.dtypes.has(DType::float32) ? DType::float32 : DType::float16;
            const Qkv x = generate("gauss", s, 91, dtype);
            Tensor through_api({1, 2, 33, 64}, dtype), direct({1, 2, 33, 64}, dtype);
            Execution execution;
            execution.tier = tier->name;
            scaled_dot_product_attention(x.query, x.key, x.value, through_api, {}, execution);
            CHECK(explain(x.query, x.key, x.value, through_api, {}, execution).tier == tier->name);

            Problem p;
            p.B = 1, p.Hq = p.H = 2, p.L = 33, p.S = 70, p.E = p.Ev = 64;
            p.dtype = dtype;
            p.scale = 0.125;
            p.query = x.query, p.key = x.key, p.value = x.value, p.out = direct;
            p.diagonal = p.S;
            Tensor scratch({static_cast<Index>(tier->scratch_bytes(p))}, DType::boolean);
            if (tier->device == DeviceKind::cpu)
                p.scratch = {static_cast<std::byte*>(scratch.data()), tier->scratch_bytes(p)};
            tier->run(p);
            CHECK(first_difference(through_api, direct) == -1);

            // Sums in another order or precision: these are not literal's bits.
            if (std::string(tier->name) == "literal" || dtype != DType::float32) continue;
            execution.tier = "literal";
            scaled_dot_product_attention(x.query, x.key, x.value, direct, {}, execution);
            CHECK(first_difference(through_api, direct) != -1);
        }
    }
}

TEST_CASE("the choice of auto can run and explains every tier") {
    for (const Sizes& s : {Sizes{1, 2, 2, 4, 4, 8, 8}, Sizes{1, 8, 2, 300, 300, 64, 64}}) {
        const Qkv x = generate("gauss", s, 92);
        Tensor out({s.B, s.Hq, s.L, s.Ev});
        const Explanation e = explain(x.query, x.key, x.value, out);
        REQUIRE(find_tier(e.tier));
        CHECK(find_tier(e.tier)->available().ok);
        REQUIRE(e.candidates.size() == tiers().size());
        for (std::size_t i = 0; i < e.candidates.size(); ++i) {
            const Candidate& candidate = e.candidates[i];
            CAPTURE(candidate.tier);
            CHECK(candidate.tier == tiers()[i]->name);
            CHECK_FALSE(candidate.reason.empty());
            CHECK((!candidate.able || candidate.estimated_seconds > 0));
            CHECK((candidate.able || candidate.tier != e.tier));
        }
        const Tensor got = scaled_dot_product_attention(x.query, x.key, x.value);
        Execution execution;
        execution.tier = e.tier;
        const Tensor asked = scaled_dot_product_attention(x.query, x.key, x.value, {}, execution);
        CHECK(first_difference(got, asked) == -1);
        const Verdict v = judge(got.view(), reference(x.query, x.key, x.value),
                                {*find_tier(e.tier), DType::float32});
        CHECK_MESSAGE(v.ok(), text_of(v));
    }
}
