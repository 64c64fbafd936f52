/// \file
/// \brief The index algebra of the tensor-core kernels, without a GPU: a warp is played by a loop
///        over its lanes, which use the kernels' own functions of where elements lie
///        (gpu/fragments.hpp, gpu/cuda_int8_lanes.hpp); the results are compared with the plain
///        product and with quantize.hpp.
#include "cuda_int8_lanes.hpp"
#include "fragments.hpp"

#include <attn/generate.hpp>

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <vector>

using namespace attn;
using namespace attn::gpu;

namespace {

using Word = std::uint32_t;
using Shared = std::vector<unsigned char>;

/// Four registers of each lane.
struct Four {
    Word of[32][4];
};

/// `ldmatrix` x4: lane i gives the address of row i % 8 of matrix i / 8, 16 bytes.
Four load_matrices(const Shared& shared, const std::vector<Word>& address) {
    Four to{};
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < 4; ++m)
            std::memcpy(&to.of[lane][m], &shared[address[8 * m + lane / 4] + lane % 4 * 4], 4);
    return to;
}
/// The same with `.trans`: elements of 16 bits, rows and columns of each matrix exchanged.
Four load_transposed(const Shared& shared, const std::vector<Word>& address) {
    Four to{};
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < 4; ++m)
            for (int i = 0; i < 2; ++i) {
                std::uint16_t element;
                std::memcpy(&element, &shared[address[8 * m + lane % 4 * 2 + i] + lane / 4 * 2], 2);
                to.of[lane][m] |= static_cast<Word>(element) << (16 * i);
            }
    return to;
}

/// `mma` on bytes: c (16, 8) += A (16, 32) B (32, 8), Element at each sizeof(Element) bytes.
template <class Element>
void multiply_add(int (&c)[32][4], const Four& a, const Four& b, int side) {
    constexpr int size = static_cast<int>(sizeof(Element)), depth = 32 / size;
    int A[16][depth]{}, B[depth][8]{};
    for (int lane = 0; lane < 32; ++lane)
        for (int byte = 0; byte < 4; byte += size) {
            Element x;
            for (int r = 0; r < 4; ++r) {
                std::memcpy(&x, reinterpret_cast<const char*>(&a.of[lane][r]) + byte, size);
                A[a_row(lane, r)][(a_byte(lane, r) + byte) / size] = x;
            }
            for (int r = 0; r < 2; ++r) {
                std::memcpy(&x, reinterpret_cast<const char*>(&b.of[lane][2 * side + r]) + byte,
                            size);
                B[(b_byte(lane, r) + byte) / size][b_column(lane)] = x;
            }
        }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            for (int k = 0; k < depth; ++k)
                c[lane][i] += A[c_row(lane, i)][k] * B[k][c_column(lane, i)];
}

int small_number(int seed, int range) { return (seed * 7919 + seed / 13 * 104729) % range; }

template <int HeadDim>
void check_integer_product() {
    constexpr int rows = 32, keys = 64;
    std::vector<std::int8_t> q(rows * HeadDim), k(keys * HeadDim);
    for (std::size_t i = 0; i < q.size(); ++i)
        q[i] = static_cast<std::int8_t>(small_number(int(i) + 3, 255) - 127);
    for (std::size_t i = 0; i < k.size(); ++i)
        k[i] = static_cast<std::int8_t>(small_number(int(i) + 11, 255) - 127);
    // The tiles in shared memory, one behind the other.
    Shared shared(static_cast<std::size_t>((rows + keys) * HeadDim));
    const Word key_tile = rows * HeadDim;
    const auto fill = [&](Word tile, const std::vector<std::int8_t>& from) {
        for (int row = 0; row < static_cast<int>(from.size()) / HeadDim; ++row)
            for (int piece = 0; piece < HeadDim / 16; ++piece)
                std::memcpy(&shared[tile + swizzled<HeadDim>(row, piece)],
                            &from[row * HeadDim + piece * 16], 16);
    };
    fill(0, q), fill(key_tile, k);

    for (int row_tile = 0; row_tile < rows / 16; ++row_tile)
        for (int pair = 0; pair < keys / 16; ++pair) {
            int c[2][32][4]{};
            for (int step = 0; step < HeadDim / 32; ++step) {
                std::vector<Word> a(32), b(32);
                for (int lane = 0; lane < 32; ++lane) {
                    // As multiply_integers does it: XOR for the step, an offset for the rows.
                    const Word query = swizzled<HeadDim>(a_lane_row(lane), a_lane_piece(lane));
                    const Word key =
                        key_tile + swizzled<HeadDim>(b_lane_row(lane), b_lane_piece(lane));
                    a[lane] = (query ^ Word(step * 32)) + Word(row_tile * 16 * HeadDim);
                    b[lane] = (key ^ Word(step * 32)) + Word(pair * 16 * HeadDim);
                }
                const Four fa = load_matrices(shared, a), fb = load_matrices(shared, b);
                for (int side = 0; side < 2; ++side)
                    multiply_add<std::int8_t>(c[side], fa, fb, side);
            }
            for (int side = 0; side < 2; ++side)
                for (int lane = 0; lane < 32; ++lane)
                    for (int i = 0; i < 4; ++i) {
                        const int row = row_tile * 16 + c_row(lane, i),
                                  key = pair * 16 + side * 8 + c_column(lane, i);
                        int want = 0;
                        for (int e = 0; e < HeadDim; ++e)
                            want += q[row * HeadDim + e] * k[key * HeadDim + e];
                        REQUIRE(c[side][lane][i] == want);
                    }
        }
}

