"""What a property is, the list of all, and the words in which they are written.

A property gets a function and a case, and returns a Verdict, or None where the case cannot show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .cases import Case, Inputs
from .function import Function
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
