"""Hugging Face transformers: ``attn_implementation="attention_ladder"``.

from attention_ladder.plugins import transformers as plugin
plugin.register()
model = AutoModel.from_pretrained(name, attn_implementation="attention_ladder")
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from .._attention import scaled_dot_product_attention
from .._errors import Unsupported

NAME = "attention_ladder"

# Arguments that change the result and that this function does not have. All others that models pass
# along (positions, cache positions, ...) have done their work before, or in the mask.
REFUSED = ("softcap", "s_aux", "cache", "output_attentions")


def register(name: str = NAME) -> None:
    """Makes `name` an `attn_implementation`.

    The mask function is registered with it: without one, transformers would pass no mask at all, and
    causal models would see the future.
    """
    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, sdpa_mask)


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' convention: query (B, Hq, L, E), key and value (B, H, S, E), not yet repeated for
    grouped heads; returns (B, L, Hq, E), contiguous, and no weights."""
    for name in REFUSED:
        if others.get(name) not in (None, False):
            raise Unsupported(f"attention_ladder has no {name}; use attn_implementation='eager'")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # A mask already holds the causal rule, and one row of a cached decoder sees every key.
    is_causal = is_causal and attention_mask is None and query.shape[2] > 1
    if position_bias is not None:
        attention_mask = _with_bias(attention_mask, position_bias)
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        attention_mask,
        dropout,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
        causal="upper_left" if is_causal else None,
    )
    return out.transpose(1, 2).contiguous(), None


def _with_bias(mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """One additive mask from both."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, float("-inf"))
    return mask + bias
