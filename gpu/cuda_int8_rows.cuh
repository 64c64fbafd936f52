/// \file
/// \brief Queries and keys become integers: reading, smoothing, rotating and rounding rows that are
///        spread over lanes as cuda_int8_lanes.hpp says. All arithmetic is that of quantize.hpp.
#pragma once

#include "cuda_int8.hpp"
#include "cuda_int8_lanes.hpp"
#include "mask.cuh"

namespace attn::gpu {

/// \brief Neighbouring elements of a row, as floats: those from `count` on are 0.
/// \param row     element 0 of the row, of type T
/// \param stride  elements from one to the next
/// \param wide  whole pieces of 16 bytes may be read
template <class T, int Channels>
__device__ inline void load_channels(float (&x)[Channels], const void* row, Index stride, int first,
                                     Index count, bool wide) {
    const T* from = static_cast<const T*>(row) + first * stride;
    if (wide && first + Channels <= count) {
        constexpr int pieces = Channels * static_cast<int>(sizeof(T)) / 16, each = 16 / sizeof(T);
        if constexpr (pieces > 0) {
#pragma unroll
            for (int n = 0; n < pieces; ++n) {
                const uint4 raw = __ldg(reinterpret_cast<const uint4*>(from) + n);
                const T* element = reinterpret_cast<const T*>(&raw);
#pragma unroll
                for (int i = 0; i < each; ++i) x[n * each + i] = to_float(element[i]);
            }
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < Channels; ++i) x[i] = first + i < count ? to_float(from[i * stride]) : 0.0f;
}

/// \brief `load_channels` for elements of any dtype: nothing but the reading knows it, so that the rest is
///        compiled once.
/// \param row  from the tensor's first element on, in elements
template <int Channels>
__device__ inline void load_channels(float (&x)[Channels], const TensorView& view, Index row,
                                     int first, Index count, bool wide) {
    visit_element(view.dtype, [&]<class T>(T) {
        load_channels<T>(x, static_cast<const T*>(view.data) + row, view.stride[3], first, count,
                         wide);
    });
}

/// \brief Largest magnitude of the lane's channels, then of its row.
__device__ inline std::uint32_t lane_magnitude(const float (&x)[lane_channels]) {
    std::uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < lane_channels; ++i) most = max(most, magnitude(x[i]));
    return most;
}
template <int HeadDim>
__device__ inline std::uint32_t row_magnitude(const float (&x)[lane_channels]) {
    std::uint32_t most = lane_magnitude(x);
#pragma unroll
    for (int apart = 1; apart < lanes_of_row(HeadDim); apart *= 2)
        most = max(most, __shfl_xor_sync(~0u, most, apart));
    return most;
}

/// \brief `rotate` of quantize.hpp for a lane's part of a row.
template <int HeadDim>
class Rotation {
  public:
    /// Floats of shared memory that a warp needs where E is not a power of two.
    static constexpr int staging_floats = 512;

    __device__ Rotation(Index E, Operand operand) : E_(E), first_(first_channel(lane(), HeadDim)) {
        if (E == 0) return;
        const Index width = rotation_width(E);
        one_ = LaneRotation(width, first_, operand, 0);
        if (width != E) two_ = LaneRotation(width, first_, operand, E);
    }

    /// \param staging  (staging_floats) of the warp
    __device__ void operator()(float (&x)[lane_channels], float* staging) const {
        if (E_ == 0) return;
        transform(one_, x);
        if (one_.width == E_) return;
        // The second transform is of the last channels: they move to the first lanes and back.
        float* const row = staging + lane_row(lane(), HeadDim) * HeadDim;
        const int shift = static_cast<int>(E_ - one_.width);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < lane_channels; ++i) row[at(first_ + i)] = x[i];
        __syncwarp();
        float y[lane_channels];
#pragma unroll
        for (int i = 0; i < lane_channels; ++i)
            y[i] = first_ + i < two_.width ? row[at(shift + first_ + i)] : 0.0f;
        transform(two_, y);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < lane_channels; ++i)
            if (first_ + i < two_.width) row[at(shift + first_ + i)] = y[i];
        __syncwarp();
#pragma unroll
        for (int i = 0; i < lane_channels; ++i) x[i] = row[at(first_ + i)];
    }

  private:
    static __device__ int lane() { return threadIdx.x % 32; }
    /// Lanes read channels 16 apart: spread over the banks.
    static __device__ int at(int channel) { return channel ^ (channel >> 4 & 15); }

    static __device__ void transform(const LaneRotation& rotation, float (&x)[lane_channels]) {
        rotation.begin(x);
#pragma unroll
        for (int half = lane_channels; half < HeadDim; half *= 2) {
            if (half >= rotation.width) break;
#pragma unroll
            for (int i = 0; i < lane_channels; ++i) {
                const float partner = __shfl_xor_sync(~0u, x[i], LaneRotation::lanes_apart(half));
                x[i] = rotation.stage(x[i], partner, half);
            }
        }
        rotation.end(x);
    }

    Index E_;
    int first_;
    LaneRotation one_, two_;
};

