"""What is true of attention, whoever computes it. One function for each property.

A property gets a function and a case, and returns a Verdict, or None where the case cannot show it.
The identifiers (P1, ...) are those of the table of properties in the documentation of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from .cases import Case, Inputs, draw
from .function import Function, Refused
from .reference import Reference, Verdict, judge_out, judge_pair, reference

Check = Callable[[Function, Case], "Verdict | None"]


@dataclass(frozen=True)
class Property:
    id: str
    name: str
    says: str
    check: Check
    whole: bool
    """Judged on every case, with its mask, rule and scale; else on the plain ones."""


PROPERTIES: list[Property] = []


def prop(id: str, says: str, whole: bool = False) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        PROPERTIES.append(Property(id, check.__name__, says, check, whole))
        return check

    return add


# ---- helpers -------------------------------------------------------------------------------------


def run(f: Function, case: Case, x: Inputs) -> np.ndarray:
    return f(x.query, x.key, x.value, x.mask, **case.options)


def right(f: Function, case: Case, x: Inputs) -> Reference:
    return reference(x.query, x.key, x.value, x.mask, case.rule, case.scale, f.dtype)


def judged(f: Function, case: Case, x: Inputs) -> Verdict:
    return judge_out(run(f, case, x), right(f, case, x), f.weight_error)


def both_within(f: Function, case: Case, x: Inputs, other: np.ndarray) -> Verdict:
    """The result for `x`, and another that should be the same."""
    return judge_pair(run(f, case, x), other, right(f, case, x), f.weight_error)


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=lambda v: v.ratio, default=PASSED)


def equal(a: np.ndarray, b: np.ndarray) -> Verdict:
    """The same numbers; NaN equals NaN."""
    if a.shape != b.shape:
        return Verdict(np.inf, problem=f"shape {a.shape}, but {b.shape} is right")
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differ.any():
        return Verdict(0.0)
    at = tuple(int(i) for i in np.argwhere(differ)[0])
    return Verdict(np.inf, at, float(a[at]), float(b[at]))


def failed(problem: str) -> Verdict:
    return Verdict(np.inf, problem=problem)


PASSED = Verdict(0.0)


# ---- numbers -------------------------------------------------------------------------------------


@prop("formula", "the result is the formula's, within the bound derived for each element", whole=True)
def formula(f: Function, case: Case) -> Verdict | None:
    return judged(f, case, draw(case, f))


@prop("P1", "values that are all 1 give 1: nothing is added to the weights or lost")
def constant_values_come_back(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    return judged(f, case, Inputs(x.query, x.key, np.ones_like(x.value), None))


@prop("P2", "the order of the keys does not matter")
def keys_may_be_permuted(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    order = np.random.default_rng(case.seed).permutation(case.S)
    return both_within(f, case, x, f(x.query, x.key[:, :, order], x.value[:, :, order], **case.options))


@prop("P3", "adding one vector to every key changes nothing")
def keys_may_be_shifted(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    shift = f.round(np.random.default_rng(case.seed).integers(-4, 5, (1, case.H, 1, case.E)) * 1.0)
    key = np.rint(x.key * 8) / 8  # so that the sum is exact in every dtype
    moved = Inputs(x.query, key + shift, x.value, None)
    return both_within(f, case, moved, f(x.query, key, x.value, **case.options))


@prop("P4", "no scale means 1/sqrt(E), of the E that was given")
def default_scale(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    given = f(x.query, x.key, x.value, **{**case.options, "scale": 1 / np.sqrt(case.E)})
    return both_within(f, case, x, given)


@prop("P5", "a negative scale is used as it is")
def negative_scale(f: Function, case: Case) -> Verdict | None:
    turned = replace(case, scale=-0.7)
    return judged(f, turned, draw(turned, f))


@prop("P5", "scale 0 gives every key the same weight: the mean of the values")
def zero_scale(f: Function, case: Case) -> Verdict | None:
    flat = replace(case, scale=0.0)
    return judged(f, flat, draw(flat, f))


@prop("P6", "every output lies between the smallest and the largest value it is a mean of")
def between_the_values(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    if case.S == 0:
        return None
    out, r = run(f, case, x), right(f, case, x)
    value = np.repeat(x.value, case.Hq // case.H, 1)
    low, high = value.min(2, keepdims=True), value.max(2, keepdims=True)
    nearest = Reference(f.dtype, np.clip(out, low, high), r.logsumexp, r.value_size, r.score_size)
    return judge_out(out, nearest, f.weight_error)


@prop("P31", "more score for a key moves the output towards its value")
def more_score_pulls(f: Function, case: Case) -> Verdict | None:
    if case.S < 2 or case.L == 0:
        return None
    x = draw(case, f)
    mask = np.zeros((case.L, case.S))
    mask[:, 0] = 6.0
    value = x.value.copy()
    value[:, :, 0] = 100
    plain, pulled = (f(x.query, x.key, value, m, **case.options) for m in (mask * 0, mask))
    return PASSED if (pulled >= plain).all() else failed("the output moved away from the key's value")


@prop("P23", "large scores, up to 1e4, stay finite and right")
def large_scores(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    top = 300.0 if f.dtype == "float16" else 1e4
    return judged(f, case, Inputs(f.round(x.query * top), x.key, x.value, None))


@prop("P24", "a row whose scores are all far below zero is as good as any other")
def scores_far_below_zero(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    lowered = replace(case, mask="float")
    mask = f.round(np.full((case.L, case.S), -1e4))
    return judged(f, lowered, Inputs(x.query, x.key, x.value, mask))


@prop("P33", "a narrow dtype loses no more than its own rounding: sums are at least float32")
def sums_are_wide(f: Function, case: Case) -> Verdict | None:
    if f.dtype not in ("float16", "bfloat16"):
        return None
    x = draw(case, f)
    return judged(f, case, Inputs(x.query, x.key, f.round(np.abs(x.value) + 1), x.mask))


# ---- causality and masks -------------------------------------------------------------------------


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


# ---- heads, batches, layouts ---------------------------------------------------------------------


@prop("P12", "query head h reads key head h / (Hq / H)")
def grouped_heads_repeat(f: Function, case: Case) -> Verdict | None:
    if case.Hq == case.H:
        return None
    x = draw(case, f)
    times = case.Hq // case.H
    key, value = (np.repeat(a, times, 1) for a in (x.key, x.value))
    return both_within(f, case, x, f(x.query, key, value))


@prop("P13", "every batch element and head is computed by itself")
def heads_are_independent(f: Function, case: Case) -> Verdict | None:
    if case.B * case.Hq == 1:
        return None
    x = draw(case, f)
    whole = run(f, case, x)
    alone = np.empty_like(whole)
    for b in range(case.B):
        for h in range(case.Hq):
            g = h // (case.Hq // case.H)
            alone[b, h] = f(x.query[b:b+1, h:h+1], x.key[b:b+1, g:g+1], x.value[b:b+1, g:g+1])[0, 0]
    return both_within(f, case, x, alone)


@prop("P16", "any strides give the result of contiguous tensors")
def strides_do_not_matter(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    blhe = [np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (x.query, x.key, x.value)]
    gaps = [np.repeat(a, 2, -1)[..., ::2] for a in (x.query, x.key, x.value)]
    columns = [np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3) for a in (x.query, x.key, x.value)]
    return worst_of(
        both_within(f, case, x, f(*views, **case.options)) for views in (blhe, gaps, columns)
    )


@prop("P18", "the inputs are unchanged after the call")
def inputs_are_unchanged(f: Function, case: Case) -> Verdict | None:
    x = draw(replace(case, mask="bool"), f)
    given = [f.give(a) for a in (x.query, x.key, x.value)]
    f.raw(*given, attn_mask=f.give(x.mask), **case.options)
    for before, after in zip((x.query, x.key, x.value), given):
        verdict = equal(f.take(after), before)
        if not verdict.ok:
            return verdict
    return PASSED


@prop("P22", "the same call gives the same bits")
def same_bits_again(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    first = run(f, case, x)
    for _ in range(3):
        verdict = equal(run(f, case, x), first)
        if not verdict.ok:
            return verdict
    return PASSED


@prop("P28", "sizes of 0 are sizes: no rows, no keys, no columns, no batch")
def empty_sizes(f: Function, case: Case) -> Verdict | None:
    for axis in ("B", "L", "S", "E", "Ev"):
        empty = replace(case, **{axis: 0})
        verdict = judged(f, empty, draw(empty, f))
        if not verdict.ok:
            return Verdict(verdict.ratio, problem=f"{axis}=0: {verdict}")
    return PASSED


# ---- arguments -----------------------------------------------------------------------------------


def _raises(f: Function, *tensors: np.ndarray, why: str, **options: object) -> Verdict:
    mask = options.pop("mask", None)
    assert mask is None or isinstance(mask, np.ndarray)
    try:
        f(*tensors, mask, **options)
    except Refused:
        return PASSED
    return failed(why)


@prop("P34", "an unknown keyword raises")
def unknown_keywords_raise(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    return _raises(f, x.query, x.key, x.value, sm_scale=3.0, why="sm_scale=3.0 was swallowed")


@prop("P34", "positional arguments mean what torch's mean")
def positions_are_torchs(f: Function, case: Case) -> Verdict | None:
    masked = replace(case, mask="bool")
    x = draw(masked, f)
    out = f.raw(*(f.give(a) for a in (x.query, x.key, x.value, x.mask)), 0.0, False, **case.options)
    return judge_out(out, right(f, masked, x), f.weight_error)


@prop("docs", "a mask together with is_causal raises, as torch documents")
def mask_and_causal_raise(f: Function, case: Case) -> Verdict | None:
    x = draw(replace(case, mask="bool"), f)
    return _raises(f, x.query, x.key, x.value, mask=x.mask, is_causal=True, **case.options,
                   why="attn_mask and is_causal=True were both taken")


@prop("P19", "a value with more rows than key raises")
def key_and_value_must_fit(f: Function, case: Case) -> Verdict | None:
    if case.S < 2:
        return None
    x = draw(case, f)
    return _raises(f, x.query, x.key[:, :, :-1], x.value, why="value is longer than key", **case.options)
