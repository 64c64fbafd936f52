"""torch.compile, export and tracers: the registered operator stands in the graph."""

from __future__ import annotations

import attention_ladder as al
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the operator is not tested")

from attention_ladder import _torch_op  # noqa: E402

F = torch.nn.functional
attend = al.scaled_dot_product_attention
torchs_own = torch._C._nn.scaled_dot_product_attention
Q = (2, 4, 5, 8)


pytestmark = pytest.mark.usefixtures("tensors_on_device")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


def operators(graph_module):
    return [str(n.target) for n in graph_module.graph.nodes if n.op == "call_function"]


SAMPLES = {
    "plain": ([Q, Q, Q], None, 0, None, False),
    "Ev": ([Q, Q, (2, 4, 5, 6)], None, 0, 0.3, False),
    "causal": ([Q, Q, Q], None, 1, None, False),
    "lower right": ([(2, 4, 3, 8), Q, Q], None, 2, None, False),
    "mask": ([Q, Q, Q], (5, 5), 0, None, False),
    "gqa": ([Q, (2, 2, 5, 8), (2, 2, 5, 8)], None, 0, None, True),
    "unequal gqa": ([Q, (2, 2, 5, 8), (2, 1, 5, 8)], None, 0, None, True),
    "broadcast": ([(4, 5, 8), (2, 1, 5, 8), (1, 1, 5, 8)], None, 0, None, False),
    "rank 2": ([(5, 8), (5, 8), (5, 8)], None, 0, None, False),
    "no rows": ([(2, 4, 0, 8), Q, Q], None, 0, None, False),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_opcheck(name, layout):
    shapes, mask, causal, scale, gqa = SAMPLES[name]
    q, k, v = (torch.randn(s) for s in shapes)
    if layout == "transposed":
        q, k, v = (t.transpose(-2, -1).contiguous().transpose(-2, -1) for t in (q, k, v))
    mask = None if mask is None else torch.randn(mask)
    arguments = (q, k, v, mask, causal, scale, gqa, "auto")
    torch.library.opcheck(_torch_op.forward, arguments)


def compile_counting(f, **options):
    """(the compiled function, the operators of every graph that was compiled)"""
    seen = []

    def backend(graph_module, inputs):
        seen.append(operators(graph_module))
        return graph_module.forward

    return torch.compile(f, backend=backend, fullgraph=True, **options), seen


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.5}, {"enable_gqa": True}])
def test_a_compiled_call_is_one_operator_in_one_graph(options, monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    heads = 2 if options.get("enable_gqa") else 4
    q, k, v = torch.randn(Q), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 8)
    compiled, seen = compile_counting(
        lambda a, b, c: F.scaled_dot_product_attention(a * 2, b, c, **options) + 1
    )
    torch.testing.assert_close(compiled(q, k, v), torchs_own(q * 2, k, v, **options) + 1)
    assert len(seen) == 1 and any("attention_ladder" in o for o in seen[0]), seen
    assert al.stats().ran == {"auto": 1}


def test_a_compiled_call_with_a_mask_and_other_shapes():
    compiled, seen = compile_counting(lambda q, m: attend(q, q, q, m), dynamic=True)
    for L in (5, 6, 9):
        q, mask = torch.randn(2, 4, L, 8), torch.rand(L, L) < 0.7
        torch.testing.assert_close(compiled(q, mask), torchs_own(q, q, q, mask))
    assert len(seen) == 1, "one graph serves all lengths"


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torchs_compilers_take_it(backend):
    q, k, v = (torch.randn(2, 5, 4, 8).transpose(1, 2) for _ in range(3))

    def f(q, k, v):
        return attend(q.relu(), k, v, is_causal=True).transpose(1, 2).reshape(2, 5, 32) * 2

    want = torchs_own(q.relu(), k, v, is_causal=True).transpose(1, 2).reshape(2, 5, 32) * 2
    torch.testing.assert_close(torch.compile(f, backend=backend, fullgraph=True)(q, k, v), want)
    assert al.stats().ran == {"auto": 1}


def test_a_compiled_graph_follows_the_block_it_runs_in(device):
    compiled, seen = compile_counting(lambda q: attend(q, q, q))
    q = torch.randn(Q)
    compiled(q)
    tiers = {"cpu": ("literal", "online"), "cuda": ("cuda_simple", "cuda_fused")}[device]
    for tier in tiers:
        with al.attention(tier=tier):
            compiled(q)
    assert al.stats().ran == {"auto": 1, tiers[0]: 1, tiers[1]: 1}


def test_a_compiled_call_with_gradients_is_torchs():
    q = torch.randn(Q, requires_grad=True)
    compiled = torch.compile(lambda q: attend(q, q, q).sum(), backend="aot_eager", fullgraph=True)
    compiled(q).backward()
    got, q.grad = q.grad, None
    torchs_own(q, q, q).sum().backward()
    torch.testing.assert_close(got, q.grad)
    assert al.stats().ran == {}


def test_an_exported_program_holds_the_operator():
    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v, is_causal=True)

    q, k, v = torch.randn(Q), torch.randn(Q), torch.randn(Q)
    with torch.no_grad():
        program = torch.export.export(Layer(), (q, k, v))
    assert any("attention_ladder" in o for o in operators(program.graph_module))
    torch.testing.assert_close(program.module()(q, k, v), torchs_own(q, k, v, is_causal=True))


def test_a_tracer_of_operators_sees_it():
    from torch.fx.experimental.proxy_tensor import make_fx

    q = torch.randn(Q)
    graph = make_fx(lambda q: attend(q, q, q))(q)
    assert any("attention_ladder" in o for o in operators(graph))
    other = torch.randn(Q)
    torch.testing.assert_close(graph(other), torchs_own(other, other, other))
