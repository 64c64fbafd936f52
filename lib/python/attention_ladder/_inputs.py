"""The library's seeded inputs: the same bits on every machine, as numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import _core

Float32 = NDArray[np.float32]


def generators() -> dict[str, str]:
    """Every input generator's name, and what it is about."""
    return dict(_core.generators())


def generate(
    generator: str = "gauss",
    *,
    B: int = 1,
    Hq: int = 1,
    H: int | None = None,
    L: int = 1,
    S: int | None = None,
    E: int = 64,
    Ev: int | None = None,
    seed: int = 0,
) -> tuple[Float32, Float32, Float32]:
    """Draws (query, key, value) of one problem. Absent sizes: H = Hq, S = L, Ev = E.

    :raises BadOption: for an unknown generator.
    """
    H = Hq if H is None else H
    S = L if S is None else S
    Ev = E if Ev is None else Ev
    query, key, value = _core.generate(generator, B, Hq, H, L, S, E, Ev, seed)
    return query, key, value
