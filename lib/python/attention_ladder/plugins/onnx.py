"""An ONNX backend for models of one node, the operator Attention (opsets 23 to 25).

For ONNX's own test suite, which runs unmodified against it:

    backend_test = onnx.backend.test.BackendTest(AttentionBackend, __name__)

What the operator adds to attention is built here from masks and concatenation: three-axis inputs,
caches, padded caches, windows, masks that are shorter than the keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from .._attention import scaled_dot_product_attention
from .._errors import Unsupported

INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def why_not(model: onnx.ModelProto) -> str:
    """Why a model is not for this backend; empty when it is."""
    nodes = model.graph.node
    if [node.op_type for node in nodes] != ["Attention"]:
        return "a graph of other operators, for runtimes that have them all"
    if len(nodes[0].output) > 3 and nodes[0].output[3]:
        return "asks for the matrix of scores, which this library never holds"
    if any(a.name == "softcap" and a.f > 0 for a in nodes[0].attribute):
        return "softcap is not in this library"
    return ""


class AttentionBackend(Backend):
    """Runs a model that is one Attention node. A subclass may name another tier."""

    tier = "auto"

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> bool:
        return not why_not(model)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> AttentionModel:
        super().prepare(model, device)
        if reason := why_not(model):
            raise Unsupported(reason)
        return AttentionModel(model, cls.tier)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class AttentionModel(BackendRep):
    """A prepared model."""

    def __init__(self, model: onnx.ModelProto, tier: str) -> None:
        node = model.graph.node[0]
        self.tier = tier
        self.inputs = [name for name in INPUTS[: len(node.input)]]
        self.given = [bool(name) for name in node.input]
        self.outputs = [n for n, name in zip(OUTPUTS, node.output) if name]
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        rest = iter(inputs)
        x = {name: next(rest) for name, given in zip(self.inputs, self.given) if given}
        results = attend(x, self.attributes, self.tier)
        return tuple(results[name] for name in self.outputs)


def attend(x: dict[str, Any], attributes: dict[str, Any], tier: str) -> dict[str, Any]:
    """The operator: its inputs and outputs by the names of its specification."""
    query, key, value = x["Q"], x["K"], x["V"]
    three_axes = query.ndim == 3
    if three_axes:  # (B, L, heads * E) -> (B, heads, L, E)
        query = _split(query, attributes["q_num_heads"])
        key, value = (_split(a, attributes["kv_num_heads"]) for a in (key, value))
    if "past_key" in x:
        key = np.concatenate([x["past_key"], key], 2)
        value = np.concatenate([x["past_value"], value], 2)
    L, S = query.shape[2], key.shape[2]

    mask = x.get("attn_mask")
    if mask is not None:
        if mask.shape[-1] < S:  # the keys beyond it are not attended to
            beyond = False if mask.dtype == bool else -np.inf
            widths = [(0, 0)] * (mask.ndim - 1) + [(0, S - mask.shape[-1])]
            mask = np.pad(mask, widths, constant_values=beyond)
        if mask.dtype not in (bool, query.dtype):
            mask = mask.astype(np.float32)
    mask, causal = _visible(x, attributes, L, S, mask)
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        scale=attributes.get("scale"),
        enable_gqa=query.shape[1] != key.shape[1],
        causal=causal,
        tier=tier,
    )
    if three_axes:
        out = out.swapaxes(1, 2).reshape(out.shape[0], L, -1)
    return {"Y": out, "present_key": key, "present_value": value}


def _split(array: Any, heads: int) -> Any:
    B, length, width = array.shape
    return array.reshape(B, length, heads, width // heads).swapaxes(1, 2)


def _visible(
    x: dict[str, Any], attributes: dict[str, Any], L: int, S: int, mask: Any
) -> tuple[Any, Any]:
    """The mask that says all that is not a plain causal rule, and that rule.

    A query's position is its index plus `offset`: the keys that are older than the first query.
    """
    padded = x.get("nonpad_kv_seqlen")
    left = attributes.get("left_window_size", -1)
    right = attributes.get("right_window_size", -1)
    is_causal = attributes.get("is_causal", 0)
    offset = x["past_key"].shape[2] if "past_key" in x else 0
    if padded is None and left < 0 and right < 0:
        if not is_causal:
            return mask, None
        if offset in (0, S - L):
            return mask, "upper_left" if offset == 0 else "lower_right"

    j = np.arange(S)
    visible = np.ones((1, 1, L, S), bool)
    if padded is not None:
        lengths = padded.reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
        visible = visible & (j < lengths)
        offset = lengths - L
    position = np.arange(L)[:, None] + offset
    if is_causal:
        visible = visible & (j <= position)
    if left >= 0:
        visible = visible & (j >= position - left)
    if right >= 0:
        visible = visible & (j <= position + right)
    if mask is None:
        return visible, None
    if mask.dtype == bool:
        return visible & mask, None
    return np.where(visible, mask, mask.dtype.type(-np.inf)), None
