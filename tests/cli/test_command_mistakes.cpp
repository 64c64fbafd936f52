/// \file
/// \brief The command `attn` when it is used wrongly, stopped, or out of disk: an exit status, a
///        sentence, and no file touched.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "npy.hpp"
#include "safetensors.hpp"
#include "workplace.hpp"

using namespace attn;
namespace fs = std::filesystem;
using nlohmann::json;

TEST_CASE("the command says which mistake was made, exits with 2, and touches no file") {
    const Workplace folder;
    const auto save = [&](const char* name, std::initializer_list<Index> shape,
                          DType dtype = DType::float32) {
        write_npy(folder / name, random_normal(shape, 0, dtype));
    };
    save("q.npy", {2, 4, 5, 8});
    save("k.npy", {2, 2, 7, 8});
    save("v.npy", {2, 2, 7, 3});
    save("rank3.npy", {2, 7, 8});
    save("rank1.npy", {8});
    save("batch3.npy", {3, 2, 7, 8});
    save("heads3.npy", {2, 3, 7, 8});
    save("heads3v.npy", {2, 3, 7, 3});
    save("dim9.npy", {2, 2, 7, 9});
    save("keys6.npy", {2, 2, 6, 3});
    save("half.npy", {2, 2, 7, 8}, DType::float16);
    save("mask6.npy", {5, 6});
    save("mask64.npy", {5, 7}, DType::float64);
    std::ofstream(folder / "cut.npy") << contents(folder / "k.npy").substr(0, 500);
    std::ofstream(folder / "empty.npy") << "";
    std::ofstream(folder / "text.npy") << "q, k and v\n";
    std::ofstream(folder / "o.npy") << "precious";
    fs::create_symlink("o.npy", folder / "link.npy");
    fs::create_directory(folder / "folder.npy");
    const Tensor other = random_normal({2}, 0);
    const NamedTensor others[] = {{"q", &other}, {"k", &other}};
    write_safetensors(folder / "other.safetensors", others);

    const std::string good = "--query q.npy --key k.npy --value v.npy ",
                      out = good + "--out o.npy ";
    const auto with = [](const char* q, const char* k, const char* v) {
        return std::string("run --out o.npy --query ") + q + " --key " + k + " --value " + v;
    };
    const std::pair<std::string, const char*> mistakes[] = {
        // Tensors that do not fit together.
        {with("q.npy", "rank3.npy", "v.npy"), "query has 4 axes but key has 3"},
        {with("q.npy", "k.npy", "rank3.npy"), "query has 4 axes but value has 3"},
        {with("rank1.npy", "rank1.npy", "rank1.npy"), "query has shape (8)"},
        {with("q.npy", "batch3.npy", "v.npy"),
         "query has batch axis 0 size=2 but key has batch axis 0 size=3"},
        {with("q.npy", "heads3.npy", "v.npy"), "key has H=3 but value has H=2"},
        {with("q.npy", "heads3.npy", "heads3v.npy"),
         "query has Hq=4 heads, which is not a multiple of key's H=3"},
        {with("q.npy", "dim9.npy", "v.npy"), "query has E=8 but key has E=9"},
        {with("q.npy", "k.npy", "keys6.npy"), "key has S=7 but value has S=6"},
        {with("q.npy", "half.npy", "v.npy"), "query has dtype float32 but key has float16"},
        {with((data + "npy/bool.npy").c_str(), (data + "npy/bool.npy").c_str(),
              (data + "npy/bool.npy").c_str()),
         "query has dtype bool, but float64, float32, float16 or bfloat16 is needed"},
        {"run " + out + "--mask mask6.npy",
         "mask has shape (5, 6), which does not broadcast to the scores' (2, 4, 5, 7)"},
        {"run " + out + "--mask mask64.npy",
         "mask has dtype float64, but bool, float32 or query's float32 is needed"},
        // Files.
        {with("none.npy", "k.npy", "v.npy"),
         "none.npy: cannot be opened (No such file or directory)"},
        {with("q.npy", "cut.npy", "v.npy"),
         "cut.npy: has shape (2, 2, 7, 8) of float32, which takes 896 bytes, but 372 follow its "
         "header"},
        {with("empty.npy", "k.npy", "v.npy"), "empty.npy: is too short to be a .npy file"},
        {with("text.npy", "k.npy", "v.npy"), "text.npy: does not begin as a .npy file does"},
        {with("folder.npy", "k.npy", "v.npy"), "folder.npy: is a folder, not a file"},
        {with("/dev/zero", "k.npy", "v.npy"),
         "/dev/zero: its name ends neither in .npy nor in .safetensors"},
        {with((data + "npy/int64.npy").c_str(), "k.npy", "v.npy"),
         "int64.npy: holds dtype '<i8', but only"},
        {with((data + "npy/objects.npy").c_str(), "k.npy", "v.npy"),
         "Python objects are never loaded"},
        {with((data + "npy/big_endian.npy").c_str(), "k.npy", "v.npy"), "this one is big-endian"},
        {"run --qkv other.safetensors --out o.npy",
         "other.safetensors: has no tensor 'query'; it has 'q', 'k'"},
        {with("other.safetensors:x", "k.npy", "v.npy"), "other.safetensors: has no tensor 'x'"},
        // Outputs.
        {"run " + good + "--out none/o.npy",
         "none/o.npy: cannot be written (No such file or directory)"},
        {"run " + good + "--out /proc/o.npy", "/proc/o.npy: cannot be written"},
        {"run " + good + "--out folder.npy",
         "folder.npy: is there already and is not a regular file; it is not replaced"},
        {"run " + good + "--out link.npy",
         "link.npy: is there already and is not a regular file; it is not replaced"},
        {"run " + good + "--out o.txt", "o.txt: its name ends neither in .npy nor in .safetensors"},
        {"run " + good + "--out q.npy", "q.npy: is an input as well; it is not overwritten"},
        {"run " + good + "--out new.npy --logsumexp ./new.npy",
         "new.npy: is the name of both out and logsumexp"},
        {"run " + good + "--out new.npy --logsumexp none/l.npy", "none/l.npy: cannot be written"},
        {"generate --shape 1,1,2,2 --out none",
         "none: is neither a folder nor a name that ends in .safetensors"},
        {"generate --shape 1,1,2,2 --dtype bfloat16 --out .",
         "query.npy: .npy cannot hold bfloat16"},
        // Names and numbers.
        {"run " + out + "--tier onlin",
         "there is no tier 'onlin'; there are auto, literal, eigen, online"},
        {"compare --shape 1,1,2,2 --tiers literal,foo",
         "there is no tier 'foo'; there are auto, literal"},
        {"compare --shape 1,1,2,2 --tiers auto", "auto is not a tier but a choice among them"},
        {"explain --shape 1,1,2,2 --tier foo", "there is no tier 'foo'; there are auto, literal"},
        {"explain --shape 1,1,2,2 --device gpu", "--device is 'gpu', but must be host or cuda"},
        {"run " + out + "--causal upper",
         "--causal is 'upper', but must be none, upper-left or lower-right"},
        {"run " + out + "--scale nan", "scale is nan, but must be finite"},
        {"run " + out + "--scale two", "--scale"},
        {"run " + out + "--threads -1", "threads is -1, but must be 0 or more"},
        {"compare --shape 1,1,2", "--shape is '1,1,2', but must be four sizes B,H,L,E"},
        {"compare --shape 1,1,2,2,", "but must be four sizes B,H,L,E"},
        {"compare --shape 1,1,2,99999999999999999999", "but must be four sizes B,H,L,E"},
        {"compare --shape 1,1,2,-2", "E=-2 is negative"},
        {"compare --shape 1,1,2,2 --calls 0", "--calls"},
        {"compare --shape 99999999,99999999,2,2", "these tensors would take"},
        {"compare --shape 1,1,2,2 --dtype int8",
         "--dtype is 'int8', but must be one of float64, float32, float16, bfloat16"},
        {"compare --shape 1,1,2,2 --generator foo",
         "there is no generator 'foo'; there are gauss, "},
        {"explain --shape 1,1,2,2 --generator foo",
         "there is no generator 'foo'; there are gauss, "},
        {"generate --shape 1,1,2,2 --seed -1 --out .", "--seed"},
        // Flags.
        {"run " + out + "--foo", "there is no flag '--foo'; there are --help, --query, --key,"},
        {"run " + out + "extra", "there is no flag 'extra'; there are"},
        {"frobnicate", "there is no command or flag 'frobnicate'; there are demo, run, compare,"},
        {"--foo", "there is no command or flag '--foo'; there are demo, run,"},
        {"run " + good, "--out is required"},
        {"run --out o.npy --query q.npy --key k.npy",
         "--value is missing: name the files of query, key and value"},
        {"run --out o.npy --qkv other.safetensors --key k.npy", "--qkv already names the tensors"},
        {"compare --shape 1,1,2,2 --query q.npy",
         "--shape draws the tensors that other flags take from files"},
        {"compare " + good + "--keys 4",
         "--keys, --key-heads and --value-dim change what --shape says"},
        {"compare " + good + "--seed 4", "--dtype, --generator and --seed say how --shape draws"},
        {"run " + out + "--query q.npy", "--query"},
        {"demo --data none", "none/query.npy: cannot be opened"},
    };
    const auto before = folder.all();
    for (const auto& mistake : mistakes) {  // clang 14: lambdas cannot capture structured bindings
        const auto& arguments = mistake.first;
        const auto& sentence = mistake.second;
        const Result result = folder.attn(arguments);
        CAPTURE(arguments);
        CAPTURE(result.err);
        CHECK(result.status == 2);
        CHECK(holds(result.err, sentence));
        CHECK(result.err.starts_with("attn"));
        CHECK(result.err.find('\n') == result.err.size() - 1);  // one line
        CHECK(result.out == "");
        CHECK(folder.all() == before);
        // The same with --json: an object on standard output besides.
        const Result with_json = folder.attn("--json " + arguments);
        CHECK(with_json.status == 2);
        CHECK(with_json.err == result.err);
        CHECK(holds(json::parse(with_json.out)["error"]["message"].get<std::string>(), sentence));
    }
    for (const Tier* tier : tiers()) {
        if (tier->available().ok) continue;
        const Result result = folder.attn("run " + out + "--tier " + tier->name);
        CHECK(result.status == 2);
        CHECK(holds(result.err, std::string(tier->name) + " cannot run here: "));
    }
    CHECK(folder.all() == before);
}

