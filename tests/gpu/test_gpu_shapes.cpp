/// \file
/// \brief The shapes that `./run gpu --sanitize` runs under compute-sanitizer: a list for each family of
///        kernels, small, since that is slow.
#include "device_case.hpp"

using namespace attn;
using namespace attn::testing;

namespace {

struct Shape {
    Sizes s;
    DType dtype;
    MaskKind mask;
    Causal causal;
};

/// In buffers without a byte to spare.
void expect_right_shape(const Tier& tier, const Case& c) {
    const GpuCase gpu(c);
    if (!takes(tier, gpu.in)) return;
    CAPTURE(std::string(tier.name));
    gpu.run(tier);
    must(cudaDeviceSynchronize());
    Output got = GpuCase::outputs(c);
    gpu.out.fetch(got.out);
    gpu.logsumexp.fetch(got.logsumexp);
    expect_right(tier, got,
                 reference(gpu.in.query.view, gpu.in.key.view, gpu.in.value.view, gpu.in.options));
}

/// On every GPU tier; additive masks of float32 and of the dtype of the inputs, see `make_mask`.
void expect_right_shapes(std::span<const Shape> shapes) {
    for (const Tier* tier : gpu_tiers())
        for (const Shape& shape : shapes) {
            Case c = make_case("sanitizer", shape.s, shape.dtype, shape.mask, shape.causal);
            expect_right_shape(*tier, c);
            c.seed = 2;
            if (shape.mask == MaskKind::additive) expect_right_shape(*tier, c);
        }
}

}  // namespace

TEST_CASE("sanitizer: thirty-six shapes") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16, f32 = DType::float32;
    const MaskKind none = MaskKind::none, boolean = MaskKind::boolean, add = MaskKind::additive;
    const Causal all = Causal::none, upper = Causal::upper_left, lower = Causal::lower_right;
    //                B  Hq H  L    S    E    Ev
    const Shape shapes[] = {{{1, 1, 1, 1, 1, 1, 1}, f16, none, all},
                            {{1, 1, 1, 1, 1, 1, 1}, f32, none, all},
                            {{1, 2, 2, 65, 65, 64, 64}, f16, none, all},
                            {{1, 2, 1, 129, 70, 64, 64}, bf16, none, all},
                            {{1, 2, 2, 130, 130, 64, 64}, bf16, none, upper},
                            {{2, 1, 1, 70, 200, 64, 64}, f16, none, lower},
                            {{1, 1, 1, 200, 70, 64, 64}, f16, none, lower},
                            {{1, 2, 2, 129, 129, 128, 128}, f16, none, all},
                            {{1, 1, 1, 140, 140, 128, 128}, bf16, none, upper},
                            {{1, 1, 1, 70, 70, 256, 256}, f16, none, all},
                            {{1, 1, 1, 70, 70, 160, 200}, bf16, none, upper},
                            {{1, 2, 2, 70, 90, 40, 24}, f16, none, all},
                            {{1, 2, 2, 70, 90, 33, 47}, f16, none, all},
                            {{1, 2, 2, 130, 130, 64, 64}, f16, boolean, all},
                            {{1, 2, 2, 130, 129, 128, 128}, bf16, boolean, all},
                            {{1, 1, 1, 70, 130, 256, 256}, f16, boolean, upper},
                            {{1, 2, 2, 130, 130, 64, 64}, bf16, add, all},
                            {{1, 2, 2, 130, 129, 128, 128}, f16, add, all},
                            {{1, 1, 1, 70, 131, 256, 256}, bf16, add, lower},
                            {{2, 8, 2, 1, 300, 64, 64}, f16, none, all},
                            {{1, 8, 2, 3, 700, 128, 128}, bf16, none, lower},
                            {{1, 4, 1, 5, 129, 256, 256}, f16, none, all},
                            {{1, 8, 2, 1, 300, 128, 128}, f16, boolean, all},
                            {{1, 8, 2, 2, 300, 64, 64}, bf16, add, lower},
                            {{1, 2, 2, 129, 129, 64, 64}, f32, none, all},
                            {{1, 2, 1, 130, 70, 128, 128}, f32, none, upper},
                            {{1, 1, 1, 66, 66, 256, 256}, f32, none, all},
                            {{1, 2, 2, 70, 90, 33, 47}, f32, boolean, all},
                            {{1, 2, 2, 70, 90, 64, 64}, f32, add, lower},
                            {{2, 2, 2, 40, 0, 64, 64}, f16, none, all},
                            {{1, 2, 1, 515, 130, 64, 64}, f16, none, upper},
                            {{1, 1, 1, 514, 70, 128, 128}, bf16, boolean, all},
                            {{1, 1, 1, 513, 70, 128, 128}, f16, add, all},
                            {{1, 1, 1, 513, 70, 72, 40}, f32, none, lower},
                            {{1, 1, 1, 513, 66, 256, 256}, bf16, none, all},
                            {{1, 1, 1, 513, 66, 64, 64}, f32, add, all}};
    static_assert(std::size(shapes) == 36);
    expect_right_shapes(shapes);
}

// Masks of their own for each head, whose rows the copy engine can walk.
TEST_CASE("sanitizer: dense masks") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16;
    const MaskKind boolean = MaskKind::boolean, add = MaskKind::additive;
    //                B  Hq H  L    S    E    Ev
    const Shape shapes[] = {{{1, 2, 2, 300, 272, 40, 40}, bf16, boolean, Causal::none},
                            {{1, 2, 1, 300, 272, 40, 40}, bf16, add, Causal::lower_right},
                            {{2, 1, 1, 140, 400, 72, 40}, f16, boolean, Causal::upper_left},
                            {{1, 2, 2, 140, 400, 72, 128}, f16, add, Causal::none}};
    expect_right_shapes(shapes);
}

// Where the copy engine feeds short queries: parts merged by a second kernel; two tiles of query
// rows; parts merged by the block that computed them, two and one of a head; two heads of a block,
// and tiles of a head; two teams whose results a second kernel merges.
TEST_CASE("sanitizer: short queries") {
    const DType f16 = DType::float16, bf16 = DType::bfloat16;
    //                B   Hq  H  L  S    E    Ev
    const Shape shapes[] = {{{1, 8, 2, 1, 700, 128, 128}, bf16, MaskKind::none, Causal::none},
                            {{1, 34, 2, 1, 600, 128, 96}, f16, MaskKind::none, Causal::none},
                            {{27, 4, 4, 1, 530, 128, 128}, bf16, MaskKind::none, Causal::none},
                            {{2, 4, 2, 3, 512, 128, 40}, f16, MaskKind::none, Causal::none},
                            {{1, 4, 2, 1, 700, 72, 128}, f16, MaskKind::none, Causal::lower_right},
                            {{33, 16, 8, 2, 520, 64, 48}, bf16, MaskKind::none, Causal::none},
                            {{44, 34, 1, 1, 600, 40, 64}, f16, MaskKind::none, Causal::none},
                            {{1, 60, 60, 1, 1900, 64, 64}, bf16, MaskKind::none, Causal::none}};
    expect_right_shapes(shapes);
}