/// \brief A lane's 16 integers.
__device__ inline uint4 sixteen_bytes(const Quantizer& quantizer, const float (&x)[lane_channels]) {
    return {four_bytes(quantizer, x), four_bytes(quantizer, x + 4), four_bytes(quantizer, x + 8),
            four_bytes(quantizer, x + 12)};
}

// ---- queries ------------------------------------------------------------------------------------

/// \brief What a block keeps of its query rows beside their integers, in shared memory.
struct QueryScales {
    float* factor;          ///< (rows) step of the row * `unit`; not 0, so that -inf stays -inf
    float* shift;           ///< (rows) q . mean of K, which smoothing took from its scores
    std::uint8_t* without;  ///< (rows) 1: a row with a number that has no integer
    float* square;          ///< (rows) see Int8Queries; null: nobody asks
};

/// \brief squares + the squares of sixteen integers.
__device__ inline int add_squares(const uint4& bytes, int squares) {
    const int word[] = {static_cast<int>(bytes.x), static_cast<int>(bytes.y),
                        static_cast<int>(bytes.z), static_cast<int>(bytes.w)};
#pragma unroll
    for (int w = 0; w < 4; ++w) squares = __dp4a(word[w], word[w], squares);
    return squares;
}
/// \brief The sum over a row whose parts lie in `Lanes` neighbouring lanes.
template <int Lanes>
__device__ inline float sum_of_row(int part) {
#pragma unroll
    for (int apart = 1; apart < Lanes; apart *= 2) part += __shfl_xor_sync(~0u, part, apart);
    return static_cast<float>(part);
}

