"""The drop-in for `torch.nn.functional.scaled_dot_product_attention`. Imported with torch only.

A call is either computed here, or handed to torch's own function and counted under one word that
says why. Nothing is computed from half of the arguments, and nothing raises that torch would take.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.attention.bias import CausalBias, CausalVariant

from . import _core, _shapes, _state
from ._errors import BadDevice, BadDtype, BadOption, BadShape, Unavailable, Unsupported

torchs_own = torch._C._nn.scaled_dot_product_attention
"""torch's function itself, also while `torch.nn.functional`'s name for it is replaced."""

TAKEN_DTYPES = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
MAX_RANK = 8
PLAIN_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter, torch.nn.Buffer))


class Rules(NamedTuple):
    """The arguments besides the tensors."""

    is_causal: bool
    scale: float | None
    enable_gqa: bool
    causal: str | None
    tier: str
    max_relative_error: float | None
    threads: int | None
    stream: int | None


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Any,
    dropout_p: float,
    rules: Rules,
    out: torch.Tensor | None,
    return_logsumexp: bool,
) -> Any:
    """As the public function, for torch tensors."""
    if isinstance(attn_mask, CausalBias):
        attn_mask, rules = _without_causal_bias(attn_mask, query, key, rules)
    reason = why_torch(query, key, value, attn_mask, dropout_p)
    if reason:
        return _hand_over(
            reason, query, key, value, attn_mask, dropout_p, rules, out, return_logsumexp
        )
    query, key, value, attn_mask = _autocast(query, key, value, attn_mask)
    check(query, key, value, attn_mask)
    causal = _shapes.causal_code(rules.is_causal, rules.causal, attn_mask is not None)
    if out is None and (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0):
        # Something watches torch's operators (a compiler, a tracer, a counter): show it one.
        from . import _torch_op

        result = _torch_op.forward(
            query,
            key,
            value,
            attn_mask,
            causal,
            rules.scale,
            rules.enable_gqa,
            rules.tier,
            rules.max_relative_error,
        )
        return result if return_logsumexp else result[0]
    try:
        return run(query, key, value, attn_mask, causal, rules, out, return_logsumexp)
    except (Unsupported, Unavailable) as error:
        if _demanded(rules, out, return_logsumexp) or rules.causal is not None:
            raise
        return _hand_over(
            type(error).__name__.lower(),
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            rules,
            out,
            return_logsumexp,
        )


# ---- here, or torch's own function ---------------------------------------------------------------


def why_torch(query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float) -> str:
    """One word for why the call belongs to torch's own function; empty when it is ours."""
    if dropout_p != 0.0:
        return "dropout"
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if type(tensor) not in PLAIN_TENSORS:
            if not isinstance(tensor, torch.Tensor):
                return "not a tensor"
            if tensor.is_nested:
                return "nested"
            if not torch.compiler.is_compiling():
                return "subclass"  # fake tensors, distributed tensors, ...
        if tensor.is_nested:
            return "nested"
        if tensor.layout is not torch.strided:
            return "sparse"
        if tensor.device.type not in ("cpu", "cuda"):
            return str(tensor.device.type)  # "meta", "mps", "xpu", ...
        if grad and tensor.requires_grad:
            return "gradient"
    if query.dtype not in TAKEN_DTYPES:
        return "dtype"
    if max(query.dim(), key.dim(), value.dim()) > MAX_RANK:
        return "rank"
    if torch.compiler.is_compiling():
        return ""
    if torch._C._is_tracing():
        return "tracing"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "functorch"  # vmap, jvp, ...: their tensors have no memory of their own
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward gradient"
    return ""


def _hand_over(
    reason: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: float,
    rules: Rules,
    out: Any,
    return_logsumexp: bool,
) -> Any:
    if _demanded(rules, out, return_logsumexp):
        raise Unsupported(
            f"this call is for torch's own function ({reason}), which has no tier=, out=, threads=, "
            "stream= or return_logsumexp=; leave them out, or use attention(tier=...) around it"
        )
    if not torch.compiler.is_compiling():
        _state.count_torch(reason)
    is_causal = rules.is_causal
    if rules.causal == "upper_left" and attn_mask is None:
        is_causal = True
    elif rules.causal is not None:
        if attn_mask is not None:
            raise Unsupported(f"torch's own function ({reason}) takes no mask beside causal=")
        L, S = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(L, S, dtype=torch.bool, device=query.device).tril(S - L)
    return torchs_own(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale=rules.scale,
        enable_gqa=rules.enable_gqa,
    )


def _demanded(rules: Rules, out: Any, return_logsumexp: bool) -> bool:
    """The call itself asks for what torch's own function does not have."""
    return (
        rules.tier != "auto"
        or out is not None
        or return_logsumexp
        or rules.threads is not None
        or rules.stream is not None
    )


# ---- the arguments -------------------------------------------------------------------------------


def _without_causal_bias(
    bias: CausalBias, query: torch.Tensor, key: torch.Tensor, rules: Rules
) -> tuple[None, Rules]:
    """torch's CausalBias is a tensor without usable memory: it becomes a causal rule."""
    if rules.is_causal or rules.causal is not None:
        raise BadOption("CausalBias should not be used with causal=True")
    if bias.variant == CausalVariant.UPPER_LEFT:
        return None, rules._replace(causal="upper_left")
    sizes, wanted = (query.shape[-2], key.shape[-2]), (bias.seq_len_q, bias.seq_len_kv)
    if sizes != wanted:
        raise BadShape(
            f"attn_mask is a CausalBias for L, S = {wanted}, but the tensors have {sizes}"
        )
    return None, rules._replace(causal="lower_right")


