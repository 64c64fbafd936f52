#!/usr/bin/env python3
"""What the phases of one tile of the tier simd take, and the table of them in docs/steps_cpu.md.

    cmake --build build/release --target simd_phases
    python3 tests/bench/record_phases.py --cpu 3      measure, keep the record, write the table
    python3 tests/bench/record_phases.py --table      write the table from the newest record

Processor time of one thread; 400 rounds, in each of which the phases and a loop of multiply-adds take
turns. The record is docs/measured/simd_phases_<machine>.json.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys

from record import default_name, machine
from source_hash import ROOT, source_hash, tier_hash

PAGE = ROOT / "docs" / "steps_cpu.md"
BEGIN, END = "<!-- phases: written by record_phases.py -->", "<!-- end of phases -->"


def table(record):
    widths = sorted({row["E"] for row in record["rows"]})
    lines = ["| phase | " + " | ".join(f"E={E}: ns, best / median | share of peak, best / median" for E in widths) + " |",
             "|---|" + "---|---|" * len(widths)]
    for phase in dict.fromkeys(row["phase"] for row in record["rows"]):
        cells = [phase]
        for E in widths:
            row = next(r for r in record["rows"] if (r["E"], r["phase"]) == (E, phase))
            cells.append(f"{row['seconds_best'] * 1e9:.0f} / {row['seconds_median'] * 1e9:.0f}")
            cells.append(f"{row['share_of_peak_best']:.2f} / {row['share_of_peak_median']:.2f}" if row["flops"] else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"\n{record['machine']['cpu']}, {record['isa']}, {record['date'][:10]}, load {record['load_average']:.1f}; "
                 f"`{record['command']}`")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release", help="folder of the build")
    parser.add_argument("--cpu", type=int, help="pin to this core")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    folder = ROOT / "docs" / "measured"
    if arguments.table:
        records = sorted(folder.glob("simd_phases_*.json"), key=lambda path: json.loads(path.read_text())["date"])
        if not records:
            sys.exit("record_phases: there is no record yet")
        record = json.loads(records[-1].read_text())
    else:
        load = os.getloadavg()[0]
        pin = ["taskset", "-c", str(arguments.cpu)] if arguments.cpu is not None else []
        program = ROOT / arguments.build / "tests" / "bench" / "simd_phases"
        report = json.loads(subprocess.run(pin + [str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout)
        info = machine()
        record = {"kind": "simd phases", "command": "python3 tests/bench/record_phases.py",
                  "machine": {"name": default_name(info), **info}, "isa": report["isa"],
                  "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                  "source_hash": source_hash(), "tier_hash": tier_hash("simd"),
                  "clock": "processor time of the thread", "load_average": load, "rows": report["rows"]}
        path = folder / f"simd_phases_{default_name(info)}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {path.relative_to(ROOT)}")
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(head + BEGIN + "\n" + table(record) + "\n" + END + tail)
    print(table(record))


if __name__ == "__main__":
    main()
