#include "npy.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

namespace attn {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::uint64_t longest_header = 65535;  // bytes; what version 1 can say

struct Header {
    std::optional<DType> dtype;
    std::optional<bool> fortran_order;
    std::optional<std::vector<Index>> shape;
};

/// \brief Reads the dictionary of the header: the few forms of Python literals that numpy writes.
class HeaderText {
  public:
    HeaderText(const ByteSource& source, std::string_view text) : source_(source), text_(text) {}

    Header dictionary() {
        Header header;
        expect('{');
        while (!take('}')) {
            const std::string_view key = string();
            expect(':');
            if (key == "descr")
                once(key, header.dtype) = dtype();
            else if (key == "fortran_order")
                once(key, header.fortran_order) = boolean();
            else if (key == "shape")
                once(key, header.shape) = tuple();
            else
                fail(fmt::format("the header has the unknown key {}", shown(key)));
            if (!take(',')) {
                expect('}');
                break;
            }
        }
        skip_space();
        if (at_ != text_.size()) fail("the header goes on after its closing brace");
        require(header.dtype.has_value(), "descr");
        require(header.fortran_order.has_value(), "fortran_order");
        require(header.shape.has_value(), "shape");
        return header;
    }

  private:
    [[noreturn]] void fail(std::string_view sentence) const {
        throw file_error(source_.name(), sentence);
    }
    void require(bool present, std::string_view key) const {
        if (!present) fail(fmt::format("the header lacks '{}'", key));
    }
    template <class T>
    std::optional<T>& once(std::string_view key, std::optional<T>& field) const {
        if (field) fail(fmt::format("the header says '{}' twice", key));
        return field;
    }

    void skip_space() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    }
    bool take(char wanted) {
        skip_space();
        if (at_ >= text_.size() || text_[at_] != wanted) return false;
        ++at_;
        return true;
    }
    void expect(char wanted) {
        if (!take(wanted))
            fail(fmt::format("the header should have '{}' at {}", wanted,
                             at_ < text_.size() ? shown(text_.substr(at_)) : "its end"));
    }

    std::string_view string() {
        skip_space();
        const char quote = at_ < text_.size() ? text_[at_] : '\0';
        if (quote != '\'' && quote != '"') expect('\'');
        const std::size_t begin = ++at_;
        const std::size_t end = text_.find(quote, begin);
        if (end == std::string_view::npos) fail("the header has a string without an end");
        at_ = end + 1;
        return text_.substr(begin, end - begin);
    }

    bool boolean() {
        skip_space();
        for (const auto& [word, value] : {std::pair{std::string_view("True"), true},
                                          std::pair{std::string_view("False"), false}}) {
            if (!text_.substr(at_).starts_with(word)) continue;
            at_ += word.size();
            return value;
        }
        fail("the header's 'fortran_order' is neither True nor False");
    }

    /// \brief "()", "(3,)", "(2, 3)" or "(2, 3,)". "(3)" is a number to Python, not a tuple.
    std::vector<Index> tuple() {
        std::vector<Index> extents;
        expect('(');
        bool comma = true;
        while (!take(')')) {
            if (!comma) expect(',');
            extents.push_back(number());
            comma = take(',');
        }
        if (extents.size() == 1 && !comma) fail("the header's 'shape' is a number, not a tuple");
        return extents;
    }

    Index number() {
        skip_space();
        Index value = 0;
        const char* begin = text_.data() + at_;
        const char* end = text_.data() + text_.size();
        const auto [stop, error] = std::from_chars(begin, end, value);
        if (error == std::errc::result_out_of_range)
            fail("the header's 'shape' has a number beyond 64 bits");
        if (error != std::errc())
            fail(fmt::format("the header's 'shape' has {} where a number should be",
                             shown(text_.substr(at_))));
        if (value < 0) fail(fmt::format("the header's 'shape' has the negative size {}", value));
        at_ += static_cast<std::size_t>(stop - begin);
        return value;
    }

    DType dtype() {
        skip_space();
        if (at_ < text_.size() && text_[at_] == '[') fail("holds records, not plain numbers");
        const std::string_view descr = string();
        if (descr == "<f8") return DType::float64;
        if (descr == "<f4") return DType::float32;
        if (descr == "<f2") return DType::float16;
        if (descr == "|b1") return DType::boolean;
        std::string why = fmt::format(
            "holds dtype {}, but only '<f8', '<f4', '<f2' and '|b1' are taken", shown(descr));
        if (descr.starts_with('>'))
            why +=
                "; this one is big-endian: convert it with "
                "array.astype(array.dtype.newbyteorder('<'))";
        if (descr.find('O') != std::string_view::npos)
            why += "; Python objects are never loaded, since unpickling runs code";
        if (descr == "|V2") why += "; if it is bfloat16, .safetensors can say so";
        if (descr == "|u1" || descr == "|i1")
            why += "; if it is a mask, convert it with astype(bool)";
        fail(why);
    }

    const ByteSource& source_;
    std::string_view text_;
    std::size_t at_ = 0;
};

