#!/usr/bin/env python3
"""Runs attn_bench and keeps what it measured in docs/measured/<machine>.json.

    ./run bench                       every tier on every bench case
    ./run bench --filter '^simd/'     the rows that match; all others stay as they were recorded
    ./run bench --threads 1,2,16      thread counts for the parallel tiers
    ./run bench --update-speeds       only makes lib/speeds.def, by which auto chooses, from the record

A row is one tier on one case with one number of threads. Times are in seconds, of one call.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile

from source_hash import ROOT, source_hash, tier_hash

SIZES = ("B", "Hq", "H", "L", "S", "E", "Ev")


def machine() -> dict:
    info = {"cpu": platform.processor() or platform.machine()}
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.*)$", cpuinfo.read_text(), re.M)
        if found:
            info["cpu"] = " ".join(found[1].split())
    info["cores"] = len(os.sched_getaffinity(0))  # as this process may use them
    info["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    info["system"] = f"{platform.system()} {platform.machine()}"
    return info


def default_name(info: dict) -> str:
    cpu = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", info["cpu"].lower())
    return "-".join(re.findall(r"[a-z0-9.]+", cpu)) + f"-{info['cores']}-cores"


def percentile(values: list, share: float) -> float:
    """Of sorted values, with linear interpolation."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def measure(program: pathlib.Path, pattern: str, threads: str) -> dict:
    """Google Benchmark's own report of one run. Repetitions of all rows are interleaved, so that
    a busy minute of the machine hits rivals alike."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [str(program), "--benchmark_enable_random_interleaving=true",
                   f"--benchmark_out={report.name}", "--benchmark_out_format=json"]
        if pattern:
            command.append(f"--benchmark_filter={pattern}")
        if threads:
            command.append(f"--threads={threads}")
        print("judging, then measuring; a few minutes for all rows", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.load(report)


def rows_of(report: dict) -> list:
    runs: dict = {}
    for run in report["benchmarks"]:
        if run["run_type"] == "iteration":
            runs.setdefault(run["run_name"], []).append(run)
    rows = []
    stamp = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    for name, repeats in runs.items():
        tier, case = name.split("/")[:2]
        seconds = sorted(run["real_time"] * 1e-3 for run in repeats)  # reported in ms
        first = repeats[0]
        median = statistics.median(seconds)
        rows.append({
            "tier": tier,
            "case": case,
            "threads": int(first["threads"]),
            "dtype": first["label"].split()[0],
            "causal": first["label"].endswith("causal"),
            "sizes": {axis: int(first[axis]) for axis in SIZES},
            "seconds": {"median": median, "p10": percentile(seconds, 0.1),
                        "p90": percentile(seconds, 0.9), "min": seconds[0], "max": seconds[-1],
                        "repetitions": len(seconds)},
            "flops": first["flops"],
            "bytes": first["bytes"],
            "gflops_per_second": first["flops"] / median * 1e-9,
            "scratch_bytes": int(first["scratch_bytes"]),
            "worst_error": first["worst_error"],
            "bound": first["bound"],
            "worst_ratio": first["worst_ratio"],
            "cosine": first["cosine"],
            "date": stamp,
            "source_hash": source_hash(),
            "tier_hash": tier_hash(tier),
        })
    return rows


def key_of(row: dict) -> tuple:
    return row["case"], row["tier"], row["threads"]


def ladder() -> list:
    """Names of all tiers, in the ladder's order."""
    text = (ROOT / "lib" / "tiers.def").read_text()
    return re.findall(r"^ATTN_(?:CPU|GPU)_TIER\((\w+),", text, re.M)


def show(rows: list) -> None:
    print(f"{'case':<20}{'tier':<12}{'threads':>7}{'median':>12}{'p10':>10}{'p90':>10}"
          f"{'GFLOP/s':>10}{'scratch':>12}{'error/bound':>13}")
    for row in rows:
        time = row["seconds"]
        print(f"{row['case']:<20}{row['tier']:<12}{row['threads']:>7}{time['median'] * 1e3:>9.3f} ms"
              f"{time['p10'] * 1e3:>10.3f}{time['p90'] * 1e3:>10.3f}{row['gflops_per_second']:>10.1f}"
              f"{row['scratch_bytes']:>12}{row['worst_ratio']:>13.3f}")


