/// \file
/// \brief The mask of a tile of keys, in shared memory: its copy and its use.
#pragma once

#include "cuda_mma_tile.cuh"

#include <limits>

namespace attn::gpu {

/// \brief Where the block's mask lies. Kept in shared memory and read from there for every tile:
///        the loop has no registers to spare.
struct MaskPlace {
    const void* mask;             // row 0 of the block, key 0
    const std::uint8_t* classes;  // the block's first row of classes, tile 0
    Index stride;                 // from row to row of the mask
    int rows;                     // of the block that exist
    int tile;                     // of query rows: the block's; bits only
};
/// \brief A score becomes -inf unless a bit is set. Tests of constant bits: several fit one
///        instruction. In PTX, since the compiler makes two of a test of bit 0.
__device__ inline void hide_unless(float& score, std::uint32_t bits, std::uint32_t bit) {
    asm("{\n"
        ".reg .pred hidden;\n"
        ".reg .b32 tested;\n"
        "and.b32 tested, %1, %2;\n"
        "setp.eq.u32 hidden, tested, 0;\n"
        "selp.f32 %0, 0fFF800000, %0, hidden;\n"
        "}"
        : "+f"(score)
        : "r"(bits), "r"(bit));
}
/// \brief Two bytes at an address in shared memory.
__device__ inline std::uint32_t load_two_bytes(std::uint32_t address) {
    std::uint32_t bytes;
    asm volatile("ld.shared.u16 %0, [%1];" : "=r"(bytes) : "r"(address) : "memory");
    return bytes;
}

/// \brief Two floats at an address in shared memory.
__device__ inline float2 load_two_floats(std::uint32_t address) {
    float2 two;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(two.x), "=f"(two.y)
                 : "r"(address)
                 : "memory");
    return two;
}

/// \brief The mask tile in shared memory: each warp stages the rows it owns.
template <class Shape, Masking masking, class Element>
struct MaskTile {
    static constexpr bool dense = masking == Masking::bytes || masking == Masking::additive;
    static constexpr int element_bytes = static_cast<int>(sizeof(Element));
    static constexpr int row_bytes = dense ? Shape::Keys * element_bytes : 8;  // bits: of 64 keys
    static constexpr int pieces = row_bytes / 16;                              // a power of two
    static constexpr int bytes = masking == Masking::none ? 0 : Shape::rows * row_bytes;
    // A warp copies 128 bytes of a row at once, of several rows.
    static constexpr int across = pieces > 8 ? 8 : pieces > 0 ? pieces : 1, step = 32 / across;
    // As many bytes as keys and values together: another tile has to be under way, if it fits.
    static constexpr bool staged = masking == Masking::additive && element_bytes == 4;
    // Of tiles [256 n, 256 (n + 1)) the classes lie in half n % 2.
    static constexpr int half = 256, cached = masking == Masking::bits ? 2 * half : 0;
    static constexpr int shared_bytes =
        masking == Masking::none ? 0 : bytes + sizeof(MaskPlace) + cached;

    /// Piece `piece` of row `row`. Lanes of eight rows read the same piece at once, so pieces are
    /// permuted from row to row (from row pair to row pair where two rows share the 32 banks). Of 4-byte
    /// elements lanes of four rows read two pieces at once.
    static __device__ constexpr int turn(int row) {
        if (element_bytes == 4 && dense) return 2 * row & (pieces - 1);
        return (row >> (row_bytes < 128 ? 1 : 0)) & (pieces - 1);
    }
    static __device__ std::uint32_t at(int row, int piece) {
        return row * row_bytes + ((piece ^ turn(row)) << 4);
    }

