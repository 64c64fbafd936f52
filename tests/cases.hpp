/// \file
/// \brief The only list of problems: tests, benches and the demo take theirs from here.
#pragma once

#include <attn/generate.hpp>
#include <attn/tier.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace attn::testing {

/// \brief How a (B, H, rows, columns) tensor lies in memory. Gaps hold NaN.
enum class Layout {
    contiguous,
    blhe,      ///< (B, rows, H, columns) in memory, seen transposed
    packed,    ///< one of three slots of a packed (B, rows, 3, H, columns) projection
    expanded,  ///< one (rows, columns) matrix serves every batch and head: strides 0
    step2,     ///< every second column and every second row of a larger tensor
    reversed,  ///< all strides negative
    odd,       ///< begins one element late, and each row is one element longer than needed
};
inline constexpr Layout layouts[] = {Layout::contiguous, Layout::blhe,  Layout::packed,
                                     Layout::expanded,   Layout::step2, Layout::reversed,
                                     Layout::odd};

inline const char* name_of(Layout layout) {
    switch (layout) {
        case Layout::contiguous:
            return "contiguous";
        case Layout::blhe:
            return "blhe";
        case Layout::packed:
            return "packed";
        case Layout::expanded:
            return "expanded";
        case Layout::step2:
            return "step2";
        case Layout::reversed:
            return "reversed";
        case Layout::odd:
            return "odd";
    }
    return "?";
}

/// \brief A mask's kind and shape: the last `rank` axes of (B, Hq, L, S), each full or 1.
struct MaskSpec {
    MaskKind kind = MaskKind::none;
    int rank = 4;
    bool full[4] = {true, true, true, true};  ///< B, Hq, L, S
};

/// \brief One problem.
struct Case {
    std::string name;
    Sizes sizes;
    DType dtype = DType::float32;
    MaskSpec mask{};
    Causal causal = Causal::none;
    std::optional<double> scale{};
    Layout layout = Layout::contiguous;
    std::string generator = "gauss";
    std::uint64_t seed = 1;
    bool quick = true;   ///< in the test suite
    bool bench = false;  ///< timed by the benches and the demo
};

/// \brief A tensor in one layout, with the memory it lies in.
struct Laid {
    Tensor memory;
    MutableTensorView view;
};

/// \brief Elements of NaN before and after every tensor.
inline constexpr Index margin = 64;

/// \brief Memory for a tensor of the given 4-D shape in a layout, all bytes 0xff: NaN in every
///        floating type, true in a mask.
inline Laid lay_out(const Index (&shape)[4], DType dtype, Layout layout) {
    const Index B = shape[0], H = shape[1], rows = shape[2], columns = shape[3];
    Index stride[4] = {H * rows * columns, rows * columns, columns, 1}, first = 0;
    Index elements = B * H * rows * columns;
    const auto set = [&](Index b, Index h, Index r, Index c) {
        stride[0] = b, stride[1] = h, stride[2] = r, stride[3] = c;
    };
    switch (layout) {
        case Layout::contiguous:
            break;
        case Layout::blhe:
            set(rows * H * columns, columns, H * columns, 1);
            break;
        case Layout::packed:
            set(rows * 3 * H * columns, columns, 3 * H * columns, 1);
            first = H * columns, elements *= 3;
            break;
        case Layout::expanded:
            set(0, 0, columns, 1);
            elements = rows * columns;
            break;
        case Layout::step2:
            set(H * rows * columns * 4, rows * columns * 4, columns * 4, 2);
            elements *= 4;
            break;
        case Layout::reversed:
            first = std::max<Index>(elements - 1, 0);
            for (Index& s : stride) s = -s;
            break;
        case Layout::odd:
            set(H * rows * (columns + 1), rows * (columns + 1), columns + 1, 1);
            first = 1, elements = B * H * rows * (columns + 1) + 1;
            break;
    }
    Laid laid{Tensor({elements + 2 * margin}, dtype), {}};
    std::memset(laid.memory.data(), 0xff, laid.memory.bytes());
    char* data = static_cast<char*>(laid.memory.data());
    data += static_cast<std::size_t>(margin + first) * size_of(dtype);
    laid.view = MutableTensorView(data, dtype, shape, stride);
    return laid;
}

/// \brief Calls visit(offset) for each element of a view in row-major order.
template <class Void, class Visit>
void each_offset(const BasicTensorView<Void>& view, Visit&& visit, int axis = 0, Index offset = 0) {
    if (axis == view.rank) return visit(offset);
    for (Index i = 0; i < view.shape[axis]; ++i)
        each_offset(view, visit, axis + 1, offset + i * view.stride[axis]);
}

/// \brief Copies elements of one dtype and shape between layouts, bit for bit.
inline void copy_elements(const TensorView& from, const MutableTensorView& to) {
    const std::size_t bytes = size_of(from.dtype);
    std::vector<Index> source;
    each_offset(from, [&](Index offset) { source.push_back(offset); });
    std::size_t i = 0;
    each_offset(to, [&](Index offset) {
        std::memcpy(static_cast<char*>(to.data) + offset * static_cast<Index>(bytes),
                    static_cast<const char*>(from.data) + source[i++] * static_cast<Index>(bytes),
                    bytes);
    });
}

