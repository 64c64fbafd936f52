/// \file
/// \brief The mask of a tile of keys, in shared memory: its copy and its use.
#pragma once

#include "cuda_mma_tile.cuh"

namespace attn::gpu {

/// \brief Where the block's mask lies. Kept in shared memory and read from there for every tile:
///        the loop has no registers to spare.
struct MaskPlace {
    const void* mask;             // row 0 of the block, key 0
    const std::uint8_t* classes;  // the block's first row of classes, tile 0
    Index stride;                 // from row to row of the mask
    int rows;                     // of the block that exist
};
/// \brief The mask tile in shared memory: each warp stages the rows it owns.
template <class Shape, Masking masking, class Element>
struct MaskTile {
    static constexpr bool dense = masking == Masking::bytes || masking == Masking::additive;
    static constexpr int element_bytes = static_cast<int>(sizeof(Element));
    static constexpr int row_bytes = dense ? Shape::Keys * element_bytes : 8;  // bits: of 64 keys
    static constexpr int pieces = row_bytes / 16;                              // a power of two
    static constexpr int bytes = masking == Masking::none ? 0 : Shape::rows * row_bytes;
    // Of tiles [256 n, 256 (n + 1)) the classes lie in half n % 2.
    static constexpr int half = 256, cached = masking == Masking::bits ? 2 * half : 0;
    static constexpr int shared_bytes =
        masking == Masking::none ? 0 : bytes + sizeof(MaskPlace) + cached;

    /// Piece `piece` of row `row`. Lanes of eight rows read the same piece at once, so pieces are
    /// permuted from row to row (from row pair to row pair where two rows share the 32 banks).
    static __device__ constexpr int turn(int row) {
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
        place.rows = rows_left < Shape::rows ? static_cast<int>(rows_left) : Shape::rows;
    }
    /// \brief Class of tile j over the block's rows; without classes all count as mixed.
    static __device__ int class_of(const volatile MaskPlace& place, int j) {
        if constexpr (masking == Masking::bits) return cache(place)[j % cached];
        return some_visible | some_hidden;
    }
    /// \brief The first tile from j on that is not hidden; `tiles` if there is none. The work of the
    ///        whole block, which asks for each tile once, in order.
    static __device__ int next_tile(volatile MaskPlace& place, const MmaProblem& p, int j,
                                    int tiles) {
        if constexpr (masking == Masking::bits)
            for (; j < tiles; ++j) {
                if (j % half == 0) {  // no warp needs the half before the last one any more
                    fetch_classes(place, p, j, tiles);
                    __syncthreads();
                }
                if ((class_of(place, j) & some_visible) != 0) break;
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
            constexpr int count = Shape::warp_rows * pieces / 32, step = 32 / pieces;
            if (rows == Shape::rows && keys_left >= Shape::Keys) {  // all but the last tiles
                const int row = warp * Shape::warp_rows + lane / pieces, piece = lane % pieces;
                const std::uint32_t first = to + at(row, piece);
                const Element* source = mask + row * stride + piece * (16 / element_bytes);
#pragma unroll
                for (int i = 0; i < count; ++i) {
                    copy_async_16((first ^ (turn(i * step) << 4)) + i * step * row_bytes, source);
                    source += step * stride;
                }
                return;
            }
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const int index = i * 32 + lane;
                const int row = warp * Shape::warp_rows + index / pieces, piece = index % pieces;
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
        if constexpr (masking == Masking::additive && element_bytes == 2)
            add_pairs(score, tile, warp, scale);
        else
            apply_elements(score, tile, j, warp, scale);
    }

  private:
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
            cache(place)[j % cached] = static_cast<std::uint8_t>(bits);
        }
    }

    /// \brief Additive masks of 16 bits: `ldmatrix` deals elements out as the C fragment has them.
    template <class Scores, class Scale>
    static __device__ void add_pairs(Scores& score, const unsigned char* tile, int warp,
                                     const Scale& scale) {
        const int lane = fresh_lane();
        const std::uint32_t own =
            shared_address(tile) +
            swizzled<row_bytes>(warp * Shape::warp_rows + a_lane_row(lane), a_lane_piece(lane));
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

    template <class Scores, class Scale>
    static __device__ void apply_elements(Scores& score, const unsigned char* tile, int j, int warp,
                                          const Scale& scale) {
        const int lane = fresh_lane(), g = lane / 4, t = lane % 4;
#pragma unroll
        for (int m = 0; m < Shape::MTiles; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp * Shape::warp_rows + m * 16 + half * 8 + g;
                if constexpr (masking == Masking::bits) {
                    // A byte of `mask_bit` for 32 keys. Tests of constant bits: several fit one
                    // instruction.
                    const unsigned char* own = tile + row * row_bytes + 2 * t;
                    if constexpr (Shape::Keys == 32) own += j % 2;
                    std::uint32_t bits = 0;
#pragma unroll
                    for (int n = 0; n < Shape::Keys / 8; ++n) {
                        if (n % 4 == 0) bits = own[n / 4];
                        const std::uint32_t first = 1u << (2 * (n % 4));
                        if ((bits & first) == 0) score[m][n][2 * half] = -CUDART_INF_F;
                        if ((bits & 2 * first) == 0) score[m][n][2 * half + 1] = -CUDART_INF_F;
                    }
                } else if constexpr (dense) {
                    const int first = 2 * t * element_bytes;  // byte of the row
                    const std::uint32_t own = at(row, first / 16) + first % 16;
#pragma unroll
                    for (int n = 0; n < Shape::Keys / 8; ++n) {
                        const int further = 8 * n * element_bytes;
                        const auto* two = reinterpret_cast<const Element*>(
                            tile + (own ^ (further / 16 * 16)) + further % 16);
                        float* pair = &score[m][n][2 * half];
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            if constexpr (masking == Masking::bytes) {
                                if (two[i] == 0) pair[i] = -CUDART_INF_F;
                            } else {
                                // A hidden key's NaN or infinity stays: see the second pass.
                                pair[i] = fmaf(pair[i], of_row(scale, m, half), to_float(two[i]));
                            }
                        }
                    }
                }
            }
    }
};

}  // namespace attn::gpu
