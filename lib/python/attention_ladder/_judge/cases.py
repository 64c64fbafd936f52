"""The problems that functions are examined on, smallest first, and how one is written as text."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from .function import Function

MASKS = ("none", "bool", "rows", "float", "heads", "keys")


@dataclass(frozen=True)
class Case:
    """One problem: its sizes, and what else is given. Its text form is read back by `parse`."""

    B: int = 1
    Hq: int = 1
    H: int = 1
    L: int = 1
    S: int = 1
    E: int = 1
    Ev: int = 1
    mask: str = "none"
    """none; bool: (B, 1, L, S), every row sees a key; rows: bool, with rows that see none; float:
    (L, S), additive with -inf; heads: (Hq, L, S) bool; keys: (B, 1, 1, S) bool."""
    causal: bool = False
    scale: float | None = None
    sharp: float = 1.0
    """Multiplies the queries: large scores, hence nearly one-hot weights."""
    seed: int = 0

    @property
    def work(self) -> int:
        return self.B * self.Hq * (self.L + 1) * (self.S + 1) * (self.E + self.Ev + 1)

    def __str__(self) -> str:
        default = Case()
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ",".join(f"{n}={v}" for n, v in given if v != getattr(default, n) or len(n) < 3)

    @property
    def options(self) -> dict[str, object]:
        """The keywords of a call besides the mask."""
        given: dict[str, object] = {}
        if self.causal:
            given["is_causal"] = True
        if self.scale is not None:
            given["scale"] = self.scale
        if self.Hq != self.H:
            given["enable_gqa"] = True
        return given

    @property
    def rule(self) -> str | None:
        return "upper_left" if self.causal else None


def parse(text: str) -> Case:
    """Reads back ``str(case)``.

    :raises ValueError: for an unknown name or value.
    """
    default, given = Case(), {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if not hasattr(default, name) or name not in {f.name for f in fields(Case)}:
            raise ValueError(f"a case has no {name!r}")
        kind = {"mask": str, "causal": bool, "scale": float, "sharp": float}.get(name, int)
        given[name] = value == "True" if kind is bool else kind(value)
    case = replace(default, **given)
    if case.mask not in MASKS:
        raise ValueError(f"a case has no mask {case.mask!r}; there are {', '.join(MASKS)}")
    return case


@dataclass(frozen=True)
class Inputs:
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: np.ndarray | None


def draw(case: Case, f: Function) -> Inputs:
    """The tensors of a case, rounded to the function's dtype. The same seed, the same numbers."""
    rng = np.random.default_rng(case.seed)
    c = case
    query = f.round(rng.standard_normal((c.B, c.Hq, c.L, c.E)) * c.sharp)
    key = f.round(rng.standard_normal((c.B, c.H, c.S, c.E)))
    value = f.round(rng.standard_normal((c.B, c.H, c.S, c.Ev)))
    return Inputs(query, key, value, _mask(case, rng, f))


def _mask(c: Case, rng: np.random.Generator, f: Function) -> np.ndarray | None:
    if c.mask == "none":
        return None
    shape = {"float": (c.L, c.S), "heads": (c.Hq, c.L, c.S), "keys": (c.B, 1, 1, c.S)}.get(
        c.mask, (c.B, 1, c.L, c.S)
    )
    visible = rng.random(shape) < 0.6
    if c.mask == "rows":
        visible &= rng.random((*shape[:-1], 1)) < 0.5
        if c.L and c.S:
            visible[..., 0, :] = False
    elif c.S:  # every row sees a key
        rows = np.indices(shape[:-1]).reshape(len(shape) - 1, -1)
        visible[(*rows, rng.integers(0, c.S, rows.shape[1]))] = True
    if c.mask != "float":
        return visible
    return np.where(visible, f.round(rng.standard_normal(shape)), -np.inf)


SIZES = [
    dict(L=1, S=1, E=1, Ev=1),
    dict(L=2, S=3, E=2, Ev=2),
    dict(L=3, S=5, E=4, Ev=3),
    dict(B=2, Hq=3, H=3, L=4, S=6, E=8, Ev=8),
    dict(B=2, Hq=4, H=2, L=7, S=9, E=16, Ev=8),
    dict(B=1, Hq=6, H=1, L=1, S=33, E=24, Ev=40),
    dict(B=1, Hq=2, H=2, L=17, S=31, E=40, Ev=40),
    dict(B=2, Hq=2, H=2, L=65, S=64, E=64, Ev=64),
    dict(B=1, Hq=2, H=1, L=63, S=129, E=72, Ev=80),
    dict(B=1, Hq=1, H=1, L=130, S=257, E=96, Ev=33),
]
"""Around the sizes of tiles and vectors, where kernels change their path."""


def every_case() -> list[Case]:
    """Each size with each mask and rule, smallest first."""
    found = [Case(**sizes, seed=i) for i, sizes in enumerate(SIZES)]
    for i, sizes in enumerate(SIZES[1:]):
        found += [Case(**sizes, mask=mask, seed=100 + i) for mask in MASKS[1:]]
        found += [
            Case(**sizes, causal=True, seed=200 + i),
            Case(**sizes, scale=-0.5, seed=300 + i),
            Case(**sizes, scale=0.0, seed=400 + i),
            Case(**sizes, sharp=10.0, seed=500 + i),
        ]
    return sorted(found, key=lambda case: case.work)


def plain_cases() -> list[Case]:
    """Each size without mask or rule, smallest first: properties bring their own."""
    return sorted((Case(**sizes, seed=i) for i, sizes in enumerate(SIZES)), key=lambda c: c.work)
