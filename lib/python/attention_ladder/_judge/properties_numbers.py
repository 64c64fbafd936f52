"""Properties of the numbers: weights, scale, sums, large and small scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .cases import Case, Inputs, draw
from .function import Function
from .property import PASSED, both_within, failed, judged, prop, right, run
from .reference import Verdict, judge_out


@prop(
    "formula", "the result is the formula's, within the bound derived for each element", whole=True
)
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
    return both_within(
        f, case, x, f(x.query, x.key[:, :, order], x.value[:, :, order], **case.options)
    )


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
    nearest = replace(r, out=np.clip(out, low, high))
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
    return (
        PASSED if (pulled >= plain).all() else failed("the output moved away from the key's value")
    )


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
