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
    judge.add_argument("--weight-error", type=float, default=0.0)
    judge.add_argument("--property", action="append", help="only this one; may be repeated")
    judge.add_argument("--case", action="append", help="only this case; may be repeated")
    judge.add_argument("--json", type=Path, metavar="FILE")
    judge.add_argument("--html", type=Path, metavar="FILE")
    options = parser.parse_args()

    if options.command == "tiers":
        for tier in al.tiers():
            print(f"{tier.name:<18} {tier.idea}" + ("" if tier.available else f" ({tier.reason})"))
        return 0
    report = al.judge(
        resolve(options.function),
        name=options.function,
        arrays=options.arrays,
        dtype=options.dtype,
        device=options.device,
        weight_error=options.weight_error,
        properties=options.property,
        cases=options.case,
    )
    print(report)
    if options.json:
        options.json.write_text(report.to_json() + "\n")
    if options.html:
        options.html.write_text(report.to_html())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
