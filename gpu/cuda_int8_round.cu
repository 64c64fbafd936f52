/// \file
/// \brief The second kernel of the pre-pass of `cuda_int8`: queries and keys become integers, each
///        row once, before the main kernel. (A prologue of that one would be compiled into every one
///        of its forms, and would repeat the keys for each tile of queries.)
///
/// Cost: Q and K are read once and written once in half the bytes; V is not touched. The additions
/// of the rotation take as long as the memory does.
#include "cuda_int8_round.cuh"
#include "cuda_int8_whole.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr int threads = 2 * tile_rows;  // of the kernels for rows of any length

// ---- whole rows: one or two lanes each ----------------------------------------------------------

/// How a warp does whole rows: some at once, one step after the other.
template <class T, int HeadDim>
struct Steps {
    /// Lanes of a row. A lane could hold 128 channels, with 164 registers: 12 warps, not 20.
    static constexpr int parts = HeadDim / 64;
    static constexpr int rows = 32 / parts, of_tile = tile_rows / rows;
    static constexpr int own = HeadDim / parts;  ///< channels of a lane
    using Staged = StagedRows<T, HeadDim>;
    static constexpr int bytes = rows * Staged::row_bytes;
    /// Warps that a multiprocessor should hold: of 16 bits as many as find registers for their channels
    /// (96 for 64 channels), or shared memory before sm_90; of 32 bits as many as find shared memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    static constexpr int warps = bytes == 4096 ? 16 : 8;
#else
    static constexpr int warps = bytes == 4096 ? 20 : 12;
#endif
};

/// The number of the thread in the only warp of its block.
__device__ inline int own_lane() { return static_cast<int>(threadIdx.x); }

/// The row of those of a step, and the part of it, that are a lane's.
template <int Parts>
struct RowPart {
    int row = own_lane(), part = 0;
    float side = 1;  ///< -1 in the second half
    __device__ RowPart() {
        if constexpr (Parts == 2)
            row = own_lane() & 15, part = own_lane() >> 4, side = part == 0 ? 1.0f : -1.0f;
    }
};

/// Calls work(step, rows) for each step of a part. The rows come through two slots of shared memory:
/// while the warp works on those in one, the copies of the next ones are under way to the other.
/// \param first  row of the head (b, h); from `end` on come zeros
/// \param slots  two of Steps::bytes
template <class T, int HeadDim, class Work>
__device__ inline void for_each_step(const TensorView& view, Index b, Index h, Index first,
                                     Index end, int steps, unsigned char* slots, Work&& work) {
    using S = Steps<T, HeadDim>;
    const int lane = own_lane();
    const Index stride = view.stride[2];
    const T* from = static_cast<const T*>(view.data) + b * view.stride[0] + h * view.stride[1] +
                    first * stride + S::Staged::template first_of<32>(stride, lane);
    int left = static_cast<int>(end - first);  // fits: see most_rows in cuda_int8.cu
    const auto fetch = [&](int step) {
        S::Staged::template copy_from<S::rows, 32>(shared_address(slots + step % 2 * S::bytes),
                                                   from, stride, left, lane);
        from += S::rows * stride, left -= S::rows;
    };
    fetch(0);
    copy_async_commit();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        // The other slot is free: every lane has done the last step, see below.
        if (step + 1 < steps) fetch(step + 1);
        copy_async_commit();   // without copies as well: always one group a step
        copy_async_wait<1>();  // the lane's own copies of this step have come,
        __syncwarp();          // and so have those of the others
        work(step, slots + step % 2 * S::bytes);
        __syncwarp();  // all have read what `work` left in the slot: copies may go there
    }
}

/// Where the integers of a part go: first into the slot that their rows came in, as they will lie in
/// global memory; from there to it, whole lines at a time.
template <class T, int HeadDim>
class IntegerRows {
    using S = Steps<T, HeadDim>;

  public:
    /// \param to  of the part's first row
    __device__ IntegerRows(std::int8_t* to, const RowPart<S::parts>& at)
        : to_(reinterpret_cast<uint4*>(to) + own_lane()),
          place_(swizzled<HeadDim>(at.row, at.part * (S::own / 16))) {}
    /// Where 16 integers of the lane go in a slot.
    __device__ auto in(unsigned char* slot) const {
        return [slot, place = place_](int piece) {
            return reinterpret_cast<uint4*>(slot + further(place, piece));
        };
    }
    /// The integers of a step leave its slot.
    __device__ void store(const unsigned char* slot) {
        __syncwarp();  // the integers are there
        constexpr int pieces = S::rows * HeadDim / 16;
#pragma unroll
        for (int n = 0; n < pieces; n += 32)
            to_[n] = reinterpret_cast<const uint4*>(slot)[n + own_lane()];
        to_ += pieces;
    }

