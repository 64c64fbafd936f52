"""The numbers in README.md and README.zh-CN.md, from the records in docs/measured/.

    docs/tools/readme.py    rewrites them; docs/tools/check.py fails when they differ
"""
import pathlib
import re

import records

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARKS = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- end of measured -->)", re.S)
WORDS = {
    "README.md": {
        "cpu": "CPU, `simd`", "gpu": "GPU, `cuda_mma`", "threads": "{} threads", "thread": "1 thread",
        "head": "| where | problem | against | PyTorch's time / ours |",
        "note": "Above 1 we are faster. {cpu}; {gpu}. Made from `docs/measured/`; all of it, with the "
                "losses, stands on the course's page Measured.",
        "seed": "(4, 8, 128, 128) float32", "long": "L = S = 1024, E = 64 causal", "decode":
        "decoding, 32 heads on 8, S = 8192", "bf16": "L = S = 1024, E = 128 bfloat16",
        "small": "(4, 8, 128, 128) bfloat16", "f32": "L = S = 4096, E = 64 float32",
        "main": "L = S = 4096, E = 128 bfloat16", "window": "the same, with a window as its mask",
        "default": "its default", "flash": "its FlashAttention-2", "self": "it, "},
    "README.zh-CN.md": {
        "cpu": "CPU，`simd`", "gpu": "GPU，`cuda_mma`", "threads": "{} 线程", "thread": "1 线程",
        "head": "| 在哪里 | 问题 | 对手 | PyTorch 的时间 / 我们的时间 |",
        "note": "大于 1 表示我们更快。{cpu}；{gpu}。由 `docs/measured/` 生成；全部数据，包括输掉的，都在课程的“实测”页上。",
        "seed": "(4, 8, 128, 128) float32", "long": "L = S = 1024，E = 64，因果", "decode":
        "解码，32 个头共用 8 个键头，S = 8192", "bf16": "L = S = 1024，E = 128 bfloat16",
        "small": "(4, 8, 128, 128) bfloat16", "f32": "L = S = 4096，E = 64 float32",
        "main": "L = S = 4096，E = 128 bfloat16", "window": "同上，掩码是一个窗口",
        "default": "它的默认后端", "flash": "它的 FlashAttention-2", "self": "它，"}}
CPU = [("seed", "seed (4,8,128,128)", 1), ("seed", "seed (4,8,128,128)", 16),
       ("long", "L1024 E64 causal", 16), ("decode", "decode 32/8 heads S8192", 16),
       ("bf16", "L1024 E128 bfloat16", 1), ("bf16", "L1024 E128 bfloat16", 16)]
GPU = [("small", "small L=128 E=128 bfloat16", "default"),
       ("f32", "float32 L=4096 E=64 float32", "default"),
       ("main", "bf16 E=128 L=4096 E=128 bfloat16", "flash"),
       ("main", "bf16 E=128 L=4096 E=128 bfloat16", "default"),
       ("window", "mask L=4096 E=128 bfloat16 mask bool window", "default")]


def table(name):
    words, measured = WORDS[name], records.load(ROOT / "docs/measured")
    cpu = next(r for r in measured.rivals
               if {job[1:] for job in CPU} <= {(row["case"], row["threads"]) for row in r.rows})
    gpu = next(r for r in measured if {case for _, case, _ in GPU} <= {row["case"] for row in r.rows})
    lines = [words["head"], "|---|---|---|---|"]
    for problem, case, threads in CPU:
        row = next(r for r in cpu.rows
                   if (r["rival"], r["case"], r["threads"]) == ("simd", case, threads))
        who = words["self"] + (words["thread"] if threads == 1 else words["threads"].format(threads))
        lines.append(f"| {words['cpu']} | {words[problem]} | {who} | "
                     f"{row['torch_over_this_median']:.2f} |")
    for problem, case, rival in GPU:
        ratio = gpu.find(f"torch {rival}", case)["seconds"] / gpu.find("cuda_mma", case)["seconds"]
        lines.append(f"| {words['gpu']} | {words[problem]} | {words[rival]} | {ratio:.2f} |")
    note = words["note"].format(cpu=f"{cpu.machine}, {cpu.date}", gpu=f"{gpu.machine}, {gpu.date}")
    return "\n".join([*lines, "", note, ""])


def fresh(name):
    return MARKS.sub(lambda match: match[1] + table(name) + match[2], (ROOT / name).read_text())


if __name__ == "__main__":
    for readme in WORDS:
        (ROOT / readme).write_text(fresh(readme))
