/// \file
/// \brief Text for people: tables, and numbers with their units.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace attn::cli {

/// \brief Columns of a table, each as wide as its widest cell, with two spaces between.
class Table {
  public:
    enum class Align { left, right };
    struct Column {
        std::string title;
        Align align = Align::right;
    };
    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

    /// \brief One cell for each column.
    void row(std::vector<std::string> cells);
    /// \brief A first cell, then a text that runs across the other columns and widens none.
    void remark(std::string first, std::string text);
    /// \brief The whole table, each line indented and ended.
    std::string text(std::size_t indent = 2) const;

  private:
    struct Row {
        std::vector<std::string> cells;
        bool remark = false;
    };
    std::vector<Column> columns_;
    std::vector<Row> rows_;
};

/// \brief "1.23 s", "4.56 ms", "7.89 us".
std::string seconds_text(double seconds);
/// \brief "0", "960 B", "1.2 KiB", "16.0 MiB".
std::string bytes_text(double bytes);
/// \brief "4, 8, 64, 64"
std::string shape_text(std::span<const Index> shape);
/// \brief `text` broken at spaces into lines of at most `width`, each but the first indented.
std::string wrapped(const std::string& text, std::size_t indent, std::size_t width = 100);

}  // namespace attn::cli
