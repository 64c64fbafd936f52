"""What all tests share: the tiers to run, and numbers that do not depend on the machine's load."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before numpy and the module start their threads: more of them than cores only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import attention_ladder as al  # noqa: E402
import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # harness.py

hypothesis.settings.register_profile(
    "suite",
    deadline=None,  # a shared machine may stall
    derandomize=True,
    max_examples=60,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

CPU_TIERS = [
    t
    for t in al.tiers()
    if t.available and t.device == "cpu" and os.environ.get("ATTN_TIER", t.name) == t.name
]
EXACT_TIERS = [t.name for t in CPU_TIERS if not t.quantized]


@pytest.fixture(params=EXACT_TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier that runs here and is judged by the exact bound. ATTN_TIER restricts to one."""
    return str(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    al.reset_stats()


def pytest_report_header() -> str:
    torch = sys.modules.get("torch")
    return (
        f"tiers: {', '.join(EXACT_TIERS)}; torch: {torch.__version__ if torch else 'not imported'}"
    )
