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

/// Divides whole numbers below 2^31 by one that the host knows: by a product. (A block of 64 rows has so
/// little other work that divisions would be a tenth of it.)
/// Source: Granlund and Montgomery 1994, "Division by invariant integers using multiplication".
class Divisor {
  public:
    explicit Divisor(Index divisor) : divisor_(static_cast<unsigned>(divisor)) {
        while ((std::uint64_t{1} << bits_) < divisor_) ++bits_;
        if (divisor_ > 1)
            factor_ = static_cast<unsigned>(((std::uint64_t{1} << (31 + bits_)) + divisor_ - 1) /
                                            divisor_);
    }
    __device__ unsigned operator()(Index n) const {
        const auto number = static_cast<unsigned>(n);
        return divisor_ <= 1 ? number : __umulhi(number, factor_) >> (bits_ - 1);
    }

  private:
    unsigned divisor_, factor_ = 0;
    int bits_ = 0;  // 2^bits >= divisor
};

/// What a kernel has to do: blocks of 64 rows, those of queries first.
struct RoundTask {
    bool bits, natural;  ///< the mask is bits; a mask is added before units of log 2 are taken
    Index query_blocks, key_blocks;
    Divisor of_query_head, query_heads;            ///< blocks of a head, heads of a batch
    Divisor of_key_head, key_heads, heads_of_key;  ///< heads of integers of a key head
};

/// 64 rows of one head. `of_all`: their place among the integers of all heads.
struct QueryRows {
    Index b, h, first, of_all;
    __device__ QueryRows(const Int8Problem& p, const RoundTask& task, Index block) {
        const unsigned head = task.of_query_head(block);
        b = task.query_heads(head), h = head - b * p.problem.Hq;
        first = block * rows_at_once - head * p.queries.rows;
        of_all = block * rows_at_once;
    }
};
struct KeyRows {
    Index n;  ///< head of integers
    KeyHead head;
    Index first, of_all;
    __device__ KeyRows(const Int8Problem& p, const RoundTask& task, Index block)
        : n(task.of_key_head(block)),
          head(head_of(p, task, static_cast<unsigned>(n))),
          first((block - n * p.keys.blocks) * rows_at_once),
          of_all(block * rows_at_once) {}
    static __device__ KeyHead head_of(const Int8Problem& p, const RoundTask& task, unsigned n) {
        const unsigned b = task.key_heads(n), own = n - b * static_cast<unsigned>(p.keys.heads);
        return {b, own, task.heads_of_key(own)};
    }
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

/// The largest square of a norm among a warp's keys. Of those alone that the causal rule lets some query
/// see: what nobody sees must not count.
/// \param square  of the lane's key, whose number is `key`
__device__ float largest_square(const Problem& p, Index key, float square) {
    if (p.L == 0 || key >= p.visible(p.L - 1)) square = 0;
    // Of numbers from 0 on, the bits are in the same order.
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(square)));
}
/// Do the last rows see all keys of a block that the causal rule shows them? If not, whether earlier ones
/// see the others is not asked: the block has no bound.
__device__ bool last_rows_see(const Int8Problem& p, const RoundTask& task, const KeyRows& rows) {
    const Problem& problem = p.problem;
    if (problem.mask_kind == MaskKind::none || problem.L == 0) return true;
    const Index block = rows.first / 64, last = (problem.L - 1) / class_tile * class_tile;
    return seen_keys<false>(problem, rows.head.b, rows.head.hk, block) ==
           seen_of(p, rows.head, block, task.bits, last);
}