inline Laid laid_copy(const TensorView& from, Layout layout) {
    const Index shape[4] = {from.shape[0], from.shape[1], from.shape[2], from.shape[3]};
    Laid laid = lay_out(shape, from.dtype, layout);
    copy_elements(from, laid.view);  // expanded: the last batch and head stay
    return laid;
}

/// \brief The inputs of one case, in its layout.
struct Inputs {
    Laid query, key, value;
    Laid mask;        ///< memory empty without a mask
    Options options;  ///< `options.mask` is a view of `mask`
    DType dtype() const { return query.view.dtype; }
};

/// \brief A random mask: about a third of the keys hidden, some of them by -inf; about one row in
///        eight sees nothing. Additive masks are float32 or, for every second seed, of `dtype`.
inline Laid make_mask(const Case& c) {
    const MaskSpec& spec = c.mask;
    const Index all[4] = {c.sizes.B, c.sizes.Hq, c.sizes.L, c.sizes.S};
    Index shape[4];
    for (int a = 0; a < 4; ++a) shape[a] = spec.full[a] && a >= 4 - spec.rank ? all[a] : 1;
    const DType dtype = spec.kind == MaskKind::boolean ? DType::boolean
                        : c.seed % 2 == 0              ? c.dtype
                                                       : DType::float32;
    Tensor values({shape[0], shape[1], shape[2], shape[3]}, dtype);
    std::mt19937_64 random(c.seed * 7919 + 17);
    for (Index row = 0, i = 0; row < shape[0] * shape[1] * shape[2]; ++row) {
        const bool blind = shape[2] > 1 && random() % 8 == 0;
        for (Index j = 0; j < shape[3]; ++j, ++i) {
            const bool hidden = blind || random() % 3 == 0;
            const double bias = static_cast<double>(random() % 65) / 16 - 2;
            if (spec.kind == MaskKind::boolean)
                values.set(i, !hidden);
            else
                values.set(i, hidden ? -std::numeric_limits<double>::infinity() : bias);
        }
    }
    Laid mask = laid_copy(values.view(), c.layout == Layout::expanded ? Layout::odd : c.layout);
    MutableTensorView& view = mask.view;  // keep the last `rank` axes
    for (int a = 0; a < spec.rank; ++a) {
        view.shape[a] = view.shape[4 - spec.rank + a];
        view.stride[a] = view.stride[4 - spec.rank + a];
    }
    view.rank = spec.rank;
    return mask;
}

inline Inputs make_inputs(const Case& c) {
    const Qkv qkv = generate(c.generator, c.sizes, c.seed, c.dtype);
    Inputs in{laid_copy(qkv.query, c.layout),
              laid_copy(qkv.key, c.layout),
              laid_copy(qkv.value, c.layout),
              {},
              {}};
    in.options.causal = c.causal;
    in.options.scale = c.scale;
    if (c.mask.kind != MaskKind::none) {
        in.mask = make_mask(c);
        in.options.mask = in.mask.view;
    }
    return in;
}

/// \brief Multiplications and additions of a case, each counted as one.
inline double flops(const Sizes& s) {
    return 2.0 * static_cast<double>(s.B * s.Hq) * static_cast<double>(s.L * s.S) *
           static_cast<double>(s.E + s.Ev);
}

/// \brief ATTN_TEST_SCALE=small shortens all lists, for sanitizers and emulators.
inline bool small_scale() {
    const char* scale = std::getenv("ATTN_TEST_SCALE");
    return scale && std::strcmp(scale, "small") == 0;
}

namespace detail {

/// Sizes around the tiles of every tier, and primes.
inline constexpr Index edges[] = {1,  2,  3,  5,  7,  8,  9,   15,  16,  17,  31,  32, 33,
                                  47, 63, 64, 65, 96, 97, 127, 128, 129, 255, 256, 257};
inline constexpr Index head_dims[] = {1,  2,  3,  7,  8,  9,  15,  16,  17,  31,  32, 33,
                                      40, 64, 65, 72, 80, 96, 127, 128, 129, 203, 256};

/// Every size of `edges` for L and for S, every one of `head_dims` for E and for Ev, paired by a
/// seeded shuffle, with all other properties drawn beside them.
inline void add_paired(std::vector<Case>& list, int rounds) {
    std::mt19937_64 random(20261122);
    const auto shuffled = [&](auto&& range) {
        std::vector<Index> v(std::begin(range), std::end(range));
        for (std::size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[random() % i]);
        return v;
    };
    const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16, DType::float32,
                            DType::float64};
    const auto wild = generators();
    for (int round = 0; round < rounds; ++round) {
        const auto Ls = shuffled(edges), Ss = shuffled(edges);
        const auto Es = shuffled(head_dims), Evs = shuffled(head_dims);
        for (std::size_t k = 0; k < Ls.size(); ++k) {
            Case c;
            Sizes& s = c.sizes;
            s.L = Ls[k], s.S = Ss[k], s.E = Es[k % Es.size()];
            s.Ev = random() % 2 ? s.E : Evs[k % Evs.size()];
            s.B = 1 + static_cast<Index>(random() % 3);
            s.H = 1 + static_cast<Index>(random() % 3);
            s.Hq = s.H * (random() % 2 ? 1 : 1 + static_cast<Index>(random() % 3));
            while (flops(s) > 12e6 && s.B > 1) --s.B;
            while (flops(s) > 12e6 && s.H > 1) --s.H, s.Hq = s.H;
            c.dtype = dtypes[random() % 5];
            c.mask.kind = static_cast<MaskKind>(random() % 3);
            c.mask.rank = 1 + static_cast<int>(random() % 4);
            for (bool& full : c.mask.full) full = random() % 4 != 0;
            c.causal = random() % 2 ? Causal::none : static_cast<Causal>(random() % 3);
            if (random() % 3 == 0) c.scale = static_cast<double>(random() % 9) / 8 - 0.5;
            c.layout = layouts[random() % std::size(layouts)];
            if (random() % 4 == 0) c.generator = wild[random() % wild.size()].name;
            c.seed = random() % 100000;
            c.name = "paired " + std::to_string(round) + "." + std::to_string(k);
            list.push_back(c);
        }
    }
}

}  // namespace detail