TEST_CASE("the command leaves nothing behind when it is stopped or the disk is full") {
    const Workplace folder;
    REQUIRE(folder.attn("generate --shape 1,4,2048,64 --out .").status == 0);
    const auto before = folder.all();
    const std::string run =
        "run --query query.npy --key key.npy --value value.npy --tier literal --out o.npy";
    // The temporary file is there before the work begins.
    const Result stopped = folder.shell(
        "\"$attn\" " + run +
        " & p=$!; n=0; until ls -A | grep -q '^[.]attn' || "
        "[ $n = 500 ]; do n=$((n+1)); sleep 0.02; done; ls -A; kill -TERM $p; wait $p");
    CHECK(holds(stopped.out, ".attn-"));
    CHECK(stopped.status == 128 + 15);
    CHECK(folder.all() == before);
    const Result full = folder.shell(
        "trap '' XFSZ; ulimit -f 8; \"$attn\" generate --shape 1,1,512,64 --out f.safetensors");
    CHECK(full.status == 2);
    CHECK(full.err == "attn generate: f.safetensors: cannot be written (File too large)\n");
    CHECK(folder.all() == before);
    if (fs::exists("/dev/full")) {
        const Result closed = folder.shell("\"$attn\" tiers >/dev/full");
        CHECK(closed.status == 1);
        CHECK(closed.err == "attn tiers: standard output cannot be written\n");
    }
}
