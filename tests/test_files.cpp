/// \file
/// \brief The readers and writers of .npy and .safetensors: what numpy and the safetensors package
///        wrote reads right, what is written reads back to the same bits, and whatever else comes
///        gets one sentence.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>

#include "cli/complaint.hpp"
#include "cli/folder.hpp"
#include "npy.hpp"
#include "safetensors.hpp"

using namespace attn;
namespace fs = std::filesystem;

namespace {

const fs::path data = fs::path(ATTN_SOURCE_DIR) / "tests" / "data";
constexpr DType every_dtype[] = {DType::float64, DType::float32, DType::float16, DType::bfloat16,
                                 DType::boolean};

Tensor npy_of(const std::string& bytes) {
    return read_npy(MemorySource("x.npy", std::as_bytes(std::span(bytes))));
}
SafetensorsFile safetensors_of(const std::string& bytes) {
    return SafetensorsFile(
        std::make_unique<MemorySource>("x.safetensors", std::as_bytes(std::span(bytes))));
}

std::string little_endian(std::uint64_t value, int bytes) {
    std::string text;
    for (; bytes > 0; --bytes, value >>= 8) text += static_cast<char>(value & 0xff);
    return text;
}

std::string npy_bytes(const std::string& header, std::size_t data_bytes, int version = 1) {
    return std::string("\x93NUMPY") + static_cast<char>(version) + '\0' +
           little_endian(header.size(), version == 1 ? 2 : 4) + header +
           std::string(data_bytes, '\0');
}
std::string safetensors_bytes(const std::string& header, std::size_t data_bytes) {
    return little_endian(header.size(), 8) + header + std::string(data_bytes, '\0');
}

/// \brief Element i is i - 3.5, or i odd for bool: what fixtures.py stores.
void check_pattern(const Tensor& tensor) {
    for (Index i = 0; i < tensor.size(); ++i) {
        const double want = tensor.dtype() == DType::boolean ? static_cast<double>(i % 2)
                                                             : static_cast<double>(i) - 3.5;
        CAPTURE(i);
        CHECK(tensor.get(i) == want);
    }
}

/// \brief Every bit pattern of the 16-bit types; many of the others, NaN and infinity among them.
Tensor all_patterns(DType dtype) {
    Tensor tensor({2, 3, 1 << 14}, dtype);
    auto* bytes = static_cast<unsigned char*>(tensor.data());
    for (std::size_t i = 0; i < tensor.bytes(); ++i)
        bytes[i] = dtype == DType::boolean ? i % 3 == 0
                                           : static_cast<unsigned char>(i * 2654435761u >> 13);
    return tensor;
}

bool same_bits(const Tensor& a, const Tensor& b) {
    return a.dtype() == b.dtype() && std::ranges::equal(a.shape(), b.shape()) &&
           std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

}  // namespace

TEST_CASE("the npy reader takes what numpy writes") {
    for (const char* dtype : {"float64", "float32", "float16", "bool"}) {
        for (const char* order : {"", "_fortran"}) {
            CAPTURE(std::string(dtype) + order);
            const Tensor tensor =
                read_npy((data / "npy" / (std::string(dtype) + order + ".npy")).string());
            CHECK(std::string(name_of(tensor.dtype())) == dtype);
            CHECK(tuple_text(tensor.shape()) == "(2, 3, 4)");
            check_pattern(tensor);
        }
    }
    for (int rank = 0; rank <= max_rank; ++rank) {
        const Tensor tensor =
            read_npy((data / "npy" / ("rank" + std::to_string(rank) + ".npy")).string());
        CHECK(tensor.rank() == rank);
        check_pattern(tensor);
    }
    const Tensor fortran = read_npy((data / "npy" / "rank8_fortran.npy").string());
    CHECK(tuple_text(fortran.shape()) == "(2, 1, 3, 1, 2, 1, 1, 2)");
    check_pattern(fortran);
    CHECK(tuple_text(read_npy((data / "npy" / "empty.npy").string()).shape()) == "(2, 0, 3)");
    for (const char* version : {"version2.npy", "version3.npy"})
        check_pattern(read_npy((data / "npy" / version).string()));
    CHECK(tuple_text(read_npy((data / "query.npy").string()).shape()) == "(1, 12, 398, 32)");
}

TEST_CASE("the npy reader refuses what it does not take, and says what to do") {
    const std::pair<const char*, const char*> refused[] = {
        {"big_endian",
         "holds dtype '>f4', but only '<f8', '<f4', '<f2' and '|b1' are taken; this one is "
         "big-endian"},
        {"int64", "holds dtype '<i8', but only"},
        {"uint8", "if it is a mask, convert it with astype(bool)"},
        {"complex64", "holds dtype '<c8', but only"},
        {"records", "holds records, not plain numbers"},
        {"objects", "Python objects are never loaded, since unpickling runs code"},
        {"rank9", "has 9 axes, but at most 8 are taken"}};
    for (const auto& [name, sentence] : refused) {
        const std::string path = (data / "npy" / (std::string(name) + ".npy")).string();
        const std::string said = complaint([&] { read_npy(path); });
        CAPTURE(said);
        CHECK(said.starts_with(path + ": "));
        CHECK(said.find(sentence) != std::string::npos);
    }
}

TEST_CASE("the npy reader takes no hostile file") {
    const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
    CHECK(npy_of(npy_bytes(good, 24)).size() == 6);
    const auto with = [](const char* shape) {
        return npy_bytes(
            std::string("{'descr': '<f4', 'fortran_order': False, 'shape': ") + shape + "}", 24);
    };
    const std::pair<std::string, const char*> hostile[] = {
        {"", "is too short to be a .npy file"},
        {"\x93NUMPY\1", "is too short to be a .npy file"},
        {std::string("\x93NUMPX\1\0__", 10), "does not begin as a .npy file does"},
        {std::string(64, 'x'), "does not begin as a .npy file does"},
        {npy_bytes(good, 24, 4), "has .npy version 4.0, but only 1.0, 2.0 and 3.0 are known"},
        {npy_bytes(good, 24).substr(0, 40),
         "says its header has 60 bytes, but at most 30 are possible"},
        {std::string("\x93NUMPY\2\0\xff\xff\xff\xff", 12) + good,
         "says its header has 4294967295 bytes"},
        {npy_bytes(std::string(70000, ' '), 0, 2), "at most 65535 are possible"},
        {npy_bytes(good, 23),
         "has shape (2, 3) of float32, which takes 24 bytes, but 23 follow its header"},
        {npy_bytes(good, 25), "but 25 follow its header"},
        {npy_bytes("", 0), "the header should have '{' at its end"},
        {npy_bytes("__import__('os').system('true')", 0),
         "the header should have '{' at '__import__("},
        {npy_bytes("{}", 0), "the header lacks 'descr'"},
        {npy_bytes("{'descr': '<f4', 'shape': (2, 3)}", 24), "the header lacks 'fortran_order'"},
        {npy_bytes("{'descr': '<f4', 'fortran_order': False}", 24), "the header lacks 'shape'"},
        {npy_bytes("{'descr': '<f4', 'descr': '<f8'}", 0), "the header says 'descr' twice"},
        {npy_bytes("{'descr': '<f4', 'evil': 1}", 0), "the header has the unknown key 'evil'"},
        {npy_bytes("{'descr': '<f4", 0), "the header has a string without an end"},
        {npy_bytes("{'descr': '\x1b[31m'}", 0), "holds dtype '\\x1b[31m', but only"},
        {npy_bytes("{'fortran_order': 1}", 0), "'fortran_order' is neither True nor False"},
        {npy_bytes("{'descr': '<f4' 'shape': (2, 3)}", 0),
         "the header should have '}' at ''shape': (2, 3)}'"},
        {npy_bytes(good + "import os", 24), "the header goes on after its closing brace"},
        {with("(6)"), "the header's 'shape' is a number, not a tuple"},
        {with("(-1, 6)"), "the header's 'shape' has the negative size -1"},
        {with("(2, x)"), "the header's 'shape' has 'x)}' where a number should be"},
        {with("(2 3)"), "the header should have ',' at '3)}'"},
        {with("(,)"), "where a number should be"},
        {with("(99999999999999999999,)"), "the header's 'shape' has a number beyond 64 bits"},
        {with("(4611686018427387904, 8)"),
         "has shape (4611686018427387904, 8), whose size in bytes overflows"},
        {with("(0, 9223372036854775807)"), "whose size in bytes overflows"},
        {with("(1152921504606846976,)"), "which takes 4611686018427387904 bytes, but 24 follow"},
        {npy_bytes("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", 0) + "\1\2",
         "bool number 1 is 2, but must be 0 or 1"}};
    for (const auto& file : hostile) {  // clang 14: lambdas cannot capture structured bindings
        const auto& bytes = file.first;
        const auto& sentence = file.second;
        const std::string said = complaint([&] { npy_of(bytes); });
        CAPTURE(sentence);
        CAPTURE(said);
        CHECK(said.starts_with("x.npy: "));
        CHECK(said.find(sentence) != std::string::npos);
    }
    // Cut anywhere: refused. Any one byte changed: refused or read, but never worse.
    const std::string whole = npy_bytes(good, 24);
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK(complaint([&] { npy_of(whole.substr(0, length)); }) != "");
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (int byte : {0, 1, 0x27, 0x29, 0x39, 0x7f, 0xff}) {
            std::string changed = whole;
            changed[at] = static_cast<char>(byte);
            complaint([&] { npy_of(changed); });
        }
    }
}

