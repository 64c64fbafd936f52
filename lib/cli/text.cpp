#include "text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace attn::cli {

void Table::row(std::vector<std::string> cells) { rows_.push_back({std::move(cells), false}); }

void Table::remark(std::string first, std::string text) {
    rows_.push_back({{std::move(first), std::move(text)}, true});
}

std::string Table::text(std::size_t indent) const {
    std::vector<std::size_t> width;
    for (const Column& column : columns_) width.push_back(column.title.size());
    for (const Row& row : rows_)
        for (std::size_t i = 0; i < (row.remark ? 1 : row.cells.size()); ++i)
            width[i] = std::max(width[i], row.cells[i].size());

    std::string all;
    const auto add = [&](const std::vector<std::string>& cells, bool remark) {
        std::string line(indent, ' ');
        for (std::size_t i = 0; i < cells.size(); ++i) {
            if (i > 0) line += "  ";
            const bool left = columns_[i].align == Align::left;
            if (remark && i > 0)
                line += cells[i];
            else
                line += left ? fmt::format("{:<{}}", cells[i], width[i])
                             : fmt::format("{:>{}}", cells[i], width[i]);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        all += line + '\n';
    };
    std::vector<std::string> titles, rules;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
        titles.push_back(columns_[i].title);
        rules.emplace_back(width[i], '-');
    }
    add(titles, false);
    add(rules, false);
    for (const Row& row : rows_) add(row.cells, row.remark);
    return all;
}

std::string seconds_text(double seconds) {
    if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
    if (seconds >= 1e-3) return fmt::format("{:.2f} ms", seconds * 1e3);
    return fmt::format("{:.2f} us", seconds * 1e6);
}

std::string bytes_text(double bytes) {
    if (bytes == 0) return "0";
    if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
    const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    for (bytes /= 1024; bytes >= 1024 && unit + 1 < std::size(units); bytes /= 1024) ++unit;
    return fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string shape_text(std::span<const Index> shape) {
    return fmt::format("{}", fmt::join(shape, ", "));
}

std::string wrapped(const std::string& text, std::size_t indent, std::size_t width) {
    std::string all;
    std::size_t column = indent;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find(' ', begin), text.size());
        const std::size_t length = end - begin;
        if (begin > 0 && column + 1 + length > width) {
            all += '\n' + std::string(indent, ' ');
            column = indent;
        } else if (begin > 0) {
            all += ' ';
            ++column;
        }
        all.append(text, begin, length);
        column += length;
        begin = end + 1;
    }
    return all;
}

}  // namespace attn::cli
