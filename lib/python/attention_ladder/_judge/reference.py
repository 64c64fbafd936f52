"""The reference in numpy, and the bound derived from it. Shares no code with the C++ library.

A correct function with unit roundoff u (2^-24 when it computes in float32, 2^-53 in float64) may
differ from the reference r in one element by

    |o - r| <= ulp(o, r) / 2  +  u (16 + 2 C + 8 A) W  +  weight_error W

- Half a unit in the last place of the output's type, in the binade of max(|o|, |r|): the final
  rounding.
- W = sum_j p_j |v_j| is what a relative error of every weight is worth. The exponential, the
  products with the values, the rescaling and the division round a few times each: 16.
- C is the number of additions that one weight goes through, at most one rounding each, in the sum of
  the weights and again in that of the weighted values: 64 and S / 64 in float32, S in float64. Mostly
  these errors cancel; where many weights are equal they do not.
- A = max_j (|scale| sum_e |q_e k_je| + |mask_j|) over the visible keys bounds the terms that a score
  is summed from. Its rounding errors are a few u A; they sit in an exponent, so they become relative
  errors of the weight (4 A) and of its share in the sum (4 A).
- weight_error is what an implementation states about its weights: a fast exponential, weights
  rounded to 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# dtype name -> (bits of the significand with the hidden one, exponent of the smallest normal number)
FORMATS = {
    "float64": (53, -1022),
    "float32": (24, -126),
    "float16": (11, -14),
    "bfloat16": (8, -126),
}


@dataclass(frozen=True)
class Reference:
    """What a result is compared with. Arrays are wider than the dtype that is judged."""

    dtype: str
    out: np.ndarray
    """(..., Hq, L, Ev)"""
    logsumexp: np.ndarray
    """(..., Hq, L)"""
    value_size: np.ndarray
    """W, (..., Hq, L, Ev)"""
    score_size: np.ndarray
    """A, (..., Hq, L)"""
    longest_sum: int
    """C"""


@dataclass(frozen=True)
class Verdict:
    """How far a result is from its reference, in bounds: accepted up to 1."""

    ratio: float
    """Largest error / bound; infinite where NaN, an infinity or a shape differs."""
    index: tuple[int, ...] = ()
    got: float = 0.0
    want: float = 0.0
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.ratio <= 1  # false for NaN

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        at = ", ".join(map(str, self.index))
        far = "" if np.isinf(self.ratio) else f"{self.ratio:.3g} of the bound "
        return f"{far}at [{at}]: got {self.got:.9g}, want {self.want:.9g}"


def visible_keys(L: int, S: int, mask: np.ndarray | None, causal: str | None) -> np.ndarray:
    """Which keys each query may see, (..., L, S). `causal` is None, upper_left or lower_right."""
    visible = np.ones((L, S), bool)
    if causal is not None:
        visible = np.tril(visible, 0 if causal == "upper_left" else S - L)
    if mask is not None:
        visible = visible & (mask if mask.dtype == bool else ~np.isneginf(mask))
    return visible


def reference(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    causal: str | None = None,
    scale: float | None = None,
    dtype: str = "float32",
) -> Reference:
    """The formula as written, in float64, or in long double for float64 inputs.

    Takes numpy arrays with (..., Hq, L, E), (..., H, S, E), (..., H, S, Ev) that hold what the judged
    function was given, exactly widened. `dtype` is the judged function's.
    """
    real: Any = np.longdouble if dtype == "float64" else np.float64
    q, k, v = (np.asarray(a, real) for a in (query, key, value))
    if mask is not None and mask.dtype != bool:
        mask = np.asarray(mask, real)
    if q.ndim > 2 and q.shape[-3] != k.shape[-3]:
        k = np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3)
        v = np.repeat(v, q.shape[-3] // v.shape[-3], axis=-3)
    E, Ev = q.shape[-1], v.shape[-1]
    L, S = q.shape[-2], k.shape[-2]
    factor = real(scale) if scale is not None else 1 / np.sqrt(real(E)) if E else real(1)
    rows = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2]), L)
    visible = np.broadcast_to(visible_keys(L, S, mask, causal), (*rows, S))

    with np.errstate(invalid="ignore", over="ignore"):
        score = factor * (q @ np.swapaxes(k, -1, -2))
        size = abs(factor) * (abs(q) @ np.swapaxes(abs(k), -1, -2))
        if mask is not None and mask.dtype != bool:
            score = score + np.where(visible, mask, 0)
            size = size + np.where(visible, abs(mask), 0)
        score = np.where(visible, score, -np.inf)
        top = score.max(-1, keepdims=True, initial=-np.inf)
        spoiled = np.isnan(score).any(-1) | np.isposinf(top[..., 0])
        weight = np.where(np.isneginf(score), 0, np.exp(score - np.where(np.isfinite(top), top, 0)))
        total = weight.sum(-1, keepdims=True)
        share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        out, W = _weighted(share, v, rows, Ev), _weighted(share, abs(v), rows, Ev)
        logsumexp = np.where(total > 0, top + np.log(np.where(total > 0, total, 1)), -np.inf)[
            ..., 0
        ]
        # A key too far below the maximum to weigh anything in double does not count.
        A = np.where(visible & (score >= top - 745), size, 0).max(-1, initial=0)
    out = np.where(spoiled[..., None], np.nan, out)
    longest_sum = S if dtype == "float64" else min(S, 64) + S // 64
    return Reference(dtype, out, np.where(spoiled, np.nan, logsumexp), W, A, longest_sum)


def _weighted(share: np.ndarray, v: np.ndarray, rows: tuple[int, ...], Ev: int) -> np.ndarray:
    """sum_j share_j v_j, where a key of weight 0 contributes nothing, whatever v holds."""
    if np.isfinite(v).all():
        return np.broadcast_to(share @ v, (*rows, Ev)) + 0
    terms = np.where(share[..., None] > 0, share[..., None] * v[..., None, :, :], 0)
    return terms.sum(-2)


def half_ulp(size: np.ndarray, dtype: str) -> np.ndarray:
    """Half a unit in the last place of `dtype` in the binade of `size`."""
    bits, smallest = FORMATS[dtype]
    _, exponent = np.frexp(np.where(np.isfinite(size), size, 0))  # size in [2^(e-1), 2^e)
    return np.ldexp(np.ones_like(size), np.maximum(exponent - 1, smallest) - bits)


def judge_out(out: Any, reference: Reference, weight_error: float = 0.0) -> Verdict:
    """Compares a result, widened to float64, with its reference."""
    return _judge_as_out(out, reference.out, reference, weight_error)


def judge_pair(one: Any, other: Any, reference: Reference, weight_error: float = 0.0) -> Verdict:
    """Two results that should be one: each may be off by its bound."""
    want = np.asarray(other).astype(reference.out.dtype)
    return _judge_as_out(one, want, reference, weight_error, times=2)


def _judge_as_out(
    got: Any, want: np.ndarray, reference: Reference, weight_error: float, times: float = 1.0
) -> Verdict:
    roundings = 16 + 2 * reference.longest_sum + 8 * reference.score_size[..., None]
    W, dtype = reference.value_size, reference.dtype
    return compare(got, want, W, roundings, dtype, dtype, weight_error, times)


def judge_logsumexp(logsumexp: Any, reference: Reference, weight_error: float = 0.0) -> Verdict:
    """Compares a logsumexp, which is float32, or float64 for float64 inputs."""
    of = "float64" if reference.dtype == "float64" else "float32"
    roundings = 16 + reference.longest_sum + 8 * reference.score_size
    want, one = reference.logsumexp, np.ones_like(reference.score_size)
    return compare(logsumexp, want, one, roundings, reference.dtype, of, weight_error)


def compare(
    got: Any,
    want: np.ndarray,
    W: np.ndarray,
    roundings: np.ndarray,
    computed: str,
    stored: str,
    weight_error: float,
    times: float = 1.0,
) -> Verdict:
    """The bound, `times` over; `computed` gives the roundoff, `stored` the last place."""
    got = np.asarray(got).astype(want.dtype)
    if got.shape != want.shape:
        return Verdict(np.inf, problem=f"shape {got.shape}, but {want.shape} is right")
    if got.size == 0:
        return Verdict(0.0)
    u = 2.0**-53 if computed == "float64" else 2.0**-24
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.maximum(abs(got), abs(want))
        bound = times * (half_ulp(size, stored) + (u * roundings + weight_error) * W)
        error = abs(got - want)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        ratio = np.where(same, 0, error / bound)
        ratio = np.where(np.isnan(ratio), np.inf, ratio)
    index = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return Verdict(
        float(ratio[index]), tuple(int(i) for i in index), float(got[index]), float(want[index])
    )
