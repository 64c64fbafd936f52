"""Properties of a call: heads, batches, layouts, sizes of 0, and arguments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .cases import Case, draw
from .function import Function, Refused
from .property import PASSED, both_within, equal, failed, judged, prop, right, run, worst_of
from .reference import Verdict, judge_out


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
            alone[b, h] = f(
                x.query[b : b + 1, h : h + 1],
                x.key[b : b + 1, g : g + 1],
                x.value[b : b + 1, g : g + 1],
            )[0, 0]
    return both_within(f, case, x, alone)


@prop("P16", "any strides give the result of contiguous tensors")
def strides_do_not_matter(f: Function, case: Case) -> Verdict | None:
    x = draw(case, f)
    blhe = [
        np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (x.query, x.key, x.value)
    ]
    gaps = [np.repeat(a, 2, -1)[..., ::2] for a in (x.query, x.key, x.value)]
    columns = [
        np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3) for a in (x.query, x.key, x.value)
    ]
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
    return _raises(
        f,
        x.query,
        x.key,
        x.value,
        mask=x.mask,
        is_causal=True,
        **case.options,
        why="attn_mask and is_causal=True were both taken",
    )


@prop("P19", "a value with more rows than key raises")
def key_and_value_must_fit(f: Function, case: Case) -> Verdict | None:
    if case.S < 2:
        return None
    x = draw(case, f)
    return _raises(
        f, x.query, x.key[:, :, :-1], x.value, why="value is longer than key", **case.options
    )
