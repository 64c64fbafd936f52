"""The judge as a tool: examines any function that has the signature of attention."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .._errors import BadOption
from .cases import Case, every_case, parse, plain_cases
from .function import Broke, Function, Refused
from .properties import PROPERTIES, Property
from .property import failed
from .report import Finding, Report

__all__ = ["judge", "Report", "Finding"]


def judge(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    arrays: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    weight_error: float = 0.0,
    properties: Iterable[str] | None = None,
    cases: Iterable[str] | None = None,
) -> Report:
    """Examines `fn`, property by property, on cases from small to large.

    :param fn: called as torch's ``scaled_dot_product_attention(query, key, value, attn_mask=None,
        dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)``; an option that is not needed
        is not passed. A function that raises is reported as refusing, not as wrong; one that breaks
        the GPU for this process ends the examination there (`Report.stopped_at`).
    :param name: for the report and its repro lines, best one that the command line understands:
        "module:function", "torch:MATH", "tier:online".
    :param arrays: "torch" or "numpy": what `fn` takes. Default: torch when it is installed.
    :param dtype: "float64", "float32", "float16" or "bfloat16".
    :param device: for torch: "cpu", "cuda", ...
    :param weight_error: what `fn` states about its weights, relative, beyond rounding of its compute
        type; 2**-11 for weights rounded to float16, 2**-8 to bfloat16.
    :param properties: names of the properties to examine; default all.
    :param cases: cases in the form in which reports write them; default the whole list.
    """
    if arrays is None:
        arrays = "torch" if _installed("torch") else "numpy"
    label = name or f"{getattr(fn, '__module__', '?')}:{getattr(fn, '__qualname__', repr(fn))}"
    f = Function(fn, label, arrays, dtype, device, weight_error)
    given = None if cases is None else [parse(text) for text in cases]
    report = Report(label, arrays, dtype, device, weight_error, versions=_versions(arrays))
    for prop in _chosen(properties):
        finding = Finding(prop.id, prop.name, prop.says)
        report.findings.append(finding)
        if not _examine(f, prop, given, finding):
            report.stopped_at = prop.name
            break
    return report


def _chosen(names: Iterable[str] | None) -> list[Property]:
    if names is None:
        return PROPERTIES
    wanted = list(names)
    known = {p.name: p for p in PROPERTIES}
    for name in wanted:
        if name not in known:
            raise BadOption(f"there is no property {name!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def _examine(f: Function, prop: Property, cases: list[Case] | None, finding: Finding) -> bool:
    """Fills `finding`; False when nothing can run after it."""
    for case in cases or (every_case() if prop.whole else plain_cases()):
        try:
            with warnings.catch_warnings():  # a function may warn for each case that it refuses
                warnings.simplefilter("ignore")
                verdict = prop.check(f, case)
        except Refused as refusal:
            finding.refuse(str(case), str(refusal))
            continue
        except Broke as why:
            finding.add(str(case), failed(f"the GPU answers no more: {why}"), _repro(f, prop, case))
            return False
        if verdict is not None:
            finding.add(str(case), verdict, _repro(f, prop, case))
    return True


def _repro(f: Function, prop: Property, case: Case) -> str:
    extra = "" if f.dtype == "float32" else f" --dtype {f.dtype}"
    extra += "" if f.device == "cpu" else f" --device {f.device}"
    extra += f" --weight-error {f.weight_error!r}" if f.weight_error else ""
    return (
        f"python -m attention_ladder judge {f.name} --arrays {f.arrays}{extra} "
        f"--property {prop.name} --case {case}"
    )


def _installed(package: str) -> bool:
    if package in sys.modules:
        return True
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _versions(arrays: str) -> dict[str, str]:
    names = ["attention-ladder", "numpy"] + (["torch"] if arrays == "torch" else [])
    return {name: version(name) for name in names if _installed(name)}