  private:
    uint4* to_;
    std::uint32_t place_;
};

/// The mean of K for head n of the integers, its signs flipped, in the warp's shared memory.
/// \return is it so large that a number beyond 2^40 may not be seen in what smoothing leaves?
template <int HeadDim>
__device__ inline bool fetch_mean(const Int8Problem& p, Index n, float* mean) {
    wait_for_last_kernel();
    bool large = false;
#pragma unroll
    for (int base = 0; base < HeadDim; base += 32) {
        const int e = base + own_lane();
        const float x = p.keys.mean[n * HeadDim + e];
        mean[e] = flipped(x, e);
        large = large || !(fabsf(x) <= 0x1p39f);
    }
    __syncwarp();
    return __any_sync(~0u, large);
}

/// A transform without its factor keeps the norm or makes it larger: with a number beyond 2^40 in a row,
/// less a mean of at most 2^39, its largest magnitude is about 2^39 or more, and with an infinity or a
/// NaN a NaN or infinity. Below this one no row need be asked.
constexpr float surely_quantizable = 0x1p38f;

/// Transforms the rows of a step. Whether all their numbers may become integers is asked afterwards, and
/// almost never finds that they are to be asked one by one: then the step begins again.
/// \param read(clear)  the lane's part of its row, its signs flipped, to x; zeros if `clear`
/// \param ask  one by one in any case
/// \param clear  the row is none
/// \param integers  out: may the row's numbers become integers?
/// \return the largest magnitude of the row
template <class T, int HeadDim, class Read>
__device__ inline float transform_step(float (&x)[Steps<T, HeadDim>::own],
                                       const RowPart<Steps<T, HeadDim>::parts>& at,
                                       const unsigned char* slot, bool ask, bool clear,
                                       bool& integers, Read&& read) {
    using S = Steps<T, HeadDim>;
    integers = true;
    while (true) {
        if (ask)
            integers = has_integers<S::parts>(
                S::Staged::template largest<S::parts>(slot, at.row, at.part));
        read(clear || !integers);
        const float largest = transform_row<HeadDim, S::parts>(x, at.side);
        if (ask || __all_sync(~0u, largest < surely_quantizable)) return largest;
        ask = true;
    }
}

template <class T, int HeadDim>
__device__ inline void round_query_part(const Int8Problem& p, const RoundTask& task, Index part,
                                        unsigned char* slots, float* mean) {
    using S = Steps<T, HeadDim>;
    const Problem& problem = p.problem;
    const QueryRows rows(p, task, part);
    const RowPart<S::parts> at;
    const bool shifts = !problem.logsumexp.absent();
    const QueryUnit unit(problem, task.natural);
    IntegerRows<T, HeadDim> to(p.queries.query + rows.of_all * HeadDim, at);
    for_each_step<T, HeadDim>(
        problem.query, rows.b, rows.h, rows.first, problem.L, rows.tiles * S::of_tile, slots,
        [&](int step, unsigned char* slot) {
            // After the first copies have begun: those do not wait for the mean.
            if (step == 0 && shifts)
                fetch_mean<HeadDim>(p, p.keys.place(problem, rows.b, rows.h), mean);
            float x[S::own], dot = 0;
            bool integers;
            const float largest =
                transform_step<T, HeadDim>(x, at, slot, false, false, integers, [&](bool clear) {
                    S::Staged::template read<S::parts>(x, slot, at.row, at.part);
                    clear_rows(x, clear);
                    flip_query<HeadDim, S::parts>(x, at.side);
                    if (shifts) dot = times_mean<HeadDim, S::parts>(x, mean, at.part);
                });
            __syncwarp();  // the rows have been read; their integers take their place
            const RoundedRow row = round_transformed<HeadDim, Operand::query, S::parts>(
                x, largest, unit.sign, to.in(slot));
            if (at.part == 0)
                write_query_scales(scales_at(p, rows.of_all), step * S::rows + at.row, row,
                                   integers, unit.unit, dot);
            to.store(slot);
        });
    clear_marks<HeadDim>(p, rows);
}

