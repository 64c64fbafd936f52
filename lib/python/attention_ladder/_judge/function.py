"""A function under examination: numpy in, float64 out, whatever arrays it takes itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reference import FORMATS


class Refused(Exception):
    """The function raised instead of answering."""


class Broke(Exception):
    """The function left the GPU in a state in which this process cannot use it any more."""


@dataclass(frozen=True)
class Function:
    """`call` is given arrays of the kind, dtype and device below, as torch's signature has them."""

    call: Callable[..., Any]
    name: str
    arrays: str = "torch"
    """"torch" or "numpy"."""
    dtype: str = "float32"
    device: str = "cpu"
    weight_error: float = 0.0

    def round(self, array: np.ndarray) -> np.ndarray:
        """To the dtype's values, as float64: what the function and the reference both get."""
        bits, smallest = FORMATS[self.dtype]
        if self.dtype in ("float64", "float32", "float16"):
            return array.astype(self.dtype).astype(np.float64)
        _, exponent = np.frexp(array)
        step = np.ldexp(1.0, np.maximum(exponent - 1, smallest) - bits + 1)
        return np.where(np.isfinite(array), np.rint(array / step) * step, array)

    def give(self, array: np.ndarray | None) -> Any:
        """An array of the function's kind. Strides are kept; booleans stay booleans."""
        if array is None:
            return None
        if self.arrays == "numpy":
            if self.dtype == "bfloat16":
                import ml_dtypes

                kind: Any = ml_dtypes.bfloat16
            else:
                kind = self.dtype
            return array if array.dtype == bool else _with_strides(array, array.astype(kind))
        import torch

        kind = torch.bool if array.dtype == bool else getattr(torch, self.dtype)
        dense = torch.from_numpy(np.ascontiguousarray(array)).to(kind).to(self.device)
        return _with_torch_strides(array, dense)

    def __call__(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        mask: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Calls with numpy arrays.

        :raises Refused: when the function raises.
        """
        if mask is not None:
            options["attn_mask"] = self.give(mask)
        return self.raw(self.give(query), self.give(key), self.give(value), **options)

    def raw(self, *tensors: Any, **options: Any) -> np.ndarray:
        """Calls with arrays of the function's own kind.

        :raises Refused: when the function raises.
        :raises Broke: when no other function could run in this process after it.
        """
        try:
            return self.take(self.call(*tensors, **options))
        except Exception as error:
            if self.arrays == "torch" and self.device.startswith("cuda") and (why := _lost()):
                raise Broke(why) from error
            raise Refused(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}") from error

    def take(self, result: Any) -> np.ndarray:
        """A result as a float64 numpy array."""
        if self.arrays == "torch":
            import torch

            return np.asarray(result.detach().to("cpu", torch.float64).numpy())
        return np.asarray(result).astype(np.float64)


def _lost() -> str:
    """What torch says when its GPU answers no more, as after an access to a wrong address."""
    import torch

    try:
        torch.cuda.synchronize()
    except Exception as error:
        return str(error).splitlines()[0]
    return ""


def _with_strides(like: np.ndarray, array: np.ndarray) -> np.ndarray:
    """`array` laid out in memory in the order of `like`'s axes, gaps and all."""
    steps = [s // like.itemsize for s in like.strides]
    if any(s < 0 for s in steps) or not like.size:
        return array
    memory = np.zeros(1 + sum((n - 1) * s for n, s in zip(like.shape, steps)), array.dtype)
    view = np.lib.stride_tricks.as_strided(memory, like.shape, [s * array.itemsize for s in steps])
    view[...] = array
    return view


def _with_torch_strides(like: np.ndarray, tensor: Any) -> Any:
    steps = [s // like.itemsize for s in like.strides]
    if any(s < 0 for s in steps) or not like.size or list(tensor.stride()) == steps:
        return tensor
    memory = tensor.new_zeros(1 + sum((n - 1) * s for n, s in zip(like.shape, steps)))
    view = memory.as_strided(like.shape, steps)
    once = tuple(slice(0, 1) if s == 0 else slice(None) for s in steps)  # an axis that repeats
    view[once] = tensor[once]
    return view


def resolve(text: str) -> Callable[..., Any]:
    """The function that a command line names: "torch:MATH" (a backend of torch's own function),
    "tier:literal" (one of ours), or "module:function"."""
    module, _, name = text.partition(":")
    if module == "tier":
        import attention_ladder as al

        def tier(*tensors: Any, **options: Any) -> Any:
            return al.scaled_dot_product_attention(*tensors, **options, tier=name)

        return tier
    if module == "torch" and name.isupper():
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backend = getattr(SDPBackend, name)

        def with_backend(*tensors: Any, **options: Any) -> Any:
            with sdpa_kernel(backend):
                return torch._C._nn.scaled_dot_product_attention(*tensors, **options)

        return with_backend
    if module == "torch":
        import torch

        return torch._C._nn.scaled_dot_product_attention
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
