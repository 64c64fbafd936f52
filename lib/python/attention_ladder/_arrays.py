"""Calls with arrays that are not torch's: numpy, and whatever speaks DLPack (CuPy, JAX, ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _shapes
from ._errors import BadDtype, Unsupported

DLPACK_HOST = (1, 3)  # kDLCPU and kDLCUDAHost


class Prepared(NamedTuple):
    """A call that is ready for the C++ library."""

    arguments: tuple[Any, ...]
    """Of `_core.run`, `_core.explain` and `_core.scratch_bytes`."""
    result: Callable[[], Any]
    """What the user gets once `_core.run` has filled the buffers."""


def prepare(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    tier: str,
    out: Any,
    return_logsumexp: bool,
    causal: str | None,
    threads: int,
    stream: int,
    max_relative_error: float,
) -> Prepared:
    """Expands the inputs by torch's rules, without copying, and allocates what is written."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        _require_array(name, array)
    code = _shapes.causal_code(is_causal, causal, attn_mask is not None)
    plan = _shapes.plan(tuple(query.shape), tuple(key.shape), tuple(value.shape), enable_gqa)

    dtype = _dtype_name(query)
    filled = _Buffer(query, plan.out, dtype) if out is None else None
    rows = None
    if return_logsumexp:
        rows = _Buffer(query, plan.query[:-1], "float64" if dtype == "float64" else "float32")

    given = {
        "query": _expand(query, plan.query, 1),
        "key": _expand(key, plan.key, plan.repeat_key),
        "value": _expand(value, plan.value, plan.repeat_value),
        "attn_mask": attn_mask,
        "out": out,
    }
    bits = {name: _bits(name, array) for name, array in given.items()}
    if filled is not None:
        bits["out"] = (filled.memory, filled.is_bits)
    arguments = (
        *(bits[name][0] for name in ("query", "key", "value", "out", "attn_mask")),
        None if rows is None else rows.memory,
        code,
        None if scale is None else float(scale),
        tier,
        stream,
        threads,
        any(is_bits for _, is_bits in bits.values()),
        max_relative_error,
    )

    def result() -> Any:
        finished = out if filled is None else filled.finish()
        return finished if rows is None else (finished, rows.finish())

    return Prepared(arguments, result)


def _require_array(name: str, array: Any) -> None:
    if not (hasattr(array, "__dlpack__") and hasattr(array, "shape")):
        raise BadDtype(
            f"{name} is a {type(array).__name__}, but an array with __dlpack__ is needed "
            "(numpy, torch, CuPy, JAX, ...)"
        )


def _dtype_name(array: Any) -> str:
    """ "float32", "bfloat16", ... for every library: JAX and CuPy use numpy's dtypes."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def _bits(name: str, array: Any) -> tuple[Any, bool]:
    """numpy cannot export its bfloat16 (of ml_dtypes) by DLPack: its bits go as uint16."""
    if isinstance(array, np.ndarray):
        if array.dtype.name == "bfloat16":
            return array.view(np.uint16), True
        if array.dtype == np.uint16:
            raise BadDtype(f"{name} has dtype uint16")
    return array, False


def _expand(array: Any, shape: tuple[int, ...], repeat: int) -> Any:
    if repeat > 1:
        array = _namespace(array).repeat(array, repeat, axis=-3)
    if tuple(array.shape) == shape:
        return array
    return _namespace(array).broadcast_to(array, shape)


def _namespace(array: Any) -> Any:
    if isinstance(array, np.ndarray) or not hasattr(array, "__array_namespace__"):
        return np
    return array.__array_namespace__()


class _Buffer:
    """Memory for a result beside `like`, and what of it the user gets."""

    def __init__(self, like: Any, shape: tuple[int, ...], dtype: str) -> None:
        self.xp = _namespace(like)
        self.is_bits = False
        if like.__dlpack_device__()[0] in DLPACK_HOST:
            # Also for JAX, whose own arrays are never written.
            self.is_bits = dtype == "bfloat16"
            self.memory = np.empty(shape, np.uint16 if self.is_bits else dtype)
            self.dtype = like.dtype if self.is_bits else self.memory.dtype
        elif self.xp.__name__.startswith("jax"):
            raise Unsupported(
                "query is a JAX array on a GPU, whose memory may not be written: give out="
            )
        else:
            self.memory = self.xp.empty(shape, dtype=dtype, device=like.device)

    def finish(self) -> Any:
        if not isinstance(self.memory, np.ndarray):
            return self.memory
        array = self.memory if self.xp is np else self.xp.from_dlpack(self.memory)
        return array.view(self.dtype) if self.is_bits else array