TEST_CASE("the safetensors reader takes what the safetensors package writes") {
    const SafetensorsFile file((data / "safetensors" / "all.safetensors").string());
    CHECK(file.names().size() == 8);
    for (DType dtype : every_dtype) {
        CAPTURE(std::string(name_of(dtype)));
        const Tensor tensor = file.read(name_of(dtype));
        CHECK(tensor.dtype() == dtype);
        CHECK(tuple_text(tensor.shape()) == "(2, 3, 4)");
        check_pattern(tensor);
    }
    CHECK(file.read("scalar").rank() == 0);
    check_pattern(file.read("scalar"));
    CHECK(tuple_text(file.read("empty").shape()) == "(2, 0, 3)");
    CHECK(
        complaint([&] {
            file.read("int64");
        }).ends_with("tensor 'int64' holds I64, but only F64, F32, F16, BF16 and BOOL are taken"));
    CHECK(complaint([&] {
              file.read("query");
          }).find("has no tensor 'query'; it has 'int64', 'float64'") != std::string::npos);
}

TEST_CASE("the safetensors reader takes no hostile file") {
    const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    CHECK(safetensors_of(safetensors_bytes(good, 8)).read("a").size() == 2);
    CHECK(safetensors_of(safetensors_bytes("{}", 0)).names().empty());
    const auto one = [](const char* about, std::size_t bytes = 8) {
        return safetensors_bytes(std::string("{\"a\":") + about + "}", bytes);
    };
    const auto two = [](const char* first, const char* second, std::size_t bytes) {
        return safetensors_bytes(std::string(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)") +
                                     first + R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" +
                                     second + "}}",
                                 bytes);
    };
    const std::pair<std::string, const char*> hostile[] = {
        {"", "is too short to be a .safetensors file"},
        {"1234567", "is too short to be a .safetensors file"},
        {std::string(16, '\xff'),
         "says its header has 18446744073709551615 bytes, but at most 8 are possible"},
        {safetensors_bytes(good, 8).substr(0, 20),
         "says its header has 54 bytes, but at most 12 are possible"},
        {safetensors_bytes("", 0), "does not begin as a .safetensors file does"},
        {safetensors_bytes("[]", 0), "does not begin as a .safetensors file does"},
        {safetensors_bytes("{", 0), "the header is not valid JSON (at its byte 2)"},
        {safetensors_bytes("{} {}", 0), "the header is not valid JSON"},
        {safetensors_bytes("{\"\xff\":1}", 0), "the header is not valid JSON"},
        {safetensors_bytes("{\"a\":1e999}", 0), "the header is not valid JSON"},
        {safetensors_bytes("{\"a\":{\"b\":{\"c\":{}}}}", 0),
         "nested deeper than the format allows"},
        {safetensors_bytes("{\"a\":" + std::string(100000, '['), 0),
         "nested deeper than the format allows"},
        {safetensors_bytes("{\"a\":" + good.substr(5, 48) + "," + good.substr(1), 8),
         "the header says 'a' twice"},
        {one(R"({"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]})"),
         "the header says 'shape' twice"},
        {one("1"), "tensor 'a' should have dtype, shape and data_offsets, and nothing else"},
        {one(R"({"dtype":"F32","shape":[2]})"), "should have dtype, shape and data_offsets"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), "and nothing else"},
        {one(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})"),
         "should have dtype, shape and data_offsets"},
        {one(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"),
         "tensor 'a' has the unknown dtype 'F33'"},
        {one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
         "the shape of tensor 'a' should be a list"},
        {one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
         "the shape of tensor 'a' should be a list"},
        {one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
         "the shape of tensor 'a' should be a list"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,16]})"),
         "should be 2 numbers, not 3"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})"),
         "the data_offsets of tensor 'a' should be a list"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
         "lies at bytes 8 to 0, but the data has 8"},
        {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"),
         "lies at bytes 0 to 12, but the data has 8"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]})"),
         "but the data has 8"},
        {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
         "which takes 12 bytes, but has 8"},
        {one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})"),
         "beyond 63 bits"},
        {one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})"),
         "whose size in bytes overflows"},
        {one(R"({"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]})", 0),
         "whose size in bytes overflows"},
        {one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})"),
         "has 9 axes, but at most 8 are taken"},
        {two("[0,8]", "[4,12]", 12),
         "tensor 'b' begins at byte 4, but the one before it ends at 8"},
        {two("[0,8]", "[0,8]", 8), "tensor 'b' begins at byte 0, but the one before it ends at 8"},
        {two("[0,8]", "[12,20]", 20),
         "tensor 'b' begins at byte 12, but the one before it ends at 8"},
        {two("[0,8]", "[8,16]", 20), "the tensors end at byte 16, but the data has 20"},
        {one(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", 12),
         "tensor 'a' begins at byte 4"}};
    for (const auto& file : hostile) {  // clang 14: lambdas cannot capture structured bindings
        const auto& bytes = file.first;
        const auto& sentence = file.second;
        const std::string said = complaint([&] { safetensors_of(bytes); });
        CAPTURE(sentence);
        CAPTURE(said);
        CHECK(said.starts_with("x.safetensors: "));
        CHECK(said.find(sentence) != std::string::npos);
    }
    const std::string bools =
        safetensors_bytes(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 0) + '\7';
    CHECK(complaint([&] {
              safetensors_of(bools).read("a");
          }).ends_with("bool number 0 is 7, but must be 0 or 1"));
    const std::string whole = safetensors_bytes(good, 8);
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK(complaint([&] { safetensors_of(whole.substr(0, length)); }) != "");
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (int byte : {0, 1, 0x22, 0x2c, 0x39, 0x5b, 0x7d, 0xff}) {
            std::string changed = whole;
            changed[at] = static_cast<char>(byte);
            complaint([&] { safetensors_of(changed); });
        }
    }
}