    /// \brief Says where the mask of the block lies. The work of one thread.
    static __device__ void find(volatile MaskPlace& place, const MmaProblem& p, Index b, Index h,
                                Index first_row) {
        const Index rows_left = p.problem.L - first_row;
        place.mask = static_cast<const Element*>(p.mask) + p.mask_stride(b, h, first_row);
        place.classes = p.tile_class + p.class_stride(b, h, first_row / class_tile);
        place.stride = p.mask_stride.row;
        if (masking == Masking::bits) place.tile = static_cast<int>(first_row / Shape::rows);
        place.rows = rows_left < Shape::rows ? static_cast<int>(rows_left) : Shape::rows;
    }
    /// \brief Class of tile j over the block's rows; without classes all count as mixed.
    static __device__ int class_of(const volatile MaskPlace& place, int j) {
        if constexpr (masking == Masking::bits)
            return cache(place)[static_cast<unsigned>(j) % cached];
        return some_visible | some_hidden;
    }
    /// \brief The first tile from j on that is not hidden; `tiles` if there is none. The work of the
    ///        whole block, which asks for each tile once, in order.
    static __device__ int next_tile(volatile MaskPlace& place, const MmaProblem& p, int j,
                                    int tiles) {
        int found;
        return next_tile(place, p, j, tiles, found);
    }
    /// \param found  becomes the tile's class
    static __device__ int next_tile(volatile MaskPlace& place, const MmaProblem& p, int j,
                                    int tiles, int& found) {
        found = some_visible | some_hidden;
        if constexpr (masking == Masking::bits)
            for (; j < tiles; ++j) {
                // No warp needs the half before the last one any more.
                if (static_cast<unsigned>(j) % half == 0) {
                    fetch_classes(place, p, j, tiles);
                    __syncthreads();
                }
                found = class_of(place, j);
                if ((found & some_visible) != 0) break;
            }
        return j;
    }
    /// \brief Starts the copy of the warp's rows of tile j.
    static __device__ void copy(std::uint32_t to, const volatile MaskPlace& place, int j, int warp,
                                Index S) {
        if constexpr (masking != Masking::none) {
            const Index at = static_cast<Index>(j) * Shape::Keys;
            copy(to,
                 static_cast<const Element*>(const_cast<const void*>(place.mask)) +
                     (masking == Masking::bits ? at / 64 * 2 : at),
                 place.stride, warp, place.rows, S - at);
        }
    }

    /// \brief Starts the copy of the warp's rows; `mask` points at (row 0 of the block, key 0 of
    ///        the tile).
    static __device__ void copy(std::uint32_t to, const Element* mask, Index stride, int warp,
                                int rows, Index keys_left) {
        const int lane = fresh_lane();
        if constexpr (masking == Masking::bits) {
#pragma unroll
            for (int i = 0; i < Shape::warp_rows; i += 32) {
                const int row = warp * Shape::warp_rows + i + lane;
                if (i + lane < Shape::warp_rows && row < rows)
                    asm volatile(
                        "cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to + row * row_bytes),
                        "l"(mask + row * stride), "n"(row_bytes)
                        : "memory");
            }
        } else if constexpr (dense) {
            const int first_row = warp * Shape::warp_rows + lane / across;
            if (rows == Shape::rows && keys_left >= Shape::Keys) {  // all but the last tiles
                copy_whole(to + at(first_row, lane % across),
                           mask + first_row * stride + lane % across * (16 / element_bytes),
                           stride);
                return;
            }
#pragma unroll
            for (int i = 0; i < Shape::warp_rows * pieces / 32; ++i) {
                const int row = first_row + i * step % Shape::warp_rows;
                const int piece = lane % across + i * step / Shape::warp_rows * across;
                const Index left = (keys_left - piece * (16 / element_bytes)) * element_bytes;
                const int valid = row >= rows || left <= 0 ? 0 : (left < 16 ? int(left) : 16);
                const Element* source = mask + row * stride + piece * (16 / element_bytes);
                asm volatile(
                    "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + at(row, piece)),
                    "l"(valid > 0 ? source : mask), "r"(valid)
                    : "memory");
            }
        }
    }

