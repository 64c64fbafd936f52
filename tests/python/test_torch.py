"""The drop-in for torch: the same calls, the same answers, the same errors, and counted hand-overs."""

from __future__ import annotations

import inspect

import attention_ladder as al
import numpy as np
import pytest
from harness import needs, weight_error

torch = pytest.importorskip("torch", reason="torch is not installed: the drop-in is not tested")
F = torch.nn.functional

from attention_ladder._judge.reference import judge_out, reference  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.attention.bias import causal_lower_right, causal_upper_left  # noqa: E402

attend = al.scaled_dot_product_attention
torchs_own = torch._C._nn.scaled_dot_product_attention


pytestmark = pytest.mark.usefixtures("tensors_on_device")
TWO_TIERS = {"cpu": ("literal", "online"), "cuda": ("cuda_simple", "cuda_fused")}


@pytest.fixture
def patched(monkeypatch):
    """The seed's line, undone after the test."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", al.scaled_dot_product_attention)


def tensors(*shapes, dtype=torch.float32):
    return [torch.randn(s).to(dtype) for s in shapes]


def wide(t):
    return t.detach().to("cpu", torch.float64).numpy()


# ---- the call ------------------------------------------------------------------------------------


def test_the_signature_is_torchs():
    parameters = inspect.signature(attend).parameters
    torchs = ["query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"]
    assert list(parameters)[:8] == torchs
    defaults = [parameters[p].default for p in torchs[3:]]
    assert defaults == [None, 0.0, False, None, False]


def test_positional_and_keyword_calls_are_one():
    q, k, v = tensors((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8))
    mask = torch.rand(5, 7) < 0.7
    by_position = attend(q, k, v, mask, 0.0, False, 0.3, True)
    by_keyword = attend(enable_gqa=True, scale=0.3, attn_mask=mask, value=v, key=k, query=q)
    assert torch.equal(by_position, by_keyword)
    torch.testing.assert_close(by_position, torchs_own(q, k, v, mask, scale=0.3, enable_gqa=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.0},
        {"scale": -0.5},
        {"attn_mask": "bool"},
        {"attn_mask": "float32"},
        {"attn_mask": "own"},
    ],
)
def test_the_answer_is_within_the_bound(tier, dtype, options):
    needs(tier, str(dtype).removeprefix("torch."))
    q, k, v = tensors((2, 4, 9, 16), (2, 4, 13, 16), (2, 4, 13, 8), dtype=dtype)
    options = dict(options)
    mask = options.get("attn_mask")
    if mask is not None:
        options["attn_mask"] = {
            "bool": torch.rand(4, 9, 13) < 0.6,
            "float32": torch.randn(9, 13),
            "own": torch.randn(2, 1, 9, 13).to(dtype),
        }[mask]
    out = attend(q, k, v, **options, tier=tier)
    assert out.dtype == dtype
    name = str(dtype).removeprefix("torch.")
    given = options.get("attn_mask")
    given = None if given is None else given.cpu().numpy() if given.dtype == torch.bool else wide(given)
    want = reference(
        wide(q),
        wide(k),
        wide(v),
        given,
        "upper_left" if options.get("is_causal") else None,
        options.get("scale"),
        name,
    )
    verdict = judge_out(wide(out), want, weight_error(tier, name))
    assert verdict.ok, verdict


# Batch axes broadcast as in matmul: torch's own samples, and more.
SHAPES = [
    ((4, 3, 8), (4, 4, 6, 8), (4, 4, 6, 8)),
    ((4, 4, 3, 8), (4, 6, 8), (4, 6, 8)),
    ((2, 4, 3, 8), (1, 4, 6, 8), (1, 4, 6, 8)),
    ((1, 4, 3, 8), (2, 4, 6, 8), (2, 4, 6, 8)),
    ((2, 4, 3, 8), (2, 1, 6, 8), (2, 1, 6, 8)),
    ((2, 1, 3, 8), (2, 4, 6, 8), (2, 4, 6, 8)),
    ((2, 4, 3, 8), (2, 1, 6, 8), (2, 4, 6, 8)),
    ((2, 4, 3, 8), (6, 8), (6, 8)),
    ((3, 8), (2, 4, 6, 8), (4, 6, 8)),
    ((2, 1, 4, 3, 8), (5, 4, 6, 8), (2, 5, 1, 6, 8)),
    ((3, 8), (6, 8), (6, 5)),
    ((2, 4, 0, 8), (2, 4, 6, 8), (2, 4, 6, 8)),
    ((2, 4, 3, 8), (2, 4, 0, 8), (2, 4, 0, 8)),
    ((2, 4, 3, 0), (2, 4, 6, 0), (2, 4, 6, 8)),
    ((0, 4, 3, 8), (0, 4, 6, 8), (0, 4, 6, 8)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_batch_axes_broadcast_as_torchs_do(shapes):
    q, k, v = tensors(*shapes)
    with sdpa_kernel(SDPBackend.MATH):
        want = torchs_own(q, k, v)
    got = attend(q, k, v)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want)
    assert al.stats().torch == {}


@pytest.mark.parametrize("heads", [(8, 2, 2), (8, 1, 1), (8, 4, 2), (8, 8, 2), (6, 3, 3)], ids=str)
def test_grouped_heads_are_contiguous_groups(heads):
    Hq, H, Hv = heads
    q, k, v = tensors((2, Hq, 3, 8), (2, H, 6, 8), (2, Hv, 6, 8))
    want = torchs_own(q, k.repeat_interleave(Hq // H, 1), v.repeat_interleave(Hq // Hv, 1))
    torch.testing.assert_close(attend(q, k, v, enable_gqa=True), want)


# ---- errors --------------------------------------------------------------------------------------

Q = (2, 4, 5, 8)
BAD = {
    "rank": ([(8,), Q, Q], {}, "Expected query, key, and value to all be  at least 2 dimensional"),
    "dtypes": (
        [Q, (2, 4, 5, 8, "float64"), Q],
        {},
        "Expected query, key, and value to have the same dtype, but got query.dtype:",
    ),
    "mask dtype": (
        [Q, Q, Q],
        {"attn_mask": torch.ones(5, 5, dtype=torch.int32)},
        "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
        "attn_mask.dtype:",
    ),
    "mask and causal": (
        [Q, Q, Q],
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool), "is_causal": True},
        "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True",
    ),
    "heads": (
        [Q, (2, 2, 5, 8), (2, 2, 5, 8)],
        {},
        "The size of tensor a (4) must match the size of tensor b (2) at non-singleton dimension 1",
    ),
    "gqa": (
        [Q, (2, 3, 5, 8), (2, 3, 5, 8)],
        {"enable_gqa": True},
        "Number of heads in key and value must divide the number of heads in",
    ),
    "S": ([Q, (2, 4, 5, 8), (2, 4, 6, 8)], {}, None),
    "E": ([Q, (2, 4, 5, 7), Q], {}, None),
    "mask shape": ([Q, Q, Q], {"attn_mask": torch.ones(5, 4, dtype=torch.bool)}, None),
    "larger mask": (
        [(1, *Q[1:])] * 3,
        {"attn_mask": torch.ones(2, 4, 5, 5, dtype=torch.bool)},
        None,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_have_torchs_class_and_words(device, name):
    shapes, options, text = BAD[name]
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    q, k, v = (
        torch.randn(s[:4]).to(getattr(torch, s[4] if len(s) > 4 else "float32")) for s in shapes
    )
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(RuntimeError) as torchs:
        torchs_own(q, k, v, **options)
    with pytest.raises(RuntimeError) as ours:
        attend(q, k, v, **options)
    if text is not None:  # torch's own words change with its versions: a start is enough
        assert str(ours.value).startswith(text)
        assert str(torchs.value).startswith(text[:40]), "torch's words have changed"


def test_unknown_keywords_raise_as_torchs_do(patched):
    q, k, v = tensors(Q, Q, Q)
    for keyword in ("sm_scale", "tensor_layout", "mask", "dropout"):
        with pytest.raises(TypeError, match=keyword):
            F.scaled_dot_product_attention(q, k, v, **{keyword: 1})


# ---- CausalBias ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
@pytest.mark.parametrize("L, S", [(5, 5), (3, 7)])
def test_causal_biases_are_understood(make, L, S):
    q, k, v = tensors((2, 4, L, 8), (2, 4, S, 8), (2, 4, S, 8))
    bias = make(L, S)
    visible = torch.ones(L, S, dtype=torch.bool).tril(0 if make is causal_upper_left else S - L)
    torch.testing.assert_close(attend(q, k, v, bias), torchs_own(q, k, v, visible))
    assert al.stats().torch == {}


@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
def test_causal_biases_work_with_torchs_name_replaced_and_with_gradients(patched, make):
    q, k, v = tensors((2, 4, 3, 8), (2, 4, 7, 8), (2, 4, 7, 8))
    q.requires_grad_()
    visible = torch.ones(3, 7, dtype=torch.bool).tril(0 if make is causal_upper_left else 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=make(3, 7))
    torch.testing.assert_close(out, torchs_own(q, k, v, visible))
    assert out.requires_grad and al.stats().torch == {"gradient": 1}


def test_a_causal_bias_of_other_sizes_or_with_is_causal_raises():
    q, k, v = tensors((2, 4, 3, 8), (2, 4, 7, 8), (2, 4, 7, 8))
    with pytest.raises(ValueError, match="CausalBias should not be used with causal=True"):
        attend(q, k, v, causal_lower_right(3, 7), is_causal=True)
    with pytest.raises(al.BadShape, match=r"\(3, 8\), but the tensors have \(3, 7\)"):
        attend(q, k, v, causal_lower_right(3, 8))


# ---- tensors of every kind -----------------------------------------------------------------------


def test_lazy_negatives_and_views_are_read_rightly(tier):
    z = torch.randn(2, 4, 5, 8, dtype=torch.complex64)
    q = z.conj().imag  # a view with a lazy minus sign
    assert q.is_neg()
    k, v = torch.randn(2, 4, 8, 5).mT, torch.randn(2, 5, 4, 8).transpose(1, 2)
    want = torchs_own(q.clone(), k.clone(), v.clone())
    torch.testing.assert_close(attend(q, k, v, tier=tier), want)


def test_out_keeps_querys_layout_so_that_merging_heads_is_free():
    q, k, v = (torch.randn(2, 5, 4, 8).transpose(1, 2) for _ in range(3))
    out = attend(q, k, v)
    assert out.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(out, torchs_own(q, k, v))


def test_out_and_logsumexp(tier):
    q, k, v = tensors(Q, Q, Q)
    out = torch.full((2, 4, 5, 16), torch.nan)
    returned, logsumexp = attend(q, k, v, out=out[..., ::2], return_logsumexp=True, tier=tier)
    assert (
        torch.equal(returned, attend(q, k, v, tier=tier)) and out.isnan().sum() == out.numel() / 2
    )
    scores = q @ k.mT / 8**0.5
    torch.testing.assert_close(logsumexp, scores.logsumexp(-1))
    with pytest.raises(al.BadDtype, match="out is a ndarray"):
        attend(q, k, v, out=np.empty(Q, np.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_torch_does(patched, device, dtype):
    q, k, v = tensors(Q, Q, Q)
    k = k.to(dtype)
    with torch.autocast(device, dtype=dtype):
        want, got = torchs_own(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert got.dtype == want.dtype == dtype
    torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)
    assert al.stats().ran == {"auto": 1}


def test_device_mismatch_is_named():
    from attention_ladder import _torch

    class Fake:
        def __init__(self, device):
            self.dtype, self.device = torch.float32, torch.device(device)

    with pytest.raises(RuntimeError, match="same device type, but got query.device: cuda:0"):
        _torch.check(Fake("cuda:0"), Fake("cpu"), Fake("cpu"), None)
    with pytest.raises(RuntimeError, match="attn_mask is on cpu but query is on cuda:1"):
        _torch.check(*[Fake("cuda:1")] * 3, Fake("cpu"))


# ---- in place of torch's -------------------------------------------------------------------------


def test_the_seeds_three_lines(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", F.scaled_dot_product_attention)
    import attention_ladder as al
    import torch.nn.functional as F_

    F_.scaled_dot_product_attention = al.scaled_dot_product_attention
    query = torch.rand(4, 8, 128, 128)
    got = F_.scaled_dot_product_attention(query, query, query)
    torch.testing.assert_close(got, torchs_own(query, query, query))
    assert al.stats().ran == {"auto": 1}


@pytest.mark.parametrize("causal", [False, True])
def test_modules_of_torch_use_it(patched, causal):
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.randn(2, 6, 32)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(6) if causal else None
    want = layer(x, x, x, attn_mask=mask, is_causal=causal, need_weights=False)[0]
    assert al.stats().torch == {"gradient": 1} and al.stats().ran == {}
    with torch.no_grad():
        got = layer(x, x, x, attn_mask=mask, is_causal=causal, need_weights=False)[0]
    assert al.stats().ran == {"auto": 1}
    torch.testing.assert_close(got, want)


def test_the_context_manager_covers_references_taken_before(tier):
    taken_before = F.scaled_dot_product_attention
    q, k, v = tensors(Q, Q, Q)
    want = taken_before(q, k, v)
    with al.attention(tier=tier):
        got = taken_before(q, k, v)
        also = F.scaled_dot_product_attention(query=q, key=k, value=v)
    assert al.stats().ran == {tier: 2}
    assert torch.equal(got, attend(q, k, v, tier=tier)) and torch.equal(got, also)
    torch.testing.assert_close(got, want)
    al.reset_stats()
    taken_before(q, k, v)
    assert al.stats().ran == {}, "the block has ended"


def test_the_context_manager_nests_and_ends_with_an_exception(device):
    q, k, v = tensors(Q, Q, Q)
    outer, inner = TWO_TIERS[device]
    with pytest.raises(KeyError), al.attention(tier=outer):
        with al.attention(tier=inner):
            torchs_own(q, k, v)
        torchs_own(q, k, v)
        raise KeyError
    torchs_own(q, k, v)
    attend(q, k, v)
    assert al.stats().ran == {inner: 1, outer: 1, "auto": 1}


def test_the_context_manager_hands_gradients_to_torch_once():
    q, k, v = tensors(Q, Q, Q)
    q.requires_grad_()
    with al.attention(tier="literal"):
        torchs_own(q, k, v).sum().backward()
    assert q.grad is not None
    assert al.stats().torch == {"gradient": 1} and al.stats().ran == {}


def test_the_context_manager_refuses_what_cannot_run():
    with pytest.raises(al.BadOption, match="no tier 'none'; there are auto, literal"):
        with al.attention(tier="none"):
            pass
    unavailable = [t for t in al.tiers() if not t.available]
    for t in unavailable:
        with pytest.raises(al.Unavailable, match=t.name):
            with al.attention(tier=t.name):
                pass


def test_explain_names_the_tier_that_runs(device):
    q, k, v = tensors(Q, Q, Q)
    explanation = al.explain(q, k, v, is_causal=True)
    here = {"cpu": "cpu", "cuda": "gpu"}[device]
    assert explanation.tier in [t.name for t in al.tiers() if t.available and t.device == here]
    assert [c.tier for c in explanation.candidates] == [t.name for t in al.tiers()]
    named = TWO_TIERS[device][0]
    assert al.explain(q, k, v, tier=named).tier == named
    assert f"* {explanation.tier}" in str(explanation)
    with pytest.raises(al.Unsupported, match="gradient"):
        al.explain(q.requires_grad_(), k, v)
    assert al.stats().ran == {}
