"""Running a tier and judging it, for arrays of every dtype."""

from __future__ import annotations

from typing import Any

import attention_ladder as al
import ml_dtypes
import numpy as np
import pytest
from attention_ladder._judge.reference import judge_logsumexp, judge_out, reference

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def needs(tier: str, dtype: str) -> None:
    """Skips a test that the tier's stated limits exclude."""
    t = al.find_tier(tier)
    assert t is not None
    if dtype not in t.dtypes:
        pytest.skip(f"{tier} does not take {dtype}")


def weight_error(tier: str, dtype: str) -> float:
    t = al.find_tier(tier)
    assert t is not None
    return {"float16": t.weight_error_f16, "bfloat16": t.weight_error_bf16}.get(
        dtype, t.weight_error
    )


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def widen(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def attend_and_judge(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    tier: str,
    causal: str | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Runs one call with numpy arrays; fails unless out and logsumexp are within their bounds."""
    dtype = query.dtype.name
    gqa = query.ndim > 2 and query.shape[-3] != key.shape[-3]
    out, logsumexp = al.scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        causal=causal,
        scale=scale,
        enable_gqa=gqa,
        tier=tier,
        return_logsumexp=True,
    )
    assert out.dtype == query.dtype
    wide_mask = mask if mask is None or mask.dtype == bool else widen(mask)
    want = reference(widen(query), widen(key), widen(value), wide_mask, causal, scale, dtype)
    error = weight_error(tier, dtype)
    verdict = judge_out(widen(out), want, error)
    assert verdict.ok, f"out: {verdict}"
    verdict = judge_logsumexp(logsumexp, want, error)
    assert verdict.ok, f"logsumexp: {verdict}"
    return out


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
