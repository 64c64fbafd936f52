"""diffusers: an attention processor, for models built on its `Attention` module.

    from attention_ladder.plugins.diffusers import LadderAttnProcessor
    pipeline.unet.set_attn_processor(LadderAttnProcessor(tier="auto"))

diffusers keeps a closed list of attention backends, so a processor, or `attention_ladder.attention()`
around the pipeline, is how another attention comes in.
"""

from __future__ import annotations

from typing import Any

import torch

from .._attention import attention, scaled_dot_product_attention


class LadderAttnProcessor:
    """What one `diffusers.models.attention_processor.Attention` module does, with our attention."""

    def __init__(self, tier: str = "auto") -> None:
        with attention(tier):  # says now, and not in the middle of a picture, that it cannot run
            self.tier = tier

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        residual = hidden_states
        image_shape = hidden_states.shape  # (B, C, rows, columns) or (B, L, C)
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(image_shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, L, C)
        B, L, _ = hidden_states.shape
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)

        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        key = attn.to_k(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        if attention_mask is not None:
            S = context.shape[1]
            attention_mask = attn.prepare_attention_mask(attention_mask, S, B)
            attention_mask = attention_mask.view(B, attn.heads, -1, S)

        out = scaled_dot_product_attention(query, key, value, attention_mask, tier=self.tier)
        out = out.transpose(1, 2).reshape(B, L, -1).to(query.dtype)
        for layer in attn.to_out:  # the projection, then dropout
            out = layer(out)
        if len(image_shape) == 4:
            out = out.transpose(1, 2).reshape(image_shape)
        if attn.residual_connection:
            out = out + residual
        result: torch.Tensor = out / attn.rescale_output_factor
        return result
