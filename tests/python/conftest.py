"""What all tests share: the tiers to run, and numbers that do not depend on the machine's load."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before numpy and the module start their threads: more of them than cores only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of a GPU

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

TIERS = [t for t in al.tiers() if t.available and os.environ.get("ATTN_TIER", t.name) == t.name]
CPU_TIERS = [t for t in TIERS if t.device == "cpu"]
EXACT_TIERS = [t.name for t in CPU_TIERS if not t.quantized]
EXACT_GPU_TIERS = [t.name for t in TIERS if t.device == "gpu" and not t.quantized]


def why_no_gpu() -> str:
    """Why CUDA tensors cannot be tested here; empty when they can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    if not any(t.available for t in al.tiers() if t.device == "gpu"):
        return "no GPU tier: " + next(t.reason for t in al.tiers() if t.device == "gpu")
    return ""


NO_GPU = why_no_gpu()
if NO_GPU and os.environ.get("ATTN_REQUIRE_GPU"):
    raise RuntimeError(f"ATTN_REQUIRE_GPU is set, but there is {NO_GPU}")
needs_gpu = pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU)
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`tier`: each tier that runs here and is judged by the exact bound (ATTN_TIER restricts to one).
    `device`: where torch's tensors lie. Both: the tiers that compute there; only `tier`: the CPU's.
    A test that says itself which ones it wants gets those."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    names = [name for name in metafunc.fixturenames if name not in given]
    if "device" in names and "tier" in names:
        on_gpu = EXACT_GPU_TIERS or ["every GPU tier"]
        pairs = [pytest.param("cpu", t, id=t) for t in EXACT_TIERS]
        pairs += [pytest.param("cuda", t, id=f"cuda-{t}", marks=needs_gpu) for t in on_gpu]
        metafunc.parametrize("device, tier", pairs)
    elif "device" in names:
        metafunc.parametrize("device", DEVICES)
    elif "tier" in names:
        metafunc.parametrize("tier", EXACT_TIERS)


@pytest.fixture
def tensors_on_device(device: str) -> Iterator[str]:
    """torch makes its tensors on `device`, the same ones each time."""
    import torch

    torch.set_num_threads(1)  # two OpenMP runtimes on a shared machine wait for each other
    torch.manual_seed(3)
    with torch.device(device) if device != "cpu" else contextlib.nullcontext():
        yield device


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    al.reset_stats()


def pytest_report_header() -> str:
    torch = sys.modules.get("torch")
    return (
        f"tiers: {', '.join(EXACT_TIERS + EXACT_GPU_TIERS)}; torch: {torch.__version__ if torch else 'not imported'}"
    )
