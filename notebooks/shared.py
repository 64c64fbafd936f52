"""What the notebooks share: one colour for each tier, plots for light and dark pages, the records."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attention_ladder as al
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
GREY = "#8a8a8a"
PALETTE = [
    "#8a8a8a",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#4a90d9",
    "#b8a000",
    "#7a5fd0",
    "#2fa8a0",
    "#c0504d",
    "#7f9f3f",
    "#a06030",
    "#5f7fa0",
]

plt.rcParams.update(
    {
        "figure.figsize": (8, 4),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.transparent": True,
        "font.size": 11,
        "text.color": GREY,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "image.cmap": "viridis",
    }
)

GPU_TIERS = [t for t in al.tiers() if t.device == "gpu" and t.available]
CPU_TIERS = [t for t in al.tiers() if t.device == "cpu" and t.available]


def colour(tier: str) -> str:
    """The tier's colour, in the ladder's order, in every plot of the project."""
    names = [t.name for t in al.tiers()]
    return PALETTE[names.index(tier) % len(PALETTE)] if tier in names else GREY


def legend_beside(axes: Any) -> None:
    """A legend of many tiers, at the right of the plot: inside, it would cover some of them."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def best_of(call: Callable[[], Any], seconds: float = 0.3, least: int = 3) -> float:
    """The shortest of repeated calls, in seconds, after one that does not count."""
    call()
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def records() -> dict[str, dict[str, Any]]:
    """The benches that came with the project, machine by machine: those files of docs/measured/
    whose rows each tell a tier, its operations, bytes and times."""
    found = {}
    for path in sorted((ROOT / "docs" / "measured").glob("*.json")):
        record = json.loads(path.read_text())
        rows = record.get("rows") if isinstance(record, dict) else None
        if rows and all({"tier", "flops", "bytes", "seconds"} <= row.keys() for row in rows):
            found[path.stem] = record
    return found


def gpu_records() -> dict[str, dict[str, Any]]:
    """The GPU tiers beside torch's backends, machine by machine."""
    paths = sorted((ROOT / "docs" / "measured").glob("gpu_bench_*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def anchors() -> dict[str, Any] | None:
    """The times of other libraries on one GPU, or None where that record is not there."""
    path = ROOT / "docs" / "measured" / "anchors_h200.json"
    return json.loads(path.read_text()) if path.exists() else None


def this_machine() -> str:
    """The reader's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(': ', 1)[1]}, {os.cpu_count()} cores"
    return f"{os.cpu_count()} cores"


def source(path: str, begin: str, end: str) -> str:
    """The lines of a source file of the project from the first that holds `begin` to the next that
    holds `end`: what a notebook shows is what runs."""
    lines = (ROOT / path).read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if begin in line)
    last = next(i for i in range(first, len(lines)) if end in lines[i])
    return "\n".join(lines[first : last + 1])
