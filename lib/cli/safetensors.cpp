#include "safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

namespace attn {
namespace {

using nlohmann::json;

constexpr std::uint64_t length_bytes = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // bytes; the format's own limit
constexpr int deepest = 2;                             // file object, tensor object, list

struct FileDType {
    const char* name;
    std::size_t bytes;
};
/// Every type of the format with whole bytes: a file may hold tensors that are not asked for.
constexpr FileDType file_dtypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
    {"F32", 4},  {"I64", 8}, {"U64", 8}, {"F64", 8},     {"C64", 8}};

struct TakenDType {
    const char* name;
    DType dtype;
};
constexpr TakenDType taken_dtypes[] = {{"F64", DType::float64},
                                       {"F32", DType::float32},
                                       {"F16", DType::float16},
                                       {"BF16", DType::bfloat16},
                                       {"BOOL", DType::boolean}};

std::size_t bytes_of(const ByteSource& source, const std::string& tensor,
                     const std::string& dtype) {
    for (const FileDType& known : file_dtypes)
        if (dtype == known.name) return known.bytes;
    throw file_error(source.name(), fmt::format("tensor {} has the unknown dtype {}", shown(tensor),
                                                shown(dtype)));
}

/// \brief Parses the header. Stops at nesting that no valid file has, and at a key given twice,
///        of which a plain parse would silently keep the last.
json parse_header(const ByteSource& source, const std::string& text) {
    std::array<std::set<std::string>, deepest + 1> keys;  // seen in the object open at each depth
    const auto guard = [&](int depth, json::parse_event_t event, json& parsed) {
        using Event = json::parse_event_t;
        const auto level = static_cast<std::size_t>(depth);
        if ((event == Event::object_start || event == Event::array_start)) {
            if (depth > deepest)
                throw file_error(source.name(),
                                 "the header is nested deeper than the format allows");
            keys[level].clear();
        }
        // A key's depth counts the object that it is in.
        if (event == Event::key && !keys[level - 1].insert(parsed.get<std::string>()).second)
            throw file_error(source.name(), fmt::format("the header says {} twice",
                                                        shown(parsed.get<std::string>())));
        return true;
    };
    try {
        return json::parse(text, guard);
    } catch (const json::exception& error) {
        const auto* syntax = dynamic_cast<const json::parse_error*>(&error);
        throw file_error(source.name(),
                         fmt::format("the header is not valid JSON{}",
                                     syntax ? fmt::format(" (at its byte {})", syntax->byte) : ""));
    }
}

std::vector<std::uint64_t> unsigned_list(const ByteSource& source, const std::string& tensor,
                                         const char* key, const json& list) {
    const auto whole = [](const json& number) { return number.is_number_unsigned(); };
    if (!list.is_array() || !std::all_of(list.begin(), list.end(), whole))
        throw file_error(source.name(), fmt::format("the {} of tensor {} should be a list of whole "
                                                    "numbers that are not negative",
                                                    key, shown(tensor)));
    return list.get<std::vector<std::uint64_t>>();
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::unique_ptr<const ByteSource> source)
    : source_(std::move(source)) {
    read_header();
    check_layout();
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : SafetensorsFile(std::make_unique<FileSource>(path)) {}

void SafetensorsFile::read_header() {
    const std::string& file = source_->name();
    if (source_->size() < length_bytes)
        throw file_error(file, "is too short to be a .safetensors file");
    std::uint64_t header_bytes = 0;
    source_->read(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
    const std::uint64_t most = std::min(longest_header, source_->size() - length_bytes);
    if (header_bytes > most)
        throw file_error(file, fmt::format("says its header has {} bytes, but at most {} are "
                                           "possible",
                                           header_bytes, most));
    data_begin_ = length_bytes + header_bytes;
    std::string text(header_bytes, '\0');
    source_->read(length_bytes, std::as_writable_bytes(std::span(text)));
    if (text.empty() || text.front() != '{')
        throw file_error(file, "does not begin as a .safetensors file does");

    const json header = parse_header(*source_, text);
    for (const auto& [name, about] : header.items()) {
        if (name == "__metadata__") continue;  // free text, of no meaning here
        if (!about.is_object() || about.size() != 3 || !about.contains("dtype") ||
            !about.contains("shape") || !about.contains("data_offsets") ||
            !about["dtype"].is_string())
            throw file_error(file,
                             fmt::format("tensor {} should have dtype, shape and data_offsets, "
                                         "and nothing else",
                                         shown(name)));
        Entry entry;
        entry.name = name;
        entry.dtype = about["dtype"].get<std::string>();
        for (std::uint64_t extent : unsigned_list(*source_, name, "shape", about["shape"])) {
            if (extent > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
                throw file_error(file,
                                 fmt::format("the shape of tensor {} has the number {}, beyond "
                                             "63 bits",
                                             shown(name), extent));
            entry.shape.push_back(static_cast<Index>(extent));
        }
        const auto offsets = unsigned_list(*source_, name, "data_offsets", about["data_offsets"]);
        if (offsets.size() != 2)
            throw file_error(file, fmt::format("the data_offsets of tensor {} should be 2 numbers, "
                                               "not {}",
                                               shown(name), offsets.size()));
        entry.begin = offsets[0];
        entry.end = offsets[1];
        entries_.push_back(std::move(entry));
    }
    std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
}

void SafetensorsFile::check_layout() {
    const std::string& file = source_->name();
    const std::uint64_t data_bytes = source_->size() - data_begin_;
    std::uint64_t covered = 0;
    for (const Entry& entry : entries_) {
        const std::string name = shown(entry.name);
        const std::uint64_t wanted =
            checked_bytes(*source_, entry.shape, bytes_of(*source_, entry.name, entry.dtype));
        if (entry.end > data_bytes || entry.begin > entry.end)
            throw file_error(
                file, fmt::format("tensor {} lies at bytes {} to {}, but the data has {}", name,
                                  entry.begin, entry.end, data_bytes));
        if (entry.begin != covered)
            throw file_error(file, fmt::format("tensor {} begins at byte {}, but the one before it "
                                               "ends at {}",
                                               name, entry.begin, covered));
        if (entry.end - entry.begin != wanted)
            throw file_error(file,
                             fmt::format("tensor {} has shape {} of {}, which takes {} bytes, "
                                         "but has {}",
                                         name, tuple_text(entry.shape), entry.dtype, wanted,
                                         entry.end - entry.begin));
        covered = entry.end;
    }
    if (covered != data_bytes)
        throw file_error(file, fmt::format("the tensors end at byte {}, but the data has {}",
                                           covered, data_bytes));
}

std::vector<std::string> SafetensorsFile::names() const {
    std::vector<std::string> all;
    for (const Entry& entry : entries_) all.push_back(entry.name);
    return all;
}

const SafetensorsFile::Entry* SafetensorsFile::find(std::string_view name) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.name == name; });
    return found == entries_.end() ? nullptr : &*found;
}

Tensor SafetensorsFile::read(std::string_view name) const {
    const Entry* entry = find(name);
    if (entry == nullptr) {
        std::string others;
        for (std::size_t i = 0; i < entries_.size() && i < 8; ++i)
            others += (i > 0 ? ", " : "") + shown(entries_[i].name);
        if (entries_.size() > 8) others += fmt::format(" and {} more", entries_.size() - 8);
        throw file_error(source_->name(), fmt::format("has no tensor {}; it has {}", shown(name),
                                                      others.empty() ? "none" : others));
    }
    for (const TakenDType& taken : taken_dtypes) {
        if (entry->dtype != taken.name) continue;
        Tensor tensor(entry->shape, taken.dtype);
        source_->read(data_begin_ + entry->begin,
                      {static_cast<std::byte*>(tensor.data()), tensor.bytes()});
        if (taken.dtype == DType::boolean) check_bools(*source_, tensor);
        return tensor;
    }
    throw file_error(source_->name(),
                     fmt::format("tensor {} holds {}, but only F64, F32, F16, BF16 "
                                 "and BOOL are taken",
                                 shown(name), entry->dtype));
}

void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors) {
    // Wide elements first: then each tensor's data is aligned to its element.
    std::vector<NamedTensor> order(tensors.begin(), tensors.end());
    std::stable_sort(order.begin(), order.end(), [](const NamedTensor& a, const NamedTensor& b) {
        return size_of(a.tensor->dtype()) > size_of(b.tensor->dtype());
    });
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    std::uint64_t at = 0;
    for (const NamedTensor& named : order) {
        const Tensor& tensor = *named.tensor;
        const auto* dtype =
            std::find_if(std::begin(taken_dtypes), std::end(taken_dtypes),
                         [&](const TakenDType& taken) { return taken.dtype == tensor.dtype(); });
        header[named.name] = {
            {"dtype", dtype->name},
            {"shape", std::vector<Index>(tensor.shape().begin(), tensor.shape().end())},
            {"data_offsets", {at, at + tensor.bytes()}}};
        at += tensor.bytes();
    }
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8 bytes
    const std::uint64_t header_bytes = text.size();
    file.write(std::as_bytes(std::span(&header_bytes, 1)));
    file.write(text);
    for (const auto& [name, tensor] : order)
        file.write({static_cast<const std::byte*>(tensor->data()), tensor->bytes()});
}

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors) {
    OutputFile file(path);
    write_safetensors(file, tensors);
    file.commit();
}

}  // namespace attn
