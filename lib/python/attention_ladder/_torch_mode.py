"""Replaces torch's function wherever it is called, also through references taken before."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

from . import _torch
from ._attention import scaled_dot_product_attention


class Replace(TorchFunctionMode):
    """While active, torch's `scaled_dot_product_attention` is ours."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _torch.torchs_own:
            return scaled_dot_product_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