template <int RowBytes>
void check_swizzle() {
    for (int first = 0; first < 64; first += 8)
        for (int piece = 0; piece < RowBytes / 16; ++piece) {
            std::set<Word> banks;
            for (int row = first; row < first + 8; ++row) {
                const Word at = swizzled<RowBytes>(row, piece);
                banks.insert(at % 128 / 16);
                CHECK(at / RowBytes == Word(row));
                for (int further = 0; piece % 2 == 0 && piece + 2 * further < RowBytes / 16;
                     ++further)
                    if (piece == 0)
                        CHECK((at ^ Word(further * 32)) == swizzled<RowBytes>(row, 2 * further));
                CHECK(swizzled<RowBytes>(row + 8, piece) == at + 8 * RowBytes);
            }
            CHECK(banks.size() == 8);
        }
}

}  // namespace

TEST_CASE("the swizzle is free of bank conflicts and steps by XOR") {
    check_swizzle<64>();
    check_swizzle<128>();
    check_swizzle<256>();
    check_swizzle<512>();
}

TEST_CASE("the fragments of 8-bit tiles multiply to the plain product") {
    check_integer_product<64>();
    check_integer_product<128>();
    check_integer_product<256>();
}

TEST_CASE("the scores' fragments are the weights' and values read transposed fit them") {
    // 16 queries, 16 keys, 16 columns; integers stand for the 16-bit numbers.
    constexpr int row_bytes = 128;
    Shared shared(16 * row_bytes);
    std::vector<int> v(16 * 16), p(16 * 16);
    for (int i = 0; i < 256; ++i) v[i] = small_number(i, 100) - 50, p[i] = small_number(i + 5, 90);
    for (int key = 0; key < 16; ++key)
        for (int e = 0; e < 16; ++e) {
            const auto x = static_cast<std::int16_t>(v[key * 16 + e]);
            std::memcpy(&shared[swizzled<row_bytes>(key, e / 8) + Word(e % 8 * 2)], &x, 2);
        }
    Four weights{};  // of the C fragments of key tiles 0 and 1, packed in pairs
    for (int lane = 0; lane < 32; ++lane)
        for (int r = 0; r < 4; ++r) {
            const int tile = r / 2, half = r % 2;
            for (int i = 0; i < 2; ++i) {
                const int row = c_row(lane, 2 * half + i), key = 8 * tile + c_column(lane, i);
                weights.of[lane][r] |= Word(std::uint16_t(p[row * 16 + key])) << (16 * i);
            }
        }
    std::vector<Word> address(32);
    for (int lane = 0; lane < 32; ++lane) address[lane] = swizzled<row_bytes>(lane % 16, lane / 16);
    const Four values = load_transposed(shared, address);
    for (int side = 0; side < 2; ++side) {
        int c[32][4]{};
        multiply_add<std::int16_t>(c, weights, values, side);
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                int want = 0;
                for (int key = 0; key < 16; ++key)
                    want +=
                        p[c_row(lane, i) * 16 + key] * v[key * 16 + 8 * side + c_column(lane, i)];
                CHECK(c[lane][i] == want);
            }
    }
}