/// \brief Reorders the elements of a column-major file into the row-major `target`.
void from_fortran_order(const std::vector<std::byte>& file, Tensor& target) {
    const auto shape = target.shape();
    const std::size_t element = size_of(target.dtype());
    std::array<std::size_t, max_rank> stride{};  // of the file, in bytes
    std::size_t step = element;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        stride[axis] = step;
        step *= static_cast<std::size_t>(shape[axis]);
    }
    std::array<Index, max_rank> index{};  // of the element to write next
    std::size_t offset = 0;               // of that element in the file
    auto* out = static_cast<std::byte*>(target.data());
    for (Index i = 0; i < target.size(); ++i, out += element) {
        std::memcpy(out, file.data() + offset, element);
        for (std::size_t axis = shape.size(); axis-- > 0;) {
            offset += stride[axis];
            if (++index[axis] < shape[axis]) break;
            offset -= stride[axis] * static_cast<std::size_t>(shape[axis]);
            index[axis] = 0;
        }
    }
}

const char* descr_of(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return "<f8";
        case DType::float32:
            return "<f4";
        case DType::float16:
            return "<f2";
        case DType::boolean:
            return "|b1";
        case DType::bfloat16:
            break;
    }
    return nullptr;
}

}  // namespace

Tensor read_npy(const ByteSource& source) {
    // magic (6 bytes), version (2), header length (2 in version 1, else 4), header, data
    std::array<std::byte, 12> start{};
    if (source.size() < 10) throw file_error(source.name(), "is too short to be a .npy file");
    source.read(0, std::span(start).first(10));
    if (std::memcmp(start.data(), magic.data(), magic.size()) != 0)
        throw file_error(source.name(), "does not begin as a .npy file does");
    const int major = static_cast<int>(start[6]);
    const int minor = static_cast<int>(start[7]);
    if (major < 1 || major > 3 || minor != 0)
        throw file_error(source.name(), fmt::format("has .npy version {}.{}, but only 1.0, 2.0 and "
                                                    "3.0 are known",
                                                    major, minor));
    const std::uint64_t start_bytes = major == 1 ? 10 : 12;
    if (source.size() < start_bytes)
        throw file_error(source.name(), "is too short to be a .npy file");
    source.read(0, std::span(start).first(start_bytes));
    std::uint64_t header_bytes = 0;
    for (std::uint64_t i = start_bytes; i-- > 8;)
        header_bytes = header_bytes << 8 | static_cast<std::uint64_t>(start[i]);
    if (header_bytes > longest_header || header_bytes > source.size() - start_bytes)
        throw file_error(
            source.name(),
            fmt::format("says its header has {} bytes, but at most {} are possible", header_bytes,
                        std::min(longest_header, source.size() - start_bytes)));

    std::string text(header_bytes, '\0');
    source.read(start_bytes, std::as_writable_bytes(std::span(text)));
    const Header header = HeaderText(source, text).dictionary();

    const std::uint64_t data_begin = start_bytes + header_bytes;
    const std::uint64_t wanted = checked_bytes(source, *header.shape, size_of(*header.dtype));
    if (wanted != source.size() - data_begin)
        throw file_error(source.name(),
                         fmt::format("has shape {} of {}, which takes {} bytes, but {} follow its "
                                     "header",
                                     tuple_text(*header.shape), name_of(*header.dtype), wanted,
                                     source.size() - data_begin));

    Tensor tensor(*header.shape, *header.dtype);
    if (*header.fortran_order && header.shape->size() > 1) {
        std::vector<std::byte> file(wanted);
        source.read(data_begin, file);
        from_fortran_order(file, tensor);
    } else {
        source.read(data_begin, {static_cast<std::byte*>(tensor.data()), wanted});
    }
    if (*header.dtype == DType::boolean) check_bools(source, tensor);
    return tensor;
}

Tensor read_npy(const std::string& path) { return read_npy(FileSource(path)); }

void check_npy_dtype(const std::string& path, DType dtype) {
    if (descr_of(dtype) == nullptr)
        throw file_error(path, fmt::format(".npy cannot hold {}; use a name that ends in "
                                           ".safetensors",
                                           name_of(dtype)));
}

void write_npy(OutputFile& file, const Tensor& tensor) {
    check_npy_dtype(file.path(), tensor.dtype());
    std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                     descr_of(tensor.dtype()), tuple_text(tensor.shape()));
    // Spaces and a newline, so that the data begins at a multiple of 64 bytes.
    const std::size_t unpadded = 10 + header.size() + 1;
    header.append((unpadded + 63) / 64 * 64 - unpadded, ' ');
    header += '\n';
    std::string start(magic);
    start += {'\1', '\0', static_cast<char>(header.size() & 0xff),
              static_cast<char>(header.size() >> 8)};
    file.write(start + header);
    file.write({static_cast<const std::byte*>(tensor.data()), tensor.bytes()});
}

void write_npy(const std::string& path, const Tensor& tensor) {
    OutputFile file(path);
    write_npy(file, tensor);
    file.commit();
}

}  // namespace attn
