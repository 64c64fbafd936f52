"""Attention Ladder: scaled dot-product attention, from the formula to the tensor cores.

    import attention_ladder as al
    import torch.nn.functional as F
    F.scaled_dot_product_attention = al.scaled_dot_product_attention

`tiers()` lists the steps of the ladder; `explain(...)` says which one a call takes and why;
`attention(tier=...)` chooses one for a block of code; `stats()` says where the calls went;
`judge(fn)` examines any function of the same signature.
"""

from importlib.metadata import version as _version

from ._attention import attention, explain, scaled_dot_product_attention
from ._errors import (
    BadDevice,
    BadDtype,
    BadOption,
    BadShape,
    DeviceError,
    Error,
    NoMemory,
    Unavailable,
    Unsupported,
)
from ._inputs import generate, generators
from ._judge import Finding, Report, judge
from ._state import Stats, reset_stats, stats
from ._tiers import Candidate, Explanation, Tier, find_tier, tiers

__version__ = _version("attention-ladder")

__all__ = [
    "BadDevice",
    "BadDtype",
    "BadOption",
    "BadShape",
    "Candidate",
    "DeviceError",
    "Error",
    "Explanation",
    "Finding",
    "NoMemory",
    "Report",
    "Stats",
    "Tier",
    "Unavailable",
    "Unsupported",
    "attention",
    "explain",
    "find_tier",
    "generate",
    "generators",
    "judge",
    "reset_stats",
    "scaled_dot_product_attention",
    "stats",
    "tiers",
]