TEST_CASE("the bits of a mask lie as the lanes of a fragment need them") {
    for (int lane = 0; lane < 32; ++lane)
        for (int n = 0; n < 8; ++n)
            for (int i = 0; i < 4; ++i)
                CHECK(mask_bit(8 * n + c_column(lane, i)) == lane % 4 * 16 + 2 * n + i % 2);
    std::uint64_t keys = 0x9e3779b97f4a7c15;
    for (int round = 0; round < 100; ++round, keys = keys * 6364136223846793005 + 1) {
        std::uint64_t bits = 0;
        for (int key = 0; key < 64; ++key) bits |= (keys >> key & 1) << mask_bit(key);
        CHECK(in_key_order(bits) == keys);
    }
}

TEST_CASE("the integer product turns into a float by one subtraction") {
    for (int x = -127 * 127 * 256; x <= 127 * 127 * 256; x += 251)
        REQUIRE(std::bit_cast<float>(float_bits_of_zero + x) - float_of_zero ==
                static_cast<float>(x));
    for (int x : {-127 * 127 * 256, -1, 0, 1, 127 * 127 * 256})
        CHECK(std::bit_cast<float>(float_bits_of_zero + x) - float_of_zero ==
              static_cast<float>(x));
}

TEST_CASE("the rotation that is spread over lanes gives the bits of the plain one") {
    for (int head_dim : {64, 128, 256})
        for (Index E : {1, 2, 5, 8, 15, 16, 17, 33, 40, 64, 72, 96, 128, 130, 200, 255, 256}) {
            if (E > head_dim) continue;
            CAPTURE(E);
            CAPTURE(head_dim);
            const int lanes = lanes_of_row(head_dim);
            const Tensor random = random_normal({E}, static_cast<std::uint64_t>(E));
            std::vector<float> row(static_cast<std::size_t>(head_dim)), want;
            for (Index e = 0; e < E; ++e) row[e] = static_cast<float>(random.get(e));
            want = row;
            rotate(want.data(), E, Operand::key);

            // All lanes take each step before the next one begins.
            const auto transform = [&](Index width, Index first_sign, Index from) {
                std::vector<LaneRotation> rotation;
                std::vector<std::array<float, lane_channels>> x(lanes);
                for (int lane = 0; lane < lanes; ++lane) {
                    const int first = first_channel(lane, head_dim);
                    rotation.emplace_back(width, first, Operand::key, first_sign);
                    for (int i = 0; i < lane_channels; ++i)
                        x[lane][i] = first + i < width ? row[from + first + i] : 0.0f;
                }
                const auto lane_array = [&](int lane) -> float(&)[lane_channels] {
                    return *reinterpret_cast<float(*)[lane_channels]>(x[lane].data());
                };
                for (int lane = 0; lane < lanes; ++lane) rotation[lane].begin(lane_array(lane));
                for (int half = lane_channels; half < width; half *= 2) {
                    const auto before = x;
                    for (int lane = 0; lane < lanes; ++lane)
                        for (int i = 0; i < lane_channels; ++i)
                            x[lane][i] = rotation[lane].stage(
                                before[lane][i], before[lane ^ LaneRotation::lanes_apart(half)][i],
                                half);
                }
                for (int lane = 0; lane < lanes; ++lane) {
                    rotation[lane].end(lane_array(lane));
                    for (int i = 0; i < lane_channels; ++i)
                        if (rotation[lane].first + i < width)
                            row[from + rotation[lane].first + i] = x[lane][i];
                }
            };
            const Index width = rotation_width(E);
            transform(width, 0, 0);
            if (width != E) transform(width, E, E - width);
            for (Index e = 0; e < E; ++e)
                REQUIRE(std::bit_cast<Word>(row[e]) == std::bit_cast<Word>(want[e]));
        }
}

TEST_CASE("the four bytes of a lane are the quantizer's integers") {
    const float x[4] = {-3.0f, 1.5f, 0.25f, -0.01f};
    const Quantizer quantizer(magnitude(-3.0f));
    const Word word = four_bytes(quantizer, x);
    for (int i = 0; i < 4; ++i)
        CHECK(static_cast<std::int8_t>(word >> (8 * i) & 0xff) == quantizer(x[i]));
    CHECK(static_cast<std::int8_t>(word & 0xff) == -127);
}
