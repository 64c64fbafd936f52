"""The shape rules that come before the C++ library's: torch's broadcasting of batch axes and heads.

Works on shapes alone, so that numpy, torch and torch's fake tensors all follow the same rules.
"""

from __future__ import annotations

from typing import NamedTuple

from ._errors import BadOption, BadShape

Shape = tuple[int, ...]

CAUSAL = {None: 0, "upper_left": 1, "lower_right": 2}


class Plan(NamedTuple):
    """The shapes to which query, key and value are expanded (without a copy) before the call."""

    query: Shape
    key: Shape
    value: Shape
    repeat_key: int
    """Times each key head is repeated first; 1 unless key and value have different head counts."""
    repeat_value: int

    @property
    def out(self) -> Shape:
        return (*self.query[:-1], self.value[-1])


def plan(query: Shape, key: Shape, value: Shape, enable_gqa: bool) -> Plan:
    """Broadcasts batch axes as matmul does, and heads as torch's rules say.

    :raises BadShape: with torch's text where torch has one.
    """
    if len(query) < 2 or len(key) < 2 or len(value) < 2:
        raise BadShape(
            "Expected query, key, and value to all be  at least 2 dimensional, but got "
            f"query.dim: {len(query)}, key.dim: {len(key)} and value.dim: {len(value)} instead."
        )
    if query[:-2] == key[:-2] == value[:-2]:
        return Plan(query, key, value, 1, 1)
    if enable_gqa:
        return _grouped(query, key, value)

    outer = _broadcast(_broadcast(query[:-2], key[:-2]), value[:-2])
    # One key head for all query heads stays one: the library repeats it by itself.
    one_head = len(outer) > 0 and _heads(key) == _heads(value) == 1
    key_outer = (*outer[:-1], 1) if one_head else outer
    return Plan((*outer, *query[-2:]), (*key_outer, *key[-2:]), (*key_outer, *value[-2:]), 1, 1)


def _grouped(query: Shape, key: Shape, value: Shape) -> Plan:
    Hq, H, Hv = _heads(query), _heads(key), _heads(value)
    if min(len(query), len(key), len(value)) < 3:
        raise BadShape(
            "enable_gqa needs an axis of heads in query, key and value, but their shapes are "
            f"{query}, {key} and {value}"
        )
    if H == 0 or Hv == 0 or Hq % H != 0 or Hq % Hv != 0:
        raise BadShape(
            "Number of heads in key and value must divide the number of heads in query, but "
            f"got {H} and {Hv} for {Hq}"
        )
    batch = _broadcast(_broadcast(query[:-3], key[:-3]), value[:-3])
    repeat_key, repeat_value = (1, 1) if H == Hv else (Hq // H, Hq // Hv)
    return Plan(
        (*batch, *query[-3:]),
        (*batch, H * repeat_key, *key[-2:]),
        (*batch, Hv * repeat_value, *value[-2:]),
        repeat_key,
        repeat_value,
    )


def _heads(shape: Shape) -> int:
    return shape[-3] if len(shape) > 2 else 1


def _broadcast(a: Shape, b: Shape) -> Shape:
    rank = max(len(a), len(b))
    a = (1,) * (rank - len(a)) + a
    b = (1,) * (rank - len(b)) + b
    for axis, (m, n) in enumerate(zip(a, b)):
        if m != n and m != 1 and n != 1:
            raise BadShape(
                f"The size of tensor a ({m}) must match the size of tensor b ({n}) at "
                f"non-singleton dimension {axis}. Grouped heads need enable_gqa=True."
            )
    return tuple(n if m == 1 else m for m, n in zip(a, b))


def causal_code(is_causal: bool, causal: str | None, has_mask: bool) -> int:
    """The C++ library's number for the causal rule.

    :raises BadOption: for a mask together with `is_causal`, as torch documents, and for an unknown
        or doubly given rule.
    """
    if is_causal and causal is not None:
        raise BadOption(f"is_causal=True and causal={causal!r} were given; give one of them")
    if is_causal and has_mask:
        raise BadOption(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when "
            "is_causal=True. To apply both, give causal='upper_left' instead."
        )
    if causal not in CAUSAL:
        raise BadOption(f"causal is {causal!r}, but None, 'upper_left' or 'lower_right' is needed")
    return 1 if is_causal else CAUSAL[causal]