def fit_speed(rows: list) -> tuple:
    """seconds = a + (b * flops + c * numbers of K and V) / threads, none below 0, with the smallest
    relative errors. Returns GFLOP/s per thread, seconds per call and nanoseconds per number."""
    columns = [], [], []  # of a, b and c, over the time: all should add up to 1
    for row in rows:
        time = row["seconds"]["median"]
        size = row["sizes"]
        numbers = size["B"] * size["H"] * size["S"] * (size["E"] + size.get("Ev", size["E"]))
        for column, x in zip(columns, (1, row["flops"] / row["threads"], numbers / row["threads"])):
            column.append(x / time)
    fit = [0.0, 0.0, 0.0]
    for _ in range(20000):  # coordinate descent: each in turn as large as is best, but not negative
        for k, column in enumerate(columns):
            rest = [1 - sum(f * other[n] for i, (f, other) in enumerate(zip(fit, columns)) if i != k)
                    for n in range(len(rows))]
            fit[k] = max(0.0, sum(x * y for x, y in zip(column, rest)) / sum(x * x for x in column))
    return 1e-9 / max(fit[1], 1e-18), fit[0], 1e9 * fit[2]


def gpu_rows() -> list:
    """The rows of what `./run gpu` recorded, in the form of ours; a GPU counts as one worker."""
    return [{"tier": tier, "flops": case["flops"], "threads": 1, "sizes": case,
             "seconds": {"median": time * 1e-6}}
            for path in sorted((ROOT / "docs" / "measured").glob("gpu_bench_*.json"))
            for case in json.loads(path.read_text())["cases"]
            for tier, time in case["microseconds"].items() if tier in ladder()]


def update_speeds(record: dict) -> None:
    path = ROOT / "lib" / "speeds.def"
    lines = path.read_text().splitlines()
    all_rows = record["rows"] + gpu_rows()
    for tier in sorted(dict.fromkeys(row["tier"] for row in all_rows), key=ladder().index):
        rows = [row for row in all_rows if row["tier"] == tier]
        gflops, seconds, nanoseconds = fit_speed(rows)
        line = f"ATTN_SPEED({tier}, {gflops:.4g}, {seconds:.3g}, {nanoseconds:.3g})"
        mark = f"ATTN_SPEED({tier},"
        at = next((i for i, old in enumerate(lines) if old.startswith(mark)), None)
        if at is None:
            lines.append(line)
        else:
            lines[at] = line
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release", help="folder of the build")
    parser.add_argument("--filter", default="", help="only rows whose name matches this expression")
    parser.add_argument("--threads", default="", help="1,2,16")
    parser.add_argument("--machine", default="", help="name of the record; made from the processor's")
    parser.add_argument("--update-speeds", action="store_true", help="make lib/speeds.def, measure nothing")
    arguments = parser.parse_args()

    info = machine()
    name = arguments.machine or default_name(info)
    path = ROOT / "docs" / "measured" / f"{name}.json"
    record = json.loads(path.read_text()) if path.exists() else None
    if arguments.update_speeds:
        if record is None:
            print(f"record: there is no {path.relative_to(ROOT)} yet; ./run bench makes it",
                  file=sys.stderr)
            return 1
        update_speeds(record)
        return 0

    program = ROOT / arguments.build / "tests" / "bench" / "attn_bench"
    report = measure(program, arguments.filter, arguments.threads)
    order = ladder()
    fresh = sorted(rows_of(report),
                   key=lambda row: (row["case"], order.index(row["tier"]), row["threads"]))
    show(fresh)
    rows = {key_of(row): row for row in (record or {}).get("rows", [])}
    rows.update({key_of(row): row for row in fresh})
    context = report["context"]
    record = {
        "kind": "cpu bench",
        "command": "./run bench",
        "machine": {"name": name, **info, "caches": context["caches"]},
        "build": {part: context[part] for part in ("compiler", "flags", "isa")},
        "rows": list(rows.values()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)
    print(f"wrote {path.relative_to(ROOT)}: {len(record['rows'])} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
