#!/usr/bin/env python3
"""Runs int8_bench and keeps what it measured in docs/measured/int8_<what>_<machine>.json.

    python3 tests/bench/record_int8.py accuracy   error on every generator and on a captured layer
    python3 tests/bench/record_int8.py speed      one thread against the tier simd
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

from record import default_name, machine
from source_hash import ROOT, source_hash, tier_hash


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--build", default="build/release", help="folder of the build")
    parser.add_argument("--cpu", type=int, help="pin to this core")
    arguments = parser.parse_args()

    program = ROOT / arguments.build / "tests" / "bench" / "int8_bench"
    command = ["taskset", "-c", str(arguments.cpu)] if arguments.cpu is not None else []
    run = subprocess.run(command + [str(program), arguments.what], stdout=subprocess.PIPE, text=True)
    if not run.stdout.rstrip().endswith("]}"):
        return 1  # it has said why
    report = json.loads(run.stdout)
    info = machine()
    name = default_name(info)
    record = {
        "kind": f"int8 {arguments.what}",
        "command": f"python3 tests/bench/record_int8.py {arguments.what}",
        "machine": {"name": name, **info},
        "isa": report["isa"],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "source_hash": source_hash(),
        "tier_hash": tier_hash("int8"),
        "clock": "processor time of the thread",
        "load_average": os.getloadavg()[0],
        "floors_reached": run.returncode == 0,
        "rows": report["rows"],
    }
    if arguments.what == "accuracy":
        for part in ("floors_reached", "clock", "load_average"):
            del record[part]
    path = ROOT / "docs" / "measured" / f"int8_{arguments.what}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(row) for row in record.pop("rows"))
    path.write_text(json.dumps(record, indent=1)[:-2] + ',\n "rows": [\n' + rows + "\n ]\n}\n")
    print(f"wrote {path.relative_to(ROOT)}")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
