"""Properties of causality and masks: who sees whom, and that nothing else is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .cases import Case, Inputs, draw
from .function import Function
from .property import PASSED, both_within, equal, failed, judged, prop, right, worst_of
from .reference import Verdict, judge_out


@prop("P7", "with is_causal, the first rows do not depend on later keys")
def causal_prefix(f: Function, case: Case) -> Verdict | None:
    n = min(case.L, case.S) // 2
    if n == 0:
        return None
    x = draw(case, f)
    options = {**case.options, "is_causal": True}
    whole = f(x.query, x.key, x.value, **options)[:, :, :n]
    part = Inputs(x.query[:, :, :n], x.key[:, :, :n], x.value[:, :, :n], None)
    short = replace(case, L=n, S=n, causal=True)
    return both_within(f, short, part, whole)


@prop("P8", "is_causal is the lower triangle, its diagonal in the upper left corner")
def causal_is_a_mask(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    ruled = replace(case, causal=True)
    triangle = np.tril(np.ones((case.L, case.S), bool))
    return both_within(f, ruled, x, f(x.query, x.key, x.value, triangle, **case.options))


@prop("P8", "a mask that removes nothing is no mask")
def empty_masks(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    ones = np.ones((case.L, case.S), bool)
    return worst_of(
        both_within(f, case, x, f(x.query, x.key, x.value, mask, **case.options))
        for mask in (ones, np.zeros(ones.shape))
    )


@prop("P9", "True means attend: a bool mask is 0 and -inf added to the scores")
def bool_is_minus_infinity(f: Function, case: Case) -> Verdict | None:
    masked = replace(case, mask="bool")
    x = draw(masked, f)
    assert x.mask is not None
    added = np.where(x.mask, 0, -np.inf)
    return both_within(f, masked, x, f(x.query, x.key, x.value, added, **case.options))


@prop("P9", "a key that is masked for all rows may as well not be there")
def masked_keys_may_be_deleted(f: Function, case: Case) -> Verdict | None:
    if case.S < 2:
        return None
    x = draw(case, f)
    keep = np.arange(case.S) % 3 != 1
    masked = replace(case, mask="keys")
    without = f(x.query, x.key[:, :, keep], x.value[:, :, keep], **case.options)
    mask = np.broadcast_to(keep, (case.B, 1, 1, case.S)).copy()
    return both_within(f, masked, Inputs(x.query, x.key, x.value, mask), without)


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...], f: Function) -> np.ndarray:
    """Bool where it has a column for each key, the first of them seen; else additive."""
    if not shape or shape[-1] < 2:
        return f.round(rng.standard_normal(shape))
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask


@prop("P10", "a mask of any shape that broadcasts is the expanded one")
def masks_broadcast(f: Function, case: Case) -> Verdict | None:
    rng = np.random.default_rng(case.seed)
    x = draw(case, f)
    full = (case.B, case.Hq, case.L, case.S)

    def judge_shape(ones: int) -> Verdict:
        shape = tuple(1 if ones >> axis & 1 else n for axis, n in enumerate(full))
        mask = _random_mask(rng, shape, f)
        expanded = Inputs(x.query, x.key, x.value, np.broadcast_to(mask, full).copy())
        out = f(x.query, x.key, x.value, mask, **case.options)
        return judge_out(out, right(f, case, expanded), f.weight_error)

    return worst_of(judge_shape(ones) for ones in range(16))


@prop("P10", "a mask may have fewer axes than the scores: they are the last ones")
def masks_of_fewer_axes(f: Function, case: Case) -> Verdict | None:
    rng = np.random.default_rng(case.seed)
    x = draw(case, f)
    full = (case.B, case.Hq, case.L, case.S)
    masks = [_random_mask(rng, full[4 - rank :], f) for rank in (1, 2, 3)]
    return worst_of(judged(f, case, Inputs(x.query, x.key, x.value, mask)) for mask in masks)


@prop("P11", "a mask of three axes is (heads, L, S), not (batch, L, S)")
def three_axes_are_heads(f: Function, case: Case) -> Verdict | None:
    square = replace(case, B=3, Hq=3, H=1 if case.H == 1 else 3, mask="heads")
    return judged(f, square, draw(square, f))


@prop("P26", "a row that may see no key gives 0, and its neighbours are untouched")
def rows_without_keys_are_zero(f: Function, case: Case) -> Verdict | None:
    if case.L == 0 or case.S == 0:
        return None
    masked = replace(case, mask="rows")
    return judged(f, masked, draw(masked, f))


@prop("P26", "the same with -inf: a row of -inf gives 0")
def rows_of_minus_infinity_are_zero(f: Function, case: Case) -> Verdict | None:
    if case.L == 0 or case.S == 0:
        return None
    masked = replace(case, mask="rows")
    x = draw(masked, f)
    assert x.mask is not None
    return judged(f, masked, Inputs(x.query, x.key, x.value, np.where(x.mask, 0, -np.inf)))


@prop("P27", "a large negative number in a mask is a number, not a special case")
def large_negative_masks(f: Function, case: Case) -> Verdict | None:
    if case.L == 0 or case.S == 0:
        return None
    x = draw(case, f)
    low = -6e4 if f.dtype == "float16" else -1e9
    rng = np.random.default_rng(case.seed)
    mask = np.where(rng.random((case.L, case.S)) < 0.5, f.round(np.array(low)), 0.0)
    return judged(f, replace(case, mask="float"), Inputs(x.query, x.key, x.value, mask))


# ---- NaN and infinity ----------------------------------------------------------------------------


def _poisoned(f: Function, case: Case, which: str, poison: float) -> Verdict | None:
    """One masked key or value holds `poison`: nothing may change."""
    if case.S < 2 or case.L == 0 or case.E == 0:
        return None
    x = draw(case, f)
    mask = np.ones((case.L, case.S), bool)
    mask[:, 1] = False
    key, value = x.key.copy(), x.value.copy()
    (key if which == "key" else value)[:, :, 1] = poison
    clean = f(x.query, x.key, x.value, mask, **case.options)
    return equal(f(x.query, key, value, mask, **case.options), clean)


@prop("P25", "NaN in a masked key reaches no row")
def nan_in_a_masked_key(f: Function, case: Case) -> Verdict | None:
    return _poisoned(f, case, "key", np.nan)


@prop("P25", "NaN in a masked value reaches no row")
def nan_in_a_masked_value(f: Function, case: Case) -> Verdict | None:
    return _poisoned(f, case, "value", np.nan)


@prop("P25", "infinity in a masked value reaches no row")
def infinity_in_a_masked_value(f: Function, case: Case) -> Verdict | None:
    return _poisoned(f, case, "value", np.inf)


@prop("P25", "with is_causal, NaN in a key reaches no earlier row")
def nan_in_a_future_key(f: Function, case: Case) -> Verdict | None:
    n = min(case.L, case.S)
    if n < 2 or case.E == 0:
        return None
    x = draw(case, f)
    key = x.key.copy()
    key[:, :, n - 1] = np.nan
    options = {**case.options, "is_causal": True}
    dirty, clean = (f(x.query, k, x.value, **options)[:, :, : n - 1] for k in (key, x.key))
    return equal(dirty, clean)


@prop("P25", "NaN in a query makes its row NaN, and no other")
def nan_in_a_query(f: Function, case: Case) -> Verdict | None:
    if case.L == 0 or case.S == 0 or case.E == 0 or case.Ev == 0:
        return None
    x = draw(case, f)
    query = x.query.copy()
    query[:, :, case.L // 2, 0] = np.nan
    return judged(f, case, Inputs(query, x.key, x.value, None))


@prop("P25", "NaN in a key that is seen makes the rows that see it NaN: it is not hidden")
def nan_in_a_visible_key(f: Function, case: Case) -> Verdict | None:
    if case.S < 2 or case.L == 0 or case.E == 0 or case.Ev == 0:
        return None
    x = draw(case, f)
    key = x.key.copy()
    key[:, :, case.S // 2, 0] = np.nan
    out = f(x.query, key, x.value, **case.options)
    return PASSED if np.isnan(out).all() else failed("a row that sees a NaN score is a number")