template <class T, int HeadDim>
__device__ inline void round_key_part(const Int8Problem& p, const RoundTask& task, Index part,
                                      unsigned char* slots, float* mean) {
    using S = Steps<T, HeadDim>;
    const Problem& problem = p.problem;
    const KeyRows rows(p, task, part);
    const RowPart<S::parts> at;
    const int left = static_cast<int>(problem.S - rows.first);
    const int seen = static_cast<int>(seen_keys_end(problem) - rows.first);
    IntegerRows<T, HeadDim> to(p.keys.key + rows.of_all * HeadDim, at);
    bool ask = false;
    std::uint64_t integers_of = 0;  // of the tile, from the last bits on
    float square = 0;               // the largest one of the tile
    for_each_step<T, HeadDim>(
        problem.key, rows.head.b, rows.head.hk, rows.first, problem.S, rows.tiles * S::of_tile,
        slots, [&](int step, unsigned char* slot) {
            // After the first copies have begun: those do not wait for the mean.
            if (step == 0) ask = fetch_mean<HeadDim>(p, rows.n, mean);
            float x[S::own];
            bool integers;
            const int key = step * S::rows + at.row;  // from the part's first one on
            const float largest = transform_step<T, HeadDim>(
                x, at, slot, ask, key >= left, integers, [&](bool clear) {
                    S::Staged::template read<S::parts>(x, slot, at.row, at.part);
                    smooth_key<HeadDim, S::parts>(x, mean, at.part, at.side);
                    clear_rows(x, clear);
                });
            __syncwarp();  // the rows have been read; their integers take their place
            const RoundedRow row =
                round_transformed<HeadDim, Operand::key, S::parts>(x, largest, 1.0f, to.in(slot));
            if (at.part == 0) p.keys.scale[rows.of_all + key] = row.step;
            if (key < seen) square = fmaxf(square, row.step * row.step * row.squares);
            integers_of =
                integers_of >> S::rows | static_cast<std::uint64_t>(__ballot_sync(~0u, integers))
                                             << (64 - S::rows);
            to.store(slot);
            if (step % S::of_tile != S::of_tile - 1) return;
            write_found(p, task, rows, rows.tile + step / S::of_tile, integers_of,
                        largest_of_warp(square));
            square = 0;
        });
}

/// One warp for each part. Nothing waits for another warp.
template <class T, int HeadDim>
__global__ void __launch_bounds__(32, Steps<T, HeadDim>::warps)
    round_kernel(const __grid_constant__ Int8Problem p, RoundTask task, Index first_block) {
    start_next_kernel();
    __shared__ __align__(1024) unsigned char slots[2 * Steps<T, HeadDim>::bytes];
    __shared__ __align__(16) float mean[HeadDim];
    // Inputs may be read before the last kernel has ended, which takes the mean: it writes none. The
    // integers may be written as well: that kernel reads none, and began when those before it had ended.
    const Index part = first_block + blockIdx.x;
    if (part < task.query_parts)
        round_query_part<T, HeadDim>(p, task, part, slots, mean);
    else
        round_key_part<T, HeadDim>(p, task, part - task.query_parts, slots, mean);
    wait_for_last_kernel();  // the next kernel asks only for the end of this one
}

template <class T, int HeadDim>
void launch_whole(const Int8Problem& p, const RoundTask& task, cudaStream_t stream) {
    prefer_shared_memory<round_kernel<T, HeadDim>>();
    launch_early<round_kernel<T, HeadDim>>(task.query_parts + task.key_parts, 32, 0, stream, p,
                                           task);
}

/// Tiles of a part: the more, the fewer times a warp finds its place, takes the mean and waits for its
/// first rows; but all multiprocessors should stay busy to the end.
/// \param warps  of a multiprocessor
inline int tiles_of_part(Index tiles, int warps) {
    constexpr int most = 8, rounds = 6;
    const Index places = Index{multiprocessors()} * warps;
    int part = 1;
    while (part < most && tiles / (2 * part) >= rounds * places) part *= 2;
    return part;
}

// ---- rows of any length: a few lanes each -------------------------------------------------------