/// \brief Query rows first_row .. of head (b, h) become integers, in a tile of rows of
///        HeadDim bytes at `tile(row, piece of 16 channels)`. The work of a whole block.
/// \param unit  |scale|, in units of log 2 if the kernel wants them
/// \param sign  -1: negated, for a scale below 0
/// \param mean  (HeadDim) of K; null: no shift wanted
/// \param staging  (warps, Rotation::staging_floats)
template <int HeadDim, int Rows, int Threads, class Tile>
__device__ inline void quantize_queries(const Problem& p, Index b, Index h, Index first_row,
                                        float unit, float sign, bool wide, const float* mean,
                                        Tile&& tile, const QueryScales& to, float* staging) {
    constexpr int at_once = Threads / 32 * rows_of_warp(HeadDim);  // rows
    constexpr int batch = Rows / at_once < 2 ? 1 : 2;              // rows under way, for a lane
    static_assert(Rows % (at_once * batch) == 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = first_channel(lane, HeadDim);
    const Rotation<HeadDim> rotate(p.E, Operand::query);
    const Index query = b * p.query.stride[0] + h * p.query.stride[1];
    for (int base = 0; base < Rows; base += at_once * batch) {
        float x[batch][lane_channels];
#pragma unroll
        for (int n = 0; n < batch; ++n) {
            const Index i = first_row + base + n * at_once + warp * rows_of_warp(HeadDim) +
                            lane_row(lane, HeadDim);
            load_channels(x[n], p.query, query + (i < p.L ? i : 0) * p.query.stride[2], first,
                          i < p.L ? p.E : 0, wide);
        }
#pragma unroll
        for (int n = 0; n < batch; ++n) {
            const int row =
                base + n * at_once + warp * rows_of_warp(HeadDim) + lane_row(lane, HeadDim);
            const bool integers = quantizable(row_magnitude<HeadDim>(x[n]));
            float dot = 0;
#pragma unroll
            for (int e = 0; e < lane_channels; ++e) {
                if (!integers) x[n][e] = 0;
                if (mean != nullptr) dot += x[n][e] * mean[first + e];
                x[n][e] *= sign;
            }
#pragma unroll
            for (int apart = 1; apart < lanes_of_row(HeadDim); apart *= 2)
                dot += __shfl_xor_sync(~0u, dot, apart);
            rotate(x[n], staging + warp * Rotation<HeadDim>::staging_floats);
            const Quantizer quantizer(row_magnitude<HeadDim>(x[n]));
            const uint4 bytes = sixteen_bytes(quantizer, x[n]);
            *tile(row, first / lane_channels) = bytes;
            const float squares = sum_of_row<lanes_of_row(HeadDim)>(add_squares(bytes, 0));
            if (first == 0) {
                const float factor = fmaxf(quantizer.scale * unit, 0x1p-126f);
                to.factor[row] = factor;
                if (to.square != nullptr) to.square[row] = factor * factor * squares;
                to.without[row] = !integers;
                to.shift[row] = dot;
            }
        }
    }
}

// ---- keys ---------------------------------------------------------------------------------------

/// \brief Neighbouring elements of a row, read at once.
template <class T, int Count>
struct alignas((sizeof(T) * Count < 16) ? sizeof(T) * Count : 16) Elements {
    T element[Count];
};

/// \brief `measure_keys` where rows are whole pieces of a lane's channels and every number is
///        quantizable: many rows under way, and no vote about each of them.
/// \param own  false: the lane has no channels, and may read any
/// \tparam UnderWay  bytes that a lane has under way: a multiple of 64, each 64 in 16 registers
/// \return false if a number is not quantizable: then the sums are void
template <class T, int UnderWay, int Channels>
__device__ inline bool sum_keys(const T* key, Index stride, std::uint64_t seen, bool own,
                                ChannelMean (&mean)[Channels]) {
    using Piece = Elements<T, Channels>;
    constexpr int bytes = sizeof(Piece) < 16 ? sizeof(Piece) : 16, at_once = UnderWay / bytes;
    const int last = 63 - __clzll(static_cast<long long>(seen));  // no row behind it is read
    std::uint32_t most = 0;
#pragma unroll 1  // little code: it is run once, and comes from afar
    for (int base = 0; base <= last; base += at_once) {
        Piece piece[at_once];
#pragma unroll
        for (int n = 0; n < at_once; ++n)
            piece[n] =
                *reinterpret_cast<const Piece*>(key + (base + n < last ? base + n : last) * stride);
        const auto bits = static_cast<unsigned>(seen >> base);
#pragma unroll
        for (int n = 0; n < at_once; ++n) {
            if ((bits >> n & 1) == 0) continue;
#pragma unroll
            for (int e = 0; e < Channels; ++e) {
                const float x = own ? to_float(piece[n].element[e]) : 0.0f;
                most = max(most, magnitude(x));
                mean[e].add(x);
            }
        }
    }
    return __all_sync(~0u, quantizable(most));
}

/// \brief Sums the seen keys of one block, token after token, as `ChannelMean` does; a warp has all
///        channels. \tparam UnderWay  see `sum_keys`
/// \param sums  (HeadDim)
/// \return which keys have integers and which have not
template <class T, int HeadDim, int UnderWay = 64>
__device__ inline KeyBlock measure_keys(const Problem& p, Index b, Index hk, Index block,
                                        std::uint64_t seen, bool wide, float* sums) {
    constexpr int channels = HeadDim / 32, at_once = 8;  // tokens under way
    const int lane = threadIdx.x % 32, first = lane * channels;
    const T* const key = static_cast<const T*>(p.key.data) + b * p.key.stride[0] +
                         hk * p.key.stride[1] + block * smoothing_block * p.key.stride[2];
    KeyBlock found{0, 0};
    ChannelMean mean[channels];
    // Pieces of `channels` elements are aligned where pieces of 16 bytes are.
    const bool pieces = wide && p.E % channels == 0, own = first < p.E;
    if (pieces && seen != 0) {
        if (sum_keys<T, UnderWay>(key + (own ? first : 0), p.key.stride[2], seen, own, mean)) {
            found.integer = seen;
            seen = 0;
        } else {
#pragma unroll
            for (int e = 0; e < channels; ++e) mean[e] = {};
        }
    }
    for (int base = 0; base < 64; base += at_once) {
        if ((seen >> base & 0xff) == 0) continue;
        float x[at_once][channels];
#pragma unroll
        for (int n = 0; n < at_once; ++n) {
            const bool read = seen >> (base + n) & 1;
            const T* from = key + (base + n) * p.key.stride[2];
#pragma unroll
            for (int e = 0; e < channels; ++e)
                x[n][e] =
                    read && first + e < p.E ? to_float(from[(first + e) * p.key.stride[3]]) : 0.0f;
        }
#pragma unroll
        for (int n = 0; n < at_once; ++n) {
            if ((seen >> (base + n) & 1) == 0) continue;
            bool integers = true;
#pragma unroll
            for (int e = 0; e < channels; ++e)
                integers = integers && quantizable(magnitude(x[n][e]));
            if (!__all_sync(~0u, integers)) {
                found.floating |= std::uint64_t{1} << (base + n);
                continue;
            }
            found.integer |= std::uint64_t{1} << (base + n);
#pragma unroll
            for (int e = 0; e < channels; ++e) mean[e].add(x[n][e]);
        }
    }
#pragma unroll
    for (int e = 0; e < channels; ++e) sums[first + e] = mean[e].block;
    return found;
}

/// \brief The mean of one channel from the sums of all blocks.
__device__ inline float mean_of(const float* sums, Index stride, const KeyBlock* block,
                                Index blocks) {
    ChannelMean mean;
#pragma unroll 8
    for (Index n = 0; n < blocks; ++n) {
        mean.block = sums[n * stride];
        mean.tokens += __popcll(block[n].integer);
        mean.end_block();
    }
    return mean.mean();
}

/// \brief Keys first_key .. first_key + Keys - 1 become integers and steps. The work of a block.
/// \param tile(key, piece)  where 16 integers of a key go
/// \param scale  (Keys)
/// \param mean  (HeadDim), shared memory
/// \param has_integers  (Keys) false: a key with a number that has none
/// \param square  (Keys) of the norms of the rounded keys
template <int HeadDim, int Keys, int Threads, class Tile>
__device__ inline void round_keys(const Problem& p, Index b, Index hk, Index first_key, bool wide,
                                  const float* mean, Tile&& tile, float* scale, bool* has_integers,
                                  float* square, const Rotation<HeadDim>& rotate, float* staging) {
    constexpr int at_once = Threads / 32 * rows_of_warp(HeadDim);
    constexpr int batch = Keys / at_once < 2 ? 1 : 2;  // rows under way, for a lane
    static_assert(Keys == smoothing_block && Keys % (at_once * batch) == 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = first_channel(lane, HeadDim);
    const Index key = b * p.key.stride[0] + hk * p.key.stride[1] + first_key * p.key.stride[2];
    for (int base = 0; base < Keys; base += at_once * batch) {
        float x[batch][lane_channels];
#pragma unroll
        for (int n = 0; n < batch; ++n) {
            const int j =
                base + n * at_once + warp * rows_of_warp(HeadDim) + lane_row(lane, HeadDim);
            const bool exists = first_key + j < p.S;
            load_channels(x[n], p.key, key + (exists ? j : 0) * p.key.stride[2], first,
                          exists ? p.E : 0, wide);
        }
#pragma unroll
        for (int n = 0; n < batch; ++n) {
            const int j =
                base + n * at_once + warp * rows_of_warp(HeadDim) + lane_row(lane, HeadDim);
            const bool integers = quantizable(row_magnitude<HeadDim>(x[n]));
            if (first == 0) has_integers[j] = integers;
#pragma unroll
            for (int e = 0; e < lane_channels; ++e)
                x[n][e] = integers && first_key + j < p.S && first + e < p.E
                              ? x[n][e] - mean[first + e]
                              : 0.0f;
            rotate(x[n], staging + warp * Rotation<HeadDim>::staging_floats);
            const Quantizer quantizer(row_magnitude<HeadDim>(x[n]));
            const uint4 bytes = sixteen_bytes(quantizer, x[n]);
            *tile(j, first / lane_channels) = bytes;
            const float squares = sum_of_row<lanes_of_row(HeadDim)>(add_squares(bytes, 0));
            if (first == 0) {
                scale[j] = quantizer.scale;
                square[j] = quantizer.scale * quantizer.scale * squares;
            }
        }
    }
}

/// \brief Does row i of head (b, h) see a key without integers? Asked by a whole warp.
__device__ inline bool meets_floating(const Problem& p, Index b, Index h, Index i,
                                      const KeyBlock* block, Index blocks) {
    const MaskRow row(p, b, h, i);
    const int lane = threadIdx.x % 32;
    bool meets = false;
    for (Index n = 0; n < blocks; ++n)
        for (int side = 0; side < 64 && block[n].floating != 0; side += 32)
            meets |= (block[n].floating >> (side + lane) & 1) != 0 &&
                     row.at<float>(64 * n + side + lane) != -CUDART_INF_F;
    return __any_sync(~0u, meets);
}

}  // namespace attn::gpu
