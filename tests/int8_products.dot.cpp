/// \file
/// \brief See int8_products.hpp. Compiled once per instruction set.
#include "int8_products.hpp"

#include "int8_dot.hpp"

namespace attn::ATTN_ISA {
namespace {

/// Numbers first .. first + width * dot_depth - 1, as the kernels pack them.
Bits words_at(const std::vector<int>& numbers, std::size_t first) {
    Bits q[dot_depth];
    for (int n = 0; n < width; ++n)
        for (int d = 0; d < dot_depth; ++d)
            q[d][n] = numbers[first + static_cast<std::size_t>(n * dot_depth + d)];
    return pack(q);
}

int products(const std::vector<int>& a, const std::vector<int>& b, bool portable) {
    Bits sum{};
    for (std::size_t i = 0; i < a.size(); i += width * dot_depth) {
        const Bits x = words_at(a, i), y = words_at(b, i);
        sum = portable ? portable_dot(x, y, sum) : dot(x, y, sum);
    }
    int total = 0;
    for (int n = 0; n < width; ++n) total += sum[n];
    return total;
}

}  // namespace

extern const Int8Products int8_products = products;

}  // namespace attn::ATTN_ISA