/// Writes which of the keys have integers, and which of the others are seen. The work of a warp.
/// \param integers  (64)
/// \param square  the largest one of the block
__device__ void write_found(const Int8Problem& p, const RoundTask& task, const KeyRows& rows,
                            const bool* integers, float square) {
    static_assert(rows_at_once == 64, "one KeyBlock");
    const int lane = threadIdx.x % 32;
    const Index block = rows.first / 64, left = p.problem.S - rows.first;
    const std::uint64_t exist = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    const std::uint64_t low = __ballot_sync(~0u, integers[lane]);
    const std::uint64_t high = __ballot_sync(~0u, integers[32 + lane]);
    KeyBlock found{(high << 32 | low) & exist, 0};
    if (found.integer != exist)
        found.floating = seen_of(p, rows.head, block, task.bits) & exist & ~found.integer;
    const bool bound = p.keys.square != nullptr && last_rows_see(p, task, rows);
    if (lane != 0) return;
    p.keys.block[rows.n * p.keys.blocks + block] = found;
    if (p.keys.square != nullptr)
        p.keys.square[rows.n * p.keys.blocks + block] = bound ? square : CUDART_INF_F;
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
    __shared__ float square_of[threads / 32];  // the largest one of each warp
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
    const auto store = [&](std::int8_t* to) {
        __syncthreads();  // the integers are there
#pragma unroll
        for (int n = 0; n < rows_at_once * HeadDim / 16 / threads; ++n)
            reinterpret_cast<uint4*>(to)[n * threads + thread] =
                reinterpret_cast<const uint4*>(tile)[n * threads + thread];
    };
    float x[HeadDim / 2];
    const Index block = first_block + blockIdx.x;
    // Inputs may be read before the last kernel has ended, which takes the mean: it writes none.
    if (block < task.query_blocks) {
        const QueryRows rows(p, task, block);
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
        store(p.queries.query + rows.of_all * HeadDim);
    } else {
        const KeyRows rows(p, task, block - task.query_blocks);
        fetch(problem.key, rows.head.b, rows.head.hk, rows.first, problem.S);
        fetch_mean(rows.n);
        copy_async_wait<0>();
        __syncthreads();
        const bool integers = has_integers(Staged::read(x, tile, at.row, at.half));
        if (at.half == 0) integers_of[at.row] = integers;
        smooth_key<HeadDim>(x, mean, at.half, side);
        clear_rows(x, !integers || rows.first + at.row >= problem.S);
        __syncthreads();  // the rows have been read; their integers take their place
        const RoundedRow row = round_row<HeadDim, Operand::key>(x, side, 1.0f, piece);
        if (at.half == 0) p.keys.scale[rows.of_all + at.row] = row.step;
        const float square =
            largest_square(problem, rows.first + at.row, row.step * row.step * row.squares);
        if (thread % 32 == 0) square_of[thread / 32] = square;
        store(p.keys.key + rows.of_all * HeadDim);
        const float most =
            fmaxf(fmaxf(square_of[0], square_of[1]), fmaxf(square_of[2], square_of[3]));
        if (thread < 32) write_found(p, task, rows, integers_of, most);
    }
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
    any_queries_kernel(const __grid_constant__ Int8Problem p, RoundTask task, Index first_block) {
    start_next_kernel();
    wait_for_last_kernel();
    __shared__ float staging[threads / 32 * Rotation<HeadDim>::staging_floats];
    const QueryRows rows(p, task, first_block + blockIdx.x);
    clear_marks(p, rows);
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
    float most = 0;
    for (int j = threadIdx.x; j < 64; j += 32)
        most = fmaxf(most, largest_square(p.problem, rows.first + j, square[j]));
    write_found(p, task, rows, integers, most);
}

template <int HeadDim>
void launch_head_dim(const Int8Problem& p, RoundTask task, cudaStream_t stream) {
    const bool whole_queries = is_whole<HeadDim>(p.problem.E, p.wide_query);
    const bool whole_keys = is_whole<HeadDim>(p.problem.E, p.wide_key);
    if (!whole_keys && task.key_blocks > 0)
        launch_early<any_keys_kernel<HeadDim>>(task.key_blocks, threads, 0, stream, p, task);
    if (!whole_queries && task.query_blocks > 0)
        launch_early<any_queries_kernel<HeadDim>>(task.query_blocks, threads, 0, stream, p, task);
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
    const Problem& problem = p.problem;
    const Index query_blocks = p.queries.rows / rows_at_once;  // of a head
    const RoundTask task{.bits = masking == Masking::bits,
                         .natural = masking == Masking::additive,
                         .query_blocks = problem.B * problem.Hq * query_blocks,
                         .key_blocks = problem.B * p.keys.heads * p.keys.blocks,
                         .of_query_head = Divisor(query_blocks),
                         .query_heads = Divisor(problem.Hq),
                         .of_key_head = Divisor(p.keys.blocks),
                         .key_heads = Divisor(p.keys.heads),
                         .heads_of_key = Divisor(problem.H > 0 ? p.keys.heads / problem.H : 1)};
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
