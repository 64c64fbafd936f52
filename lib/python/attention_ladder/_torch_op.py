"""The registered operator `attention_ladder::forward`, for torch.compile, export and tracers.

The tier of a surrounding `attention(tier=...)`, and its error, are looked up when the operator runs,
so a compiled graph follows the block that it runs in and not the one that it was compiled in.
"""

from __future__ import annotations

from typing import Optional

import torch

from . import _torch


@torch.library.custom_op("attention_ladder::forward", mutates_args=(), device_types=("cpu", "cuda"))
def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor],
    causal: int,
    scale: Optional[float],
    enable_gqa: bool,
    tier: str,
    max_relative_error: Optional[float] = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, logsumexp). `causal` is 0 none, 1 upper_left, 2 lower_right."""
    rules = _torch.Rules(False, scale, enable_gqa, None, tier, max_relative_error, None, None)
    out: tuple[torch.Tensor, torch.Tensor] = _torch.run(
        query, key, value, attn_mask, causal, rules, None, True
    )
    return out


@forward.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor],
    causal: int,
    scale: Optional[float],
    enable_gqa: bool,
    tier: str,
    max_relative_error: Optional[float] = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value = _torch.expand(query, key, value, enable_gqa)
    return _torch.empty_out(query, value), _torch.empty_logsumexp(query)