def _autocast(*tensors: torch.Tensor | None) -> Any:
    """Inside torch.autocast, torch casts this function's inputs to the lower precision."""
    assert tensors[0] is not None
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    eligible = (torch.float32, torch.float16, torch.bfloat16)
    return [t if t is None or t.dtype not in eligible else t.to(dtype) for t in tensors]


def check(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None
) -> None:
    """torch's own checks, with torch's words; the C++ library makes the rest."""
    if not query.dtype == key.dtype == value.dtype:
        raise BadDtype(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{query.dtype} key.dtype: {key.dtype} and value.dtype: {value.dtype} instead."
        )
    if not query.device == key.device == value.device:
        raise BadDevice(
            "Expected query, key, and value to have the same device type, but got query.device: "
            f"{query.device} key.device: {key.device} and value.device: {value.device} instead."
        )
    if attn_mask is None:
        return
    if attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise BadDtype(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {attn_mask.dtype} and  query.dtype: {query.dtype} instead."
        )
    if attn_mask.device != query.device:
        raise BadDevice(f"attn_mask is on {attn_mask.device} but query is on {query.device}")


def expand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, enable_gqa: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Broadcasts batch axes and heads; copies only when key and value differ in heads."""
    plan = _shapes.plan(tuple(query.shape), tuple(key.shape), tuple(value.shape), enable_gqa)
    if plan.repeat_key > 1:
        key = key.repeat_interleave(plan.repeat_key, -3)
    if plan.repeat_value > 1:
        value = value.repeat_interleave(plan.repeat_value, -3)
    if query.shape != plan.query:
        query = query.expand(plan.query)
    if key.shape != plan.key:
        key = key.expand(plan.key)
    if value.shape != plan.value:
        value = value.expand(plan.value)
    return query, key, value


def empty_out(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Memory for the result: in query's layout where the shapes agree, so that the usual
    ``out.transpose(1, 2).reshape(B, L, -1)`` after it is free."""
    if query.shape[-1] == value.shape[-1]:
        return torch.empty_like(query)
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def empty_logsumexp(query: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty(query.shape[:-1], dtype=dtype, device=query.device)


# ---- the call ------------------------------------------------------------------------------------


def arguments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    attn_mask: torch.Tensor | None,
    logsumexp: torch.Tensor | None,
    causal: int,
    rules: Rules,
) -> tuple[Any, ...]:
    """The arguments of `_core.run`. Tensors go as DLPack capsules, which, unlike
    `Tensor.__dlpack__`, neither refuse parameters nor touch any stream."""
    on_gpu = query.device.type == "cuda"
    stream = torch.cuda.current_stream(query.device).cuda_stream if on_gpu else 0
    threads = torch.get_num_threads() if rules.threads is None else rules.threads
    return (
        _capsule(query),
        _capsule(key),
        _capsule(value),
        _capsule(out),
        None if attn_mask is None else _capsule(attn_mask),
        None if logsumexp is None else _capsule(logsumexp),
        causal,
        None if rules.scale is None else float(rules.scale),
        _state.tier_of(rules.tier),
        stream,
        threads,
        False,
        _state.error_of(rules.max_relative_error),
    )


def _stream(address: int, device: torch.device) -> torch.cuda.Stream:
    if address == 0:  # which ExternalStream takes for a wish for a new one
        return torch.cuda.default_stream(device)
    external: Any = torch.cuda.ExternalStream  # torch gives it no types
    stream: torch.cuda.Stream = external(address, device=device)
    return stream


def _capsule(tensor: torch.Tensor) -> Any:
    if tensor.is_neg():  # a lazy minus sign, which DLPack does not carry
        tensor = tensor.resolve_neg()
    return torch._C._to_dlpack(tensor)


def run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    causal: int,
    rules: Rules,
    out: torch.Tensor | None,
    return_logsumexp: bool,
) -> Any:
    """Computes, on the tensors' device and torch's current stream."""
    if rules.stream is not None and query.device.type == "cuda":
        # Copies of inputs and memory for the result are in that stream's order as well.
        with torch.cuda.stream(_stream(rules.stream, query.device)):
            rules = rules._replace(stream=None)
            return run(query, key, value, attn_mask, causal, rules, out, return_logsumexp)
    query, key, value = expand(query, key, value, rules.enable_gqa)
    if out is None:
        out = empty_out(query, value)
    elif not isinstance(out, torch.Tensor):
        raise BadDtype(f"out is a {type(out).__name__}, but query is a torch tensor")
    elif torch.is_grad_enabled() and out.requires_grad:
        raise BadOption("out requires a gradient, which a call with out= does not give")
    logsumexp = empty_logsumexp(query) if return_logsumexp else None
    call = arguments(query, key, value, out, attn_mask, logsumexp, causal, rules)
    if query.device.type == "cuda":
        with torch.cuda.device(query.device):
            _core.run(*call)
    else:
        _core.run(*call)
    _state.count_run(call[8])
    return out if logsumexp is None else (out, logsumexp)


def explained(
    query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float, rules: Rules
) -> tuple[Any, ...]:
    """The arguments of `_core.explain` for a call with torch tensors."""
    if isinstance(attn_mask, CausalBias):
        attn_mask, rules = _without_causal_bias(attn_mask, query, key, rules)
    reason = why_torch(query, key, value, attn_mask, dropout_p)
    if reason:
        raise Unsupported(f"this call would be handed to torch's own function: {reason}")
    query, key, value, attn_mask = _autocast(query, key, value, attn_mask)
    check(query, key, value, attn_mask)
    causal = _shapes.causal_code(rules.is_causal, rules.causal, attn_mask is not None)
    query, key, value = expand(query, key, value, rules.enable_gqa)
    return arguments(query, key, value, empty_out(query, value), attn_mask, None, causal, rules)
