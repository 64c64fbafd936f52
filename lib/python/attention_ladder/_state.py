"""What calls share: the tier a `with` block chose, and the counts behind `stats()`."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field

chosen_tier: ContextVar[str] = ContextVar("attention_ladder_tier", default="auto")
"""The tier of calls that name none; set by `attention(tier=...)`."""

chosen_error: ContextVar[float] = ContextVar("attention_ladder_error", default=0.0)
"""The largest relative error of calls that name none; set by `attention(max_relative_error=...)`."""


def tier_of(tier: str) -> str:
    """What a call that says `tier` takes, inside the `with` block around it."""
    return tier if tier != "auto" else chosen_tier.get()


def error_of(max_relative_error: float | None) -> float:
    """The same for the error: None is the block's."""
    return chosen_error.get() if max_relative_error is None else float(max_relative_error)


@dataclass
class Stats:
    """Where calls went since the start or the last `reset_stats()`."""

    ran: dict[str, int] = field(default_factory=dict)
    """Calls that ran here, by the tier that was asked for ("auto" when none was)."""
    torch: dict[str, int] = field(default_factory=dict)
    """Calls handed to torch's own function, by the reason."""

    def __str__(self) -> str:
        def line(counts: dict[str, int]) -> str:
            return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"

        return f"ran here: {line(self.ran)}\nhanded to torch: {line(self.torch)}"


_lock = threading.Lock()
_counts = Stats()


def count_run(tier: str) -> None:
    with _lock:
        _counts.ran[tier] = _counts.ran.get(tier, 0) + 1


def count_torch(reason: str) -> None:
    with _lock:
        _counts.torch[reason] = _counts.torch.get(reason, 0) + 1


def stats() -> Stats:
    """How many calls ran here, and how many went to torch's own function and why (a copy)."""
    with _lock:
        return Stats(dict(_counts.ran), dict(_counts.torch))


def reset_stats() -> None:
    """Sets every count of `stats()` to zero."""
    with _lock:
        _counts.ran.clear()
        _counts.torch.clear()
