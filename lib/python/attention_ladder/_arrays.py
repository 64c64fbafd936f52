"""Calls with arrays that are not torch's: numpy, and whatever speaks DLPack (CuPy, JAX, ...)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _shapes
from ._errors import BadDtype, BadOption, Unsupported

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
    stream: int | None,
    max_relative_error: float,
) -> Prepared:
    """Expands the inputs by torch's rules, without copying, and allocates what is written."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        _require_array(name, array)
    if _kind(out) == "jaxlib":
        raise BadOption("out is a JAX array, which may not be written")
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
    written = bits["out"][0]
    if stream is None:
        stream = _current_stream(written)
    q, k, v, mask = (
        _ready(bits[name][0], stream) for name in ("query", "key", "value", "attn_mask")
    )
    arguments = (
        q,
        k,
        v,
        written,
        mask,
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
        if out is not None and "jaxlib" in map(_kind, given.values()):
            _wait_for(out)  # JAX does not know that its arrays are still being read
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
    """numpy and CuPy cannot export bfloat16 (of ml_dtypes) by DLPack: its bits go as uint16."""
    if _kind(array) in ("numpy", "cupy"):
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


def _kind(array: Any) -> str:
    """The package that an array is of: "numpy", "cupy", "jaxlib", ..."""
    return type(array).__module__.partition(".")[0]


def _namespace(array: Any) -> Any:
    if _kind(array) == "cupy":  # its arrays do not name it
        return sys.modules["cupy"]
    if isinstance(array, np.ndarray) or not hasattr(array, "__array_namespace__"):
        return np
    return array.__array_namespace__()


def _current_stream(out: Any) -> int:
    """The CUDA stream on which the library that holds `out` works now; 0 is the default one."""
    if _kind(out) == "cupy":
        with out.device:
            return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    if _kind(out) == "torch" and out.device.type == "cuda":
        return int(sys.modules["torch"].cuda.current_stream(out.device).cuda_stream)
    return 0


def _ready(array: Any, stream: int) -> Any:
    """An array on a GPU as a DLPack capsule; its own library lets `stream` wait until it is there."""
    if not hasattr(array, "__dlpack_device__"):  # None, or a mistake that the module names
        return array
    if array.__dlpack_device__()[0] in DLPACK_HOST:
        return array
    return array.__dlpack__(stream=stream or 1)  # DLPack's 1 is CUDA's default stream


def _wait_for(out: Any) -> None:
    """Returns when `out` has been written."""
    if _kind(out) == "cupy":
        with out.device:
            sys.modules["cupy"].cuda.get_current_stream().synchronize()
    elif _kind(out) == "torch" and out.device.type == "cuda":
        sys.modules["torch"].cuda.current_stream(out.device).synchronize()


class _Buffer:
    """Memory for a result beside `like`, and what of it the user gets.

    JAX's own arrays are never written: the memory is numpy's or CuPy's, and JAX takes it over.
    """

    def __init__(self, like: Any, shape: tuple[int, ...], dtype: str) -> None:
        self.xp = _namespace(like)
        self.is_bits = dtype == "bfloat16"
        kind = np.uint16 if self.is_bits else dtype
        self.dtype = like.dtype
        device, index = like.__dlpack_device__()
        if device in DLPACK_HOST:
            self.memory = np.empty(shape, kind)
        else:
            cupy = _cupy(like)
            with cupy.cuda.Device(index):
                self.memory = cupy.empty(shape, kind)

    def finish(self) -> Any:
        array = self.memory
        if self.xp not in (np, _namespace(array)):
            array = self.xp.from_dlpack(array)
        return array.view(self.dtype) if self.is_bits else array


def _cupy(like: Any) -> Any:
    try:
        import cupy
    except ImportError:
        raise Unsupported(
            f"query is a {type(like).__name__} on a GPU: give out=, or install CuPy, which makes "
            "the memory for a result there"
        ) from None
    return cupy