/// \brief The list. Quick cases first come by hand, then from the seeded pairing of sizes.
inline const std::vector<Case>& cases() {
    static const std::vector<Case> all = [] {
        std::vector<Case> list;
        const auto add = [&](const char* name, Sizes sizes) -> Case& {
            Case c;
            c.name = name;
            c.sizes = sizes;
            list.push_back(c);
            return list.back();
        };
        //                              B  Hq H  L    S    E   Ev
        add("one of everything", {1, 1, 1, 1, 1, 1, 1});
        add("plain", {2, 3, 3, 40, 50, 16, 16});
        add("plain float16", {2, 3, 3, 40, 50, 16, 16}).dtype = DType::float16;
        add("plain bfloat16", {2, 3, 3, 40, 50, 16, 16}).dtype = DType::bfloat16;
        add("plain float64", {2, 3, 3, 40, 50, 16, 16}).dtype = DType::float64;
        add("causal", {1, 2, 2, 65, 65, 32, 32}).causal = Causal::upper_left;
        add("causal wide", {1, 2, 2, 33, 70, 32, 32}).causal = Causal::upper_left;
        add("causal tall", {1, 2, 2, 70, 33, 32, 32}).causal = Causal::upper_left;
        add("lower right wide", {1, 2, 2, 33, 70, 32, 32}).causal = Causal::lower_right;
        add("lower right tall", {1, 2, 2, 70, 33, 32, 32}).causal = Causal::lower_right;
        add("decode", {3, 8, 2, 1, 257, 64, 64}).causal = Causal::lower_right;
        add("decode many keys", {1, 4, 1, 1, 4097, 64, 64});
        add("one key head for all", {2, 6, 1, 17, 31, 40, 24});
        add("one key", {2, 2, 2, 9, 1, 64, 64});
        add("wide values", {1, 2, 2, 20, 20, 8, 203});
        add("wide keys", {1, 2, 2, 20, 20, 203, 8});
        Case& masked = add("boolean mask with grouped heads", {2, 6, 2, 33, 47, 24, 24});
        masked.mask.kind = MaskKind::boolean;
        Case& additive = add("additive mask and causal", {2, 4, 4, 64, 65, 32, 32});
        additive.mask.kind = MaskKind::additive;
        additive.causal = Causal::lower_right;
        additive.dtype = DType::float16;
        for (const Generator& g : generators()) {
            Case& c = add(g.name, {1, 2, 2, 96, 130, 64, 64});
            c.name = std::string("generator ") + g.name;
            c.generator = g.name;
            c.dtype = DType::float16;
        }
        detail::add_paired(list, small_scale() ? 1 : 6);
        if (small_scale()) std::erase_if(list, [](const Case& c) { return flops(c.sizes) > 1e6; });

        const auto bench = [&](const char* name, Sizes sizes, Causal causal, bool also_quick) {
            Case& c = add(name, sizes);
            c.causal = causal;
            c.quick = also_quick && !small_scale();
            c.bench = true;
        };
        //                              B  Hq  H   L     S     E    Ev
        bench("tiny 8", {1, 2, 2, 8, 8, 16, 16}, Causal::none, true);  // the cost of a call itself
        bench("seed 64", {4, 8, 8, 64, 64, 64, 64}, Causal::none, true);
        bench("seed 128", {4, 8, 8, 128, 128, 128, 128}, Causal::none, false);
        bench("encoder 512", {2, 8, 8, 512, 512, 64, 64}, Causal::none, false);
        bench("causal 1024", {1, 8, 8, 1024, 1024, 64, 64}, Causal::upper_left, false);
        bench("prefill 2048 gqa", {1, 8, 2, 2048, 2048, 128, 128}, Causal::upper_left, false);
        bench("decode 4096 gqa", {4, 32, 8, 1, 4096, 128, 128}, Causal::lower_right, false);
        return list;
    }();
    return all;
}

}  // namespace attn::testing