/// One block per 64 queries of a head.
template <int HeadDim>
__global__ void __launch_bounds__(threads)
    any_queries_kernel(const __grid_constant__ Int8Problem p, RoundTask task, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    __shared__ float staging[threads / 32 * Rotation<HeadDim>::staging_floats];
    const QueryRows rows(p, task, first_block + blockIdx.x);
    clear_marks<HeadDim>(p, rows);
    std::int8_t* const query = p.queries.query + rows.of_all * HeadDim;
    const QueryUnit unit(p.problem, task.natural);
    const float* mean = p.problem.logsumexp.absent()
                            ? nullptr  // no shift is asked for
                            : p.keys.mean + p.keys.place(p.problem, rows.b, rows.h) * HeadDim;
    const auto place = [&](int row, int piece) {
        return reinterpret_cast<uint4*>(query + swizzled<HeadDim>(row, piece));
    };
    quantize_queries<HeadDim, 64, threads>(p.problem, rows.b, rows.h, rows.first, unit.unit,
                                           unit.sign, p.wide_query, mean, place,
                                           scales_at(p, rows.of_all), staging);
}

/// One block per 64 keys of a head. Four blocks a multiprocessor: left to itself, ptxas spills for
/// more of them at HeadDim = 64.
template <int HeadDim>
__global__ void __launch_bounds__(threads, 4)
    any_keys_kernel(const __grid_constant__ Int8Problem p, RoundTask task, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    __shared__ float mean[HeadDim];
    __shared__ bool integers[64];
    __shared__ float square[64];
    __shared__ float staging[threads / 32 * Rotation<HeadDim>::staging_floats];
    const KeyRows rows(p, task, first_block + blockIdx.x);
    for (int e = threadIdx.x; e < HeadDim; e += threads)
        mean[e] = p.keys.mean[rows.n * HeadDim + e];
    __syncthreads();
    const Rotation<HeadDim> rotate(p.problem.E, Operand::key);
    std::int8_t* const key = p.keys.key + rows.of_all * HeadDim;
    round_keys<HeadDim, 64, threads>(
        p.problem, rows.head.b, rows.head.hk, rows.first, p.wide_key, mean,
        [&](int j, int piece) {
            return reinterpret_cast<uint4*>(key + swizzled<HeadDim>(j, piece));
        },
        p.keys.scale + rows.of_all, integers, square, rotate, staging);
    __syncthreads();
    if (threadIdx.x >= 32) return;
    const Index seen = seen_keys_end(p.problem) - rows.first;
    const int lane = threadIdx.x;
    const std::uint64_t low = __ballot_sync(~0u, integers[lane]);
    const std::uint64_t high = __ballot_sync(~0u, integers[32 + lane]);
    const float most =
        fmaxf(lane < seen ? square[lane] : 0.0f, 32 + lane < seen ? square[32 + lane] : 0.0f);
    write_found(p, task, rows, rows.tile, high << 32 | low, largest_of_warp(most));
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    const bool whole_queries = is_whole<HeadDim>(p.problem.E, p.wide_query);
    const bool whole_keys = is_whole<HeadDim>(p.problem.E, p.wide_key);
    RoundTask task(p, masking, 1);
    if (!whole_keys && task.key_parts > 0)
        launch_early<any_keys_kernel<HeadDim>>(task.key_parts, threads, 0, stream, p, task);
    if (!whole_queries && task.query_parts > 0)
        launch_early<any_queries_kernel<HeadDim>>(task.query_parts, threads, 0, stream, p, task);
    if constexpr (HeadDim <= 128) {
        const Index tiles =
            (whole_queries ? task.query_parts : 0) + (whole_keys ? task.key_parts : 0);
        if (tiles == 0) return;
        task = RoundTask(p, masking, tiles_of_part(tiles, Steps<float16, HeadDim>::warps));
        if (!whole_queries) task.query_parts = 0;
        if (!whole_keys) task.key_parts = 0;
        if (p.problem.dtype == DType::float32) return launch_whole<float, HeadDim>(p, task, stream);
        if (p.problem.dtype == DType::float16)
            return launch_whole<float16, HeadDim>(p, task, stream);
        launch_whole<bfloat16, HeadDim>(p, task, stream);
    }
}

}  // namespace

void quantize(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    average_keys(p, masking == Masking::bits, stream);
    switch (p.keys.head_dim) {
        case 64:
            return launch_head_dim<64>(p, masking, stream);
        case 128:
            return launch_head_dim<128>(p, masking, stream);
        default:
            return launch_head_dim<256>(p, masking, stream);
    }
}

}  // namespace attn::gpu
