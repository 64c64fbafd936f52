"""python -m attention_ladder: tiers, or judge a function."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import attention_ladder as al

from ._judge.function import resolve


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m attention_ladder",
        description=al.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tiers", help="list the steps of the ladder")
    judge = commands.add_parser("judge", help="examine a function, property by property")
    judge.add_argument("function", help='"module:function", "torch:MATH", "tier:online"')
    judge.add_argument("--arrays", choices=("torch", "numpy"))
    judge.add_argument(
        "--dtype", default="float32", choices=("float64", "float32", "float16", "bfloat16")
    )
    judge.add_argument("--device", default="cpu")
    judge.add_argument("--weight-error", type=float, help="default: what a tier states; else 0")
    judge.add_argument("--property", action="append", help="only this one; may be repeated")
    judge.add_argument("--case", action="append", help="only this case; may be repeated")
    judge.add_argument("--json", type=Path, metavar="FILE", help="- : to standard output instead")
    judge.add_argument("--html", type=Path, metavar="FILE")
    options = parser.parse_args()

    if options.command == "tiers":
        for tier in al.tiers():
            print(f"{tier.name:<18} {tier.idea}" + ("" if tier.available else f" ({tier.reason})"))
        return 0
    weight_error = options.weight_error
    if weight_error is None:
        weight_error = _stated(options.function, options.dtype)
    report = al.judge(
        resolve(options.function),
        name=options.function,
        arrays=options.arrays,
        dtype=options.dtype,
        device=options.device,
        weight_error=weight_error,
        properties=options.property,
        cases=options.case,
    )
    to_stdout = options.json == Path("-")
    print(report.to_json() if to_stdout else report)
    if options.json and not to_stdout:
        options.json.write_text(report.to_json() + "\n")
    if options.html:
        options.html.write_text(report.to_html())
    return 0 if report.ok else 1


def _stated(function: str, dtype: str) -> float:
    """The error of its weights that a tier states; of others nothing is known."""
    tier = al.find_tier(function.removeprefix("tier:")) if function.startswith("tier:") else None
    if tier is None:
        return 0.0
    sixteen = {"float16": tier.weight_error_f16, "bfloat16": tier.weight_error_bf16}
    return sixteen.get(dtype, tier.weight_error)


if __name__ == "__main__":
    sys.exit(main())