TEST_CASE("the written files read back to the same bits") {
    const Folder folder;
    for (DType dtype : every_dtype) {
        CAPTURE(std::string(name_of(dtype)));
        const Tensor tensor = all_patterns(dtype);
        if (dtype == DType::bfloat16) {
            CHECK(complaint([&] {
                      write_npy(folder / "x.npy", tensor);
                  }).ends_with(".npy cannot hold bfloat16; use a name that ends in .safetensors"));
            CHECK(folder.count() == 0);
        } else {
            write_npy(folder / "x.npy", tensor);
            CHECK(same_bits(read_npy(folder / "x.npy"), tensor));
            fs::remove(folder / "x.npy");
        }
        const Tensor scalar(std::span<const Index>{}, dtype), empty({3, 0}, dtype);
        const NamedTensor all[] = {
            {"the \"first\"\n", &tensor}, {"scalar", &scalar}, {"empty", &empty}};
        write_safetensors(folder / "x.safetensors", all);
        const SafetensorsFile file(folder / "x.safetensors");
        CHECK(same_bits(file.read("the \"first\"\n"), tensor));
        CHECK(file.read("scalar").rank() == 0);
        CHECK(tuple_text(file.read("empty").shape()) == "(3, 0)");
        CHECK(folder.count() == 1);
        fs::remove(folder / "x.safetensors");
    }
    // Mixed widths: wide elements come first, so that each is aligned.
    const Tensor boolean({3}, DType::boolean), wide({2}, DType::float64);
    const NamedTensor mixed[] = {{"b", &boolean}, {"w", &wide}};
    write_safetensors(folder / "m.safetensors", mixed);
    CHECK(SafetensorsFile(folder / "m.safetensors").names() == std::vector<std::string>{"w", "b"});
}

TEST_CASE("the npy writer writes what numpy would") {
    const Folder folder;
    for (const char* name : {"float64", "float32", "float16", "bool", "rank0", "rank1", "empty"}) {
        CAPTURE(std::string(name));
        const fs::path original = data / "npy" / (std::string(name) + ".npy");
        write_npy(folder / "copy.npy", read_npy(original.string()));
        CHECK(contents(folder / "copy.npy") == contents(original));
    }
}