    /// \brief Applies the mask of tile j to the warp's scores.
    /// \param scale  see `of_row`
    template <class Scores, class Scale>
    static __device__ void apply(Scores& score, const unsigned char* tile, int j, int warp,
                                 const Scale& scale) {
        apply(score, own_part(shared_address(tile), warp, fresh_lane()), j, scale);
    }
    /// \brief The same from the address of the lane's part.
    template <class Scores, class Scale>
    static __device__ void apply(Scores& score, std::uint32_t own, int j, const Scale& scale) {
        if constexpr (masking == Masking::bits)
            hide(score, own, j);
        else if constexpr (masking == Masking::bytes)
            hide_by_bytes(score, own);
        else if constexpr (masking == Masking::additive && element_bytes == 2)
            add_pairs(score, own, scale);
        else if constexpr (masking == Masking::additive)
            add_floats(score, own, scale);
    }
    /// \param tile  the block's mask tile
    static __device__ std::uint32_t own_part(std::uint32_t tile, int warp, int lane) {
        const int row = warp * Shape::warp_rows + lane / 4, t = lane % 4;
        if constexpr (masking == Masking::bits)
            return tile + row * row_bytes + t * 2;
        else if constexpr (element_bytes == 1)
            return tile + at(row, 0) + t * 2;
        else if constexpr (element_bytes == 2)
            return tile + swizzled<row_bytes>(warp * Shape::warp_rows + a_lane_row(lane),
                                              a_lane_piece(lane));
        else
            return tile + at(row, t / 2) + t % 2 * 8;
    }

    /// \brief What a lane copies and where it reads, for kernels with registers to keep it in.
    struct Lane {
        const void* source;  // the mask of the first row that it copies, tile 0
        std::uint32_t to;    // where that goes
        std::uint32_t own;   // its part of the mask, see `apply`
        int whole;           // tiles before it are copied without tests (bits: or not at all)

