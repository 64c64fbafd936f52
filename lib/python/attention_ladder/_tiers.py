"""The ladder as data: what each tier is, and why `auto` takes one."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core


@dataclass(frozen=True)
class Tier:
    """One rung of the ladder: its name, the one idea it adds, and its limits."""

    name: str
    builds_on: str
    idea: str
    device: str
    """"cpu" or "gpu"."""
    parallel: bool
    """It shares its work among threads."""
    available: bool
    """It can run on this machine."""
    reason: str
    """Why it cannot; empty when it can."""
    dtypes: tuple[str, ...]
    boolean_mask: bool
    additive_mask: bool
    causal: bool
    grouped_heads: bool
    logsumexp: bool
    max_head_dim: int
    """Of E and Ev; 0: any."""
    requires: str
    """"sm_90a", "AVX2", ...; empty: nothing special."""
    weight_error: float
    """Rounding that the tier adds to its weights, relative: float32 and float64 inputs."""
    weight_error_f16: float
    weight_error_bf16: float
    quantized: bool
    """Judged by the criteria for quantized tiers, not by the exact bound."""


@dataclass(frozen=True)
class Candidate:
    """A tier, and what `auto` thinks of it for one problem."""

    tier: str
    able: bool
    reason: str
    estimated_seconds: float
    scratch_bytes: int


@dataclass(frozen=True)
class Explanation:
    """Which tier a call takes, and why each other was not taken. `print` it for a table."""

    tier: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        width = max(len(c.tier) for c in self.candidates)
        return "\n".join(
            f"{'*' if c.tier == self.tier else ' '} {c.tier:<{width}}  {c.reason}"
            for c in self.candidates
        )


def tiers() -> tuple[Tier, ...]:
    """Every tier, simplest first, also those that cannot run here."""
    return tuple(Tier(**row) for row in _core.tiers())


def find_tier(name: str) -> Tier | None:
    """The tier of that name, or None."""
    return next((tier for tier in tiers() if tier.name == name), None)
