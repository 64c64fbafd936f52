/// \file
/// \brief The second kernel of the pre-pass of `cuda_int8`: queries and keys become integers, each
///        row once, before the main kernel. (A prologue of that one would be compiled into every one
///        of its forms, and would repeat the keys for each tile of queries.)
///
/// Cost: Q and K are read once and written once in half the bytes; V is not touched. The additions
/// of the rotation take as long as the memory does.
#include "cuda_int8_rows.cuh"
#include "cuda_int8_seen.cuh"
#include "cuda_int8_whole.cuh"
#include "device.hpp"

namespace attn::gpu {
namespace {

constexpr int rows_at_once = 64, threads = 2 * rows_at_once;

/// What a kernel has to do: blocks of 64 rows, those of queries first.
struct RoundTask {
    bool bits, natural;  ///< the mask is bits; a mask is added before units of log 2 are taken
    Index query_blocks, key_blocks;
};

/// 64 rows of one head. `of_all`: their place among the integers of all heads.
struct QueryRows {
    Index b, h, first, of_all;
    __device__ QueryRows(const Int8Problem& p, Index block) {
        const Index blocks = p.queries.rows / rows_at_once, head = divided(block, blocks);
        b = divided(head, p.problem.Hq), h = head - b * p.problem.Hq;
        first = (block - head * blocks) * rows_at_once;
        of_all = block * rows_at_once;
    }
};
struct KeyRows {
    Index n;  ///< head of integers
    KeyHead head;
    Index first, of_all;
    __device__ KeyRows(const Int8Problem& p, Index block)
        : n(divided(block, p.keys.blocks)),
          head(p, n),
          first((block - n * p.keys.blocks) * rows_at_once),
          of_all(block * rows_at_once) {}
};

/// What the main kernel expects beside the integers: see Int8Problem.
__device__ void clear_marks(const Int8Problem& p, const QueryRows& rows) {
    const Index tile = int8_tile_rows(p.keys.head_dim), tiles = p.queries.rows / tile;
    if (threadIdx.x != 0 || rows.first % tile != 0) return;
    p.again[(rows.b * p.problem.Hq + rows.h) * tiles + rows.first / tile] = false;
    if (rows.of_all == 0) *p.next_block = 0;
}

/// How queries are scaled.
struct QueryUnit {
    float unit, sign;
    __device__ QueryUnit(const Problem& p, bool natural) {
        const float size = fabsf(static_cast<float>(p.scale));
        unit = natural ? size : size * 1.44269504f;
        sign = p.scale < 0 ? -1.0f : 1.0f;
    }
};

__device__ QueryScales scales_at(const Int8Problem& p, Index row) {
    return {p.queries.factor + row, p.queries.shift + row, p.queries.without + row,
            p.queries.square == nullptr ? nullptr : p.queries.square + row};
}

/// Raises the head's square of a norm to those of these keys. What no query sees must not count: keys
/// that the causal rule hides do not, and if a mask hides one of the others from all of the last rows
/// (whether earlier ones see it is not asked), the head has no bound. The work of a warp.
/// \param square  of the lane's key, whose number is `key`
__device__ void raise_square(const Int8Problem& p, const KeyRows& rows, Index key, float square) {
    if (p.keys.square == nullptr) return;
    const Problem& problem = p.problem;
    if (problem.L == 0 || key >= problem.visible(problem.L - 1)) square = 0;
    // Of numbers from 0 on, the bits are in the same order.
    const unsigned most = __reduce_max_sync(~0u, __float_as_uint(square));
    if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<unsigned*>(p.keys.square) + rows.n, most);
}
/// Do the last rows see all keys of a block that the causal rule shows them?
__device__ bool last_rows_see(const Int8Problem& p, const RoundTask& task, const KeyRows& rows) {
    const Problem& problem = p.problem;
    if (problem.mask_kind == MaskKind::none || problem.L == 0) return true;
    const Index block = rows.first / 64, last = (problem.L - 1) / class_tile * class_tile;
    return seen_keys<false>(problem, rows.head.b, rows.head.hk, block) ==
           seen_of(p, rows.head, block, task.bits, last);
}

/// Writes which of the keys have integers, and which of the others are seen. The work of a warp.
/// \param integers  (64)
__device__ void write_found(const Int8Problem& p, const RoundTask& task, const KeyRows& rows,
                            const bool* integers) {
    static_assert(rows_at_once == 64, "one KeyBlock");
    const int lane = threadIdx.x % 32;
    const Index block = rows.first / 64, left = p.problem.S - rows.first;
    const std::uint64_t exist = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    const std::uint64_t low = __ballot_sync(~0u, integers[lane]);
    const std::uint64_t high = __ballot_sync(~0u, integers[32 + lane]);
    KeyBlock found{(high << 32 | low) & exist, 0};
    if (found.integer != exist)
        found.floating = seen_of(p, rows.head, block, task.bits) & exist & ~found.integer;
    if (p.keys.square != nullptr && !last_rows_see(p, task, rows))
        raise_square(p, rows, 0, CUDART_INF_F);
    if (lane != 0) return;
    p.keys.block[rows.n * p.keys.blocks + block] = found;
    if (found.floating != 0) p.keys.floating[rows.n] = true;
}

// ---- whole rows: two threads each ---------------------------------------------------------------

/// Blocks that a multiprocessor holds: as many as leave a thread registers for half a row.
template <int HeadDim>
constexpr int round_blocks = HeadDim == 64 ? 8 : 5;

/// One block per 64 rows of a head.
template <class T, int HeadDim>
__global__ void __launch_bounds__(threads, round_blocks<HeadDim>)
    round_kernel(const __grid_constant__ Int8Problem p, RoundTask task, Index first_block) {
    start_next_kernel();
    using Staged = StagedRows<T, HeadDim>;
    __shared__ __align__(1024) unsigned char tile[rows_at_once * Staged::row_bytes];
    __shared__ __align__(16) float mean[HeadDim];
    __shared__ bool integers_of[rows_at_once];
    const Problem& problem = p.problem;
    const int thread = static_cast<int>(threadIdx.x);
    const RowHalf at(thread);
    const float side = at.half == 0 ? 1.0f : -1.0f;
    const auto fetch = [&](const TensorView& view, Index b, Index h, Index first, Index rows) {
        const T* from = static_cast<const T*>(view.data) + b * view.stride[0] + h * view.stride[1] +
                        first * view.stride[2];
        Staged::template copy<rows_at_once, threads>(shared_address(tile), from, view.stride[2],
                                                     rows - first, thread);
        copy_async_commit();
    };
    const auto fetch_mean = [&](Index n) {
        wait_for_last_kernel();
        if (thread < HeadDim) mean[thread] = flipped(p.keys.mean[n * HeadDim + thread], thread);
    };
    const auto piece = [&](int n) {
        return reinterpret_cast<uint4*>(tile +
                                        swizzled<HeadDim>(at.row, at.half * (HeadDim / 32) + n));
    };
    float x[HeadDim / 2];
    const Index block = first_block + blockIdx.x;
    std::int8_t* to;
    // Inputs may be read before the last kernel has ended, which takes the mean: it writes none.
    if (block < task.query_blocks) {
        const QueryRows rows(p, block);
        fetch(problem.query, rows.b, rows.h, rows.first, problem.L);
        clear_marks(p, rows);
        const bool shifts = !problem.logsumexp.absent();
        if (shifts) fetch_mean(p.keys.place(problem, rows.b, rows.h));
        const QueryUnit unit(problem, task.natural);
        copy_async_wait<0>();
        __syncthreads();
        const bool integers = has_integers(Staged::read(x, tile, at.row, at.half));
        __syncthreads();  // the rows have been read; their integers take their place
        round_query<HeadDim>(x, at, side, integers, shifts ? mean : nullptr, unit.unit, unit.sign,
                             piece, scales_at(p, rows.of_all));
        to = p.queries.query + rows.of_all * HeadDim;
    } else {
        const KeyRows rows(p, block - task.query_blocks);
        fetch(problem.key, rows.head.b, rows.head.hk, rows.first, problem.S);
        fetch_mean(rows.n);
        copy_async_wait<0>();
        __syncthreads();
        const bool integers = has_integers(Staged::read(x, tile, at.row, at.half));
        if (at.half == 0) integers_of[at.row] = integers;
        smooth_key<HeadDim>(x, mean, at.half, side);
        clear_rows(x, !integers || rows.first + at.row >= problem.S);
        __syncthreads();  // the rows have been read; their integers take their place
        const RoundedRow row =
            round_row<HeadDim>(x, side, rotation_factor(HeadDim, Operand::key), 1.0f, piece);
        if (at.half == 0) p.keys.scale[rows.of_all + at.row] = row.step;
        raise_square(p, rows, rows.first + at.row, row.step * row.step * row.squares);
        if (thread < 32) write_found(p, task, rows, integers_of);
        to = p.keys.key + rows.of_all * HeadDim;
    }
    __syncthreads();
#pragma unroll
    for (int n = thread; n < rows_at_once * HeadDim / 16; n += threads)
        reinterpret_cast<uint4*>(to)[n] = reinterpret_cast<const uint4*>(tile)[n];
    wait_for_last_kernel();  // the next kernel asks only for the end of this one
}

template <class T, int HeadDim>
void launch_whole(const Int8Problem& p, const RoundTask& task, cudaStream_t stream) {
    launch_early<round_kernel<T, HeadDim>>(task.query_blocks + task.key_blocks, threads, 0, stream,
                                           p, task);
}

// ---- rows of any length: a few lanes each -------------------------------------------------------

/// One block per 64 queries of a head.
template <int HeadDim>
__global__ void __launch_bounds__(threads)
    any_queries_kernel(const __grid_constant__ Int8Problem p, bool natural, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    __shared__ float staging[threads / 32 * Rotation<HeadDim>::staging_floats];
    const QueryRows rows(p, first_block + blockIdx.x);
    clear_marks(p, rows);
    std::int8_t* const query = p.queries.query + rows.of_all * HeadDim;
    const QueryUnit unit(p.problem, natural);
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
    const KeyRows rows(p, first_block + blockIdx.x);
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
    for (int j = threadIdx.x; j < 64; j += 32) raise_square(p, rows, rows.first + j, square[j]);
    write_found(p, task, rows, integers);
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, RoundTask task, cudaStream_t stream) {
    const bool whole_queries = is_whole<HeadDim>(p.problem.E, p.wide_query);
    const bool whole_keys = is_whole<HeadDim>(p.problem.E, p.wide_key);
    if (!whole_keys && task.key_blocks > 0)
        launch_early<any_keys_kernel<HeadDim>>(task.key_blocks, threads, 0, stream, p, task);
    if (!whole_queries && task.query_blocks > 0)
        launch_early<any_queries_kernel<HeadDim>>(task.query_blocks, threads, 0, stream, p,
                                                  task.natural);
    if (!whole_queries) task.query_blocks = 0;
    if (!whole_keys) task.key_blocks = 0;
    if constexpr (HeadDim <= 128) {
        if (task.query_blocks + task.key_blocks == 0) return;
        if (p.problem.dtype == DType::float32) return launch_whole<float, HeadDim>(p, task, stream);
        if (p.problem.dtype == DType::float16)
            return launch_whole<float16, HeadDim>(p, task, stream);
        launch_whole<bfloat16, HeadDim>(p, task, stream);
    }
}

}  // namespace

void quantize(const Int8Problem& p, Masking masking, cudaStream_t stream) {
    const RoundTask task{masking == Masking::bits, masking == Masking::additive,
                         p.problem.B * p.problem.Hq * (p.queries.rows / rows_at_once),
                         p.problem.B * p.keys.heads * p.keys.blocks};
    average_keys(p, task.bits, stream);
    switch (p.keys.head_dim) {
        case 64:
            return launch_head_dim<64>(p, task, stream);
        case 128:
            return launch_head_dim<128>(p, task, stream);
        default:
            return launch_head_dim<256>(p, task, stream);
    }
}

}  // namespace attn::gpu