        /// \param tile  the block's mask tile
        __device__ Lane(std::uint32_t tile, const MmaProblem& p, Index b, Index h,
                        Index first_row) {
            const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * Shape::warp_rows;
            const Index rows = p.problem.L - first_row;
            const Index stride = p.mask_stride.row;
            const auto* mask = static_cast<const Element*>(p.mask) + p.mask_stride(b, h, first_row);
            if constexpr (masking == Masking::bits) {
                // In place of a row that does not exist, one that does: nobody asks what it holds.
                const int row = warp_row + lane;
                source = mask + (row < rows ? row : rows - 1) * stride;
                to = kept(tile + row * row_bytes);
                whole = lane < Shape::warp_rows ? std::numeric_limits<int>::max() : 0;
            } else if constexpr (dense) {
                const int row = warp_row + lane / across, piece = lane % across;
                source = mask + row * stride + piece * (16 / element_bytes);
                to = kept(tile + at(row, piece));
                whole = rows >= Shape::rows && is_short(stride) && is_short(p.problem.S)
                            ? static_cast<int>(p.problem.S) / Shape::Keys
                            : 0;
            }
            if constexpr (masking != Masking::none)
                own = kept(own_part(tile, threadIdx.x / 32, lane));
        }
        /// \brief Starts the copy of tile j; false if it needs tests: then the work of `copy` above.
        /// \param further  bytes from the first mask tile to that which is filled; dense only
        __device__ bool copy(const MmaProblem& p, int j, std::uint32_t further) const {
            unsigned step = static_cast<unsigned>(j);
            if constexpr (masking == Masking::bits) step = step * Shape::Keys / 64;  // a row's bits
            const void* const from = bytes_behind(source, step, row_bytes);
            if constexpr (masking == Masking::bits)
                if (Shape::warp_rows == 32 || j < whole)
                    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from),
                                 "n"(row_bytes)
                                 : "memory");
            if constexpr (dense) {
                if (j >= whole) return false;
                copy_whole(to + further, static_cast<const Element*>(from), p.mask_stride.row);
            }
            return true;
        }
    };

  private:
    /// \brief Starts the copy of a lane's share of the warp's rows, all of which exist.
    /// \param to, from  its first piece
    static __device__ void copy_whole(std::uint32_t to, const Element* from, Index stride) {
#pragma unroll
        for (int row = 0; row < Shape::warp_rows; row += step, from += step * stride)
#pragma unroll
            for (int piece = 0; piece < pieces; piece += across)
                copy_async_16((to ^ ((turn(row) ^ piece) << 4)) + row * row_bytes,
                              from + piece * (16 / element_bytes));
    }
    static __device__ volatile std::uint8_t* cache(volatile MaskPlace& place) {
        return reinterpret_cast<volatile std::uint8_t*>(&place + 1);
    }
    static __device__ const volatile std::uint8_t* cache(const volatile MaskPlace& place) {
        return reinterpret_cast<const volatile std::uint8_t*>(&place + 1);
    }
    /// \brief Classes of the tiles from `first` on, half of the cache. From global memory each would
    ///        cost its whole latency, tile by tile.
    static __device__ void fetch_classes(volatile MaskPlace& place, const MmaProblem& p, int first,
                                         int tiles) {
        for (int j = first + threadIdx.x; j < tiles && j < first + half; j += Shape::threads) {
            const std::uint8_t* cell =
                place.classes + static_cast<Index>(j) * Shape::Keys / class_tile;
            int bits = *cell;
            if (Shape::rows > class_tile && place.rows > class_tile)
                bits |= cell[p.class_stride.row];
            cache(place)[static_cast<unsigned>(j) % cached] = static_cast<std::uint8_t>(bits);
        }
    }

    /// \brief Boolean masks: two bytes of `mask_bit` hold a row's bits of 64 keys.
    template <class Scores>
    static __device__ void hide(Scores& score, std::uint32_t own, int j) {
#pragma unroll
        for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                std::uint32_t bits = load_two_bytes(own + (m * 16 + half * 8) * row_bytes);
                if constexpr (Shape::Keys == 32) bits >>= j % 2 * 8;
#pragma unroll
                for (int n = 0; n < Shape::Keys / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i)
                        hide_unless(score[m][n][2 * half + i], bits, 1u << (2 * n + i));
            }
    }
    /// \brief Additive masks of 16 bits: `ldmatrix` deals elements out as the C fragment has them.
    template <class Scores, class Scale>
    static __device__ void add_pairs(Scores& score, std::uint32_t own, const Scale& scale) {
#pragma unroll
        for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
            for (int n = 0; n < Shape::Keys / 16; ++n) {
                std::uint32_t two[4];  // rows g, g + 8 of score tile 2 n, then of 2 n + 1
                load_matrices(two, (own ^ (n * 32)) + m * 16 * row_bytes);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float* pair = &score[m][2 * n + i / 2][i % 2 * 2];
                    const float own_scale = of_row(scale, m, i % 2);
                    // A hidden key's NaN or infinity stays: see the second pass.
                    pair[0] = fmaf(pair[0], own_scale, low_float<Element>(two[i]));
                    pair[1] = fmaf(pair[1], own_scale, high_float<Element>(two[i]));
                }
            }
    }

    /// \brief Additive masks of float32, two elements at a time.
    template <class Scores, class Scale>
    static __device__ void add_floats(Scores& score, std::uint32_t own, const Scale& scale) {
#pragma unroll
        for (int n = 0; n < Shape::Keys / 8; ++n) {
            const std::uint32_t column = own ^ (n * 32);  // of keys 8 n ..: two pieces further
#pragma unroll
            for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float2 two = load_two_floats(column + (m * 16 + half * 8) * row_bytes);
                    float* pair = &score[m][n][2 * half];
                    const float own_scale = of_row(scale, m, half);
                    // A hidden key's NaN or infinity stays: see the second pass.
                    pair[0] = fmaf(pair[0], own_scale, two.x);
                    pair[1] = fmaf(pair[1], own_scale, two.y);
                }
        }
    }
    /// \brief Boolean masks, a byte for each score.
    template <class Scores>
    static __device__ void hide_by_bytes(Scores& score, std::uint32_t own) {
#pragma unroll
        for (int n = 0; n < Shape::Keys / 8; ++n)
#pragma unroll
            for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const std::uint32_t two = load_two_bytes((own ^ (n / 2 * 16)) + n % 2 * 8 +
                                                             (m * 16 + half * 8) * row_bytes);
                    hide_unless(score[m][n][2 * half], two, 0xff);
                    hide_unless(score[m][n][2 * half + 1], two, 0xff00);
                }
    }
};

}  // namespace attn::gpu
