#!/usr/bin/env python3
"""Writes goldens.inc: small attention problems and what PyTorch's math backend makes of them.

    python3 tests/goldens.py > tests/goldens.inc        # needs torch; made with 2.11.0

Inputs are short decimal fractions made by a rule, so that the file holds no random numbers. All is
float64 and printed with 17 significant digits, which is exact.
"""
import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def tensor(shape, seed):
    """Multiples of 1/16 in [-2, 2], spread by a multiplicative hash."""
    count = math.prod(shape)
    values = [((i + 1) * 2654435761 + seed * 40503) % 65521 % 65 / 16 - 2 for i in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def numbers(t):
    return "{" + ", ".join("%.17g" % x for x in t.flatten().tolist()) + "}"


def problem(name, B, Hq, H, L, S, E, Ev, mask=None, causal=False, scale=None):
    query, key, value = tensor((B, Hq, L, E), 1), tensor((B, H, S, E), 2), tensor((B, H, S, Ev), 3)
    bias = boolean = None
    if mask == "boolean":
        boolean = tensor((L, S), 4) > -1
    if mask == "additive":
        bias = tensor((L, S), 5)
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=boolean if bias is None else bias, is_causal=causal,
            scale=scale, enable_gqa=Hq != H)
    print(f'{{"{name}",\n {{{B}, {Hq}, {H}, {L}, {S}, {E}, {Ev}}},')
    print(f' {"true" if causal else "false"}, {0.0 if scale is None else scale}, '
          f'{numbers(boolean.double()) if boolean is not None else "{}"},')
    print(f' {numbers(bias) if bias is not None else "{}"},')
    for t in (query, key, value, out):
        print(f" {numbers(t)}{'}' if t is out else ''},")


print(f"// Made by goldens.py with torch {torch.__version__.split('+')[0]}, math backend, float64.")
problem("plain", 2, 2, 2, 3, 4, 4, 3)
problem("causal", 1, 1, 1, 4, 4, 3, 2, causal=True)
problem("causal with more keys than queries", 1, 1, 1, 3, 5, 3, 2, causal=True)
problem("boolean mask", 1, 2, 2, 3, 5, 3, 2, mask="boolean")
problem("additive mask", 1, 2, 2, 3, 5, 3, 2, mask="additive")
problem("grouped heads", 1, 4, 2, 2, 3, 3, 2)
problem("negative scale", 1, 1, 1, 3, 4, 4, 2, scale=-0.75)
