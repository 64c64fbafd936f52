"""ONNX's own backend tests of the operator Attention, unmodified, on every tier; and the record of
which run and why the others cannot: docs/reports/onnx-attention.md.

    python tests/python/test_onnx.py     writes the record anew
"""

from __future__ import annotations

import sys
import unittest
import warnings
from pathlib import Path

import attention_ladder as al
import pytest

onnx = pytest.importorskip("onnx", minversion="1.23", reason="onnx is not installed")

RECORD = Path(__file__).parents[2] / "docs" / "reports" / "onnx-attention.md"
EXACT = [t for t in al.tiers() if t.available and not t.quantized]
TIERS = [t.name for t in EXACT if t.device == "cpu"]
GPU_TIERS = [t.name for t in EXACT if t.device == "gpu"]  # tested as well, and not in the record

from attention_ladder.plugins.onnx import AttentionBackend, why_not  # noqa: E402
from onnx.backend.test import BackendTest  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402, F401


def upstream(tier):
    """ONNX's test classes for one tier, restricted to the operator."""
    backend = type(f"Backend_{tier}", (AttentionBackend,), {"tier": tier})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from making the data of all other operators
        tests = BackendTest(backend, __name__)
    tests.include(r"^test_attention_.*_cpu$")
    return tests


def cases():
    """name -> model, of every Attention case that the installed onnx has."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {c.name: c.model for c in found if c.name.startswith("test_attention_")}


REASONS = {name: why_not(model) for name, model in cases().items()}
CLASSES = {}


def too_narrow(tier, name):
    """Why a case asks for more than the tier states; empty when it does not."""
    own = al.find_tier(tier).weight_error_f16
    if "fp16" in name and own + 2**-11 > 1e-3:  # both sides are rounded to float16
        return f"{tier} states an error of {own:.2g} in float16, and a case allows 1e-3 with rounding"
    return ""


for _tier in TIERS + GPU_TIERS:
    # Upstream's classes hold the tests of all operators; these hold those of ours that can run.
    _methods = {
        f"{name}_cpu": unittest.skipIf(too_narrow(_tier, name), too_narrow(_tier, name))(
            getattr(_case, f"{name}_cpu")
        )
        for _case in upstream(_tier).test_cases.values()
        for name, reason in REASONS.items()
        if not reason and hasattr(_case, f"{name}_cpu")
    }
    CLASSES[_tier] = type(f"OnnxAttention_{_tier}", (unittest.TestCase,), _methods)
    globals()[CLASSES[_tier].__name__] = CLASSES[_tier]


def outcome(tier, name):
    """ "passed", "skipped" or what failed, of one upstream test."""
    result = unittest.TestResult()
    CLASSES[tier](f"{name}_cpu").run(result)
    if result.errors or result.failures:
        return "failed"
    return "skipped" if result.skipped else "passed"


def record() -> str:
    """The table: every case, whether it runs, and if not, why."""
    reasons = dict(sorted(REASONS.items()))
    run = [name for name, reason in reasons.items() if not reason]
    lines = [
        "# ONNX's backend tests of the operator Attention, run unmodified",
        "",
        f"Cases of onnx {onnx.__version__}, through `attention_ladder.plugins.onnx`, on the CPU.",
        "Written by `python tests/python/test_onnx.py`; `tests/python/test_onnx.py` fails when it is",
        "out of date.",
        "",
        f"{len(run)} run, {len(reasons) - len(run)} cannot:",
        "",
    ]
    for reason in sorted(set(filter(None, reasons.values()))):
        names = [n for n, r in reasons.items() if r == reason]
        lines.append(f"- {len(names)}: {reason}")
    lines += ["", "## Run", "", "| case | on every CPU tier that is not quantized |", "|---|---|"]
    for name in run:
        bad = [tier for tier in TIERS if outcome(tier, name) != "passed"]
        verdict = f"failed on {', '.join(bad)}" if bad else "passed"
        lines.append(f"| {name.removeprefix('test_attention_')} | {verdict} |")
    lines += ["", "## Not run", "", "| case | reason |", "|---|---|"]
    for name, reason in reasons.items():
        if reason and not reason.startswith("a graph of other"):
            lines.append(f"| {name.removeprefix('test_attention_')} | {reason} |")
    expanded = sum(r.startswith("a graph of other") for r in reasons.values())
    lines += [
        "",
        f"The other {expanded} are the same cases again, `_expanded` into graphs of other",
        "operators, which test a runtime and not an attention.",
    ]
    return "\n".join(lines) + "\n"


def test_upstreams_tests_are_here():
    assert set(CLASSES) == {*TIERS, *GPU_TIERS}
    for tests in CLASSES.values():
        names = {n.removesuffix("_cpu") for n in dir(tests) if n.startswith("test_attention_")}
        assert names == {name for name, reason in REASONS.items() if not reason}


def test_only_what_cannot_be_expressed_is_left_out():
    """A case is skipped for one of three reasons; all others are run."""
    plain = {n: r for n, r in REASONS.items() if "_expanded" not in n}
    for name, reason in plain.items():
        assert not reason.startswith("a graph"), name
        if "softcap" in reason:
            assert "softcap" in name
        elif reason:
            assert "qk_matmul" in name or name == "test_attention_local_window_gqa_rank4_mask"
    assert sum(not r for r in plain.values()) >= 67


def test_an_ignored_argument_would_not_pass():
    """The adapter's cases are not degenerate: without its mask, a causal or cached case fails."""
    from attention_ladder.plugins import onnx as plugin

    original = plugin._visible
    plugin._visible = lambda x, attributes, L, S, mask: (mask, None)
    try:
        for name in (
            "test_attention_4d_causal",
            "test_attention_local_window",
            "test_attention_4d_causal_nonpad_batch_prefill",
        ):
            assert outcome(TIERS[0], name) == "failed", name
    finally:
        plugin._visible = original


def test_the_record_is_up_to_date():
    assert RECORD.read_text() == record(), "run: python tests/python/test_onnx.py"


if __name__ == "__main__":
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(record())
    sys.exit("failed" in RECORD.read_text())
