"""What the drop-in does not compute goes to torch's own function, once, and is counted."""

from __future__ import annotations

import attention_ladder as al
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the drop-in is not tested")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

attend = al.scaled_dot_product_attention
torchs_own = torch._C._nn.scaled_dot_product_attention
Q = (2, 4, 5, 8)


pytestmark = pytest.mark.usefixtures("tensors_on_device")


def tensors(*shapes):
    return [torch.randn(s) for s in shapes]


def call_with_gradient():
    q, k, v = tensors(Q, Q, Q)
    v.requires_grad_()
    attend(q, k, v).sum().backward()
    assert v.grad is not None


def call_with_mask_gradient():
    q, k, v = tensors(Q, Q, Q)
    mask = torch.zeros(5, 5, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):  # torch 2.11's CUDA kernel cannot: "LSE is not aligned"
        attend(q, k, v, mask).sum().backward()
    assert mask.grad is not None


def call_with_dropout():
    q, k, v = tensors(Q, Q, Q)
    torch.manual_seed(1)
    got = attend(q, k, v, dropout_p=0.5)
    torch.manual_seed(1)
    assert torch.equal(got, torchs_own(q, k, v, dropout_p=0.5))


def call_with_meta():
    q = torch.empty(Q, device="meta")
    assert attend(q, q, q).device.type == "meta"


def call_with_fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(Q)
        assert attend(q, q, q).shape == Q


def call_with_nested():
    a = torch.nested.nested_tensor(
        [torch.randn(3, 4, 8), torch.randn(5, 4, 8)], layout=torch.jagged
    ).transpose(1, 2)
    assert attend(a, a, a).is_nested


def call_with_strided_nested():
    a = torch.nested.nested_tensor([torch.randn(4, 3, 8), torch.randn(4, 5, 8)])
    assert attend(a, a, a).is_nested


def call_with_sparse():
    q = torch.randn(Q)
    with pytest.raises((RuntimeError, NotImplementedError)):  # torch's own refusal
        attend(q.to_sparse(), q, q)


def call_with_vmap():
    q = torch.randn(3, *Q)
    torch.testing.assert_close(torch.vmap(attend)(q, q, q), torchs_own(q, q, q))


def call_with_forward_gradient():
    q, k, v = tensors(Q, Q, Q)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused CPU kernel has no forward derivative
        _, tangent = torch.func.jvp(lambda x: attend(x, k, v), (q,), (torch.ones_like(q),))
    assert tangent.shape == q.shape


def call_with_forward_ad():
    q, k, v = tensors(Q, Q, Q)
    with torch.autograd.forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        out = attend(dual, k, v)
        assert torch.autograd.forward_ad.unpack_dual(out).tangent is not None


def call_while_tracing():
    q, k, v = tensors(Q, Q, Q)
    traced = torch.jit.trace(lambda a, b, c: attend(a, b, c), (q, k, v), check_trace=False)
    q2 = torch.randn(Q)
    torch.testing.assert_close(traced(q2, k, v), torchs_own(q2, k, v))


def call_with_integers():
    q = torch.ones(Q, dtype=torch.int32)
    with pytest.raises(RuntimeError):
        attend(q, q, q)


def call_with_rank_nine():
    q = torch.randn((1,) * 7 + (3, 8))
    torch.testing.assert_close(attend(q, q, q), torchs_own(q, q, q))


REASONS = {
    "gradient": call_with_gradient,
    "gradient ": call_with_mask_gradient,
    "dropout": call_with_dropout,
    "meta": call_with_meta,
    "subclass": call_with_fake,
    "nested": call_with_nested,
    "nested ": call_with_strided_nested,
    "sparse": call_with_sparse,
    "functorch": call_with_vmap,
    "functorch ": call_with_forward_gradient,
    "forward gradient": call_with_forward_ad,
    "tracing": call_while_tracing,
    "dtype": call_with_integers,
    "rank": call_with_rank_nine,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reason", REASONS)
def test_what_is_not_ours_goes_to_torch_and_is_counted(reason):
    REASONS[reason]()
    counts = al.stats()
    assert counts.torch == {reason.strip(): 1}, counts
    assert counts.ran == {}
    assert reason.strip() in str(counts)


def test_a_tier_demanded_in_the_call_is_never_replaced_by_torch():
    q, k, v = tensors(Q, Q, Q)
    q.requires_grad_()
    for demand in (
        {"tier": "literal"},
        {"return_logsumexp": True},
        {"out": torch.empty(Q)},
        {"threads": 1},
    ):
        with pytest.raises(al.Unsupported, match="gradient"):
            attend(q, k, v, **demand)
    with pytest.raises(al.Unsupported, match="dropout"):
        attend(k, k, v, dropout_p=0.5, tier="literal")
    assert al.stats().torch == {}


def test_parameters_are_taken_when_no_gradient_is_wanted():
    q = torch.nn.Parameter(torch.randn(Q))
    with torch.no_grad():
        torch.testing.assert_close(attend(q, q, q), torchs_own(q, q, q))
    with torch.inference_mode():
        a = torch.randn(Q)
        torch.testing.assert_close(attend(a, q, q), torchs_own(a, q, q))
    assert al.stats().ran == {"auto": 2}
