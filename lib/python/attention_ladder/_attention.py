"""The public functions: attention itself, and the questions one can ask about a call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, overload

from . import _arrays, _core, _state
from ._errors import BadOption, Unavailable, Unsupported
from ._tiers import Candidate, Explanation, find_tier, tiers

Array = TypeVar("Array")
Causal = Literal["upper_left", "lower_right"]


@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tier: str = "auto",
    max_relative_error: float | None = None,
    return_logsumexp: Literal[False] = False,
    out: Array | None = None,
    causal: Causal | None = None,
    threads: int | None = None,
    stream: int | None = None,
) -> Array: ...
@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tier: str = "auto",
    max_relative_error: float | None = None,
    return_logsumexp: Literal[True],
    out: Array | None = None,
    causal: Causal | None = None,
    threads: int | None = None,
    stream: int | None = None,
) -> tuple[Array, Array]: ...
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tier: str = "auto",
    max_relative_error: float | None = None,
    return_logsumexp: bool = False,
    out: Any = None,
    causal: Causal | None = None,
    threads: int | None = None,
    stream: int | None = None,
) -> Any:
    """Scaled dot-product attention: each query row becomes a weighted mean of value rows.

    The signature is `torch.nn.functional.scaled_dot_product_attention`'s; what follows the star is
    ours. Arrays may be numpy's, torch's, or any with `__dlpack__`; they are used where they are,
    with any strides, without a copy. float64, float32, float16 or bfloat16, the same in all.

    :param query: (..., Hq, L, E)
    :param key: (..., H, S, E). Batch axes broadcast as in matmul.
    :param value: (..., H, S, Ev)
    :param attn_mask: bool (True = attend) or additive (float32 or query's dtype), broadcast to
        (..., Hq, L, S). A key that it removes contributes nothing, whatever it holds. A row that may
        see no key gives 0. torch's `CausalBias` is understood.
    :param dropout_p: other than 0 goes to torch's own function (torch tensors), or is refused.
    :param is_causal: query i sees keys j <= i. Not together with `attn_mask`.
    :param scale: multiplies the scores; default 1/sqrt(E). May be 0 or negative.
    :param enable_gqa: grouped heads: Hq a multiple of H, query head h reads key head h // (Hq // H).
    :param tier: a name from `tiers()`, or "auto": that of the surrounding `attention(tier=...)`,
        else the fastest by measured speeds.
    :param max_relative_error: the relative L2 error of a head, |out - exact| / |exact|, that a tier
        which rounds to 8 bits may make; heads beyond it are computed in floating point. Measured on
        a sample of rows. 0: no limit, and "auto" takes no such tier. None: that of the surrounding
        `attention(max_relative_error=...)`, else 0.
    :param return_logsumexp: also return the natural logarithm of the sum of exp(score), (..., Hq, L),
        in float32 (float64 for float64 inputs); -inf for a row that may see no key.
    :param out: where to write the result, (..., Hq, L, Ev); may not overlap an input.
    :param causal: "upper_left" (as `is_causal`) or "lower_right" (j <= i + S - L, for a key cache);
        applied together with `attn_mask` when both are given.
    :param threads: that a CPU tier may use. None: torch's number for torch tensors, else OpenMP's.
    :param stream: a CUDA stream's address. None: the current one of torch or CuPy, whichever holds the
        result, else 0.
    :returns: the result, an array of query's kind and dtype; with `return_logsumexp`, a pair.
    :raises Error: (a RuntimeError) before anything is written, with the values at fault.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        from . import _torch

        rules = _torch.Rules(
            is_causal, scale, enable_gqa, causal, tier, max_relative_error, threads, stream
        )
        return _torch.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, rules, out, return_logsumexp
        )
    if dropout_p != 0.0:
        raise Unsupported(f"dropout_p is {dropout_p}, but only torch tensors are handed to torch")
    tier = _state.tier_of(tier)
    call = _arrays.prepare(
        query,
        key,
        value,
        attn_mask,
        is_causal,
        scale,
        enable_gqa,
        tier,
        out,
        return_logsumexp,
        causal,
        threads or 0,
        stream,
        _state.error_of(max_relative_error),
    )
    _core.run(*call.arguments)
    _state.count_run(tier)
    return call.result()


def explain(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tier: str = "auto",
    max_relative_error: float | None = None,
    causal: Causal | None = None,
    threads: int | None = None,
) -> Explanation:
    """Which tier the same call of `scaled_dot_product_attention` would take, and why not another.

    Nothing is computed. A call that would be handed to torch's own function has no tier: that is
    raised as `Unsupported`, with the reason.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        from . import _torch

        rules = _torch.Rules(
            is_causal, scale, enable_gqa, causal, tier, max_relative_error, threads, None
        )
        arguments = _torch.explained(query, key, value, attn_mask, dropout_p, rules)
    else:
        if dropout_p != 0.0:
            raise Unsupported(f"dropout_p is {dropout_p}, but no tier has dropout")
        tier = _state.tier_of(tier)
        arguments = _arrays.prepare(
            query,
            key,
            value,
            attn_mask,
            is_causal,
            scale,
            enable_gqa,
            tier,
            None,
            False,
            causal,
            threads or 0,
            0,
            _state.error_of(max_relative_error),
        ).arguments
    name, candidates = _core.explain(*arguments)
    return Explanation(name, tuple(Candidate(*c) for c in candidates))


@contextlib.contextmanager
def attention(tier: str = "auto", *, max_relative_error: float = 0.0) -> Iterator[None]:
    """Inside the block, torch's `scaled_dot_product_attention` is computed here, by `tier`.

    Covers code that holds its own reference to torch's function, and makes `tier` the default of
    `attention_ladder`'s own, and so for `max_relative_error`. What cannot be computed here (see `stats()`) goes to torch as always.
    Bound to the current thread. torch is involved only if it has been imported before.

    :raises BadOption: for an unknown tier.
    :raises Unavailable: for a tier that cannot run on this machine.
    """
    if tier != "auto":
        known = find_tier(tier)
        if known is None:
            names = ", ".join(t.name for t in tiers())
            raise BadOption(f"there is no tier '{tier}'; there are auto, {names}")
        if not known.available:
            raise Unavailable(f"{tier} cannot run here: {known.reason}")
    token = _state.chosen_tier.set(tier)
    error_token = _state.chosen_error.set(max_relative_error)
    try:
        with _watch_torch():
            yield
    finally:
        _state.chosen_error.reset(error_token)
        _state.chosen_tier.reset(token)


def _watch_torch() -> contextlib.AbstractContextManager[Any]:
    if "torch" not in sys.modules:
        return contextlib.nullcontext()
    from ._torch_mode import Replace

    return Replace()
