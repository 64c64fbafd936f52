"""Tier cuda_fused: shared-memory banks of lanes that read a tile, by the source's own formula."""
import re

import matplotlib.pyplot as plt

from figures import GREY, save

ZH = {"as it lies: row * 32 + 4 * piece\n{} turns": "照原样：行 * 32 + 4 * 段\n{} 轮",
      "as gpu/cuda_fused_tile.cuh places it\n{} turn": "gpu/cuda_fused_tile.cuh 的放法\n{} 轮",
      "bank": "存储体", "lanes that read from it": "读它的线程数"}


def draw(folder, root, facts):
    source = (root / "gpu/cuda_fused_tile.cuh").read_text()
    formula = re.search(r"swizzle\(int row, int piece\) \{\s+return (.*?);", source)[1]
    swizzle = compile(formula.replace("/", "//"), "cuda_fused_tile.cuh", "eval")
    figure, both = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True)
    for axes, title, place in (
            (both[0], "as it lies: row * 32 + 4 * piece", lambda row, piece: row * 32 + 4 * piece),
            (both[1], "as gpu/cuda_fused_tile.cuh places it",
             lambda row, piece: eval(swizzle, {"row": row, "piece": piece, "Turns": 8}))):
        wanted = {}
        for lane in range(8):  # a lane reads piece 0 of row `lane`, four floats
            for n in range(4):
                wanted.setdefault((place(lane, 0) + n) % 32, []).append(lane)
        for bank in range(32):
            count = len(wanted.get(bank, []))
            axes.bar(bank, count, color="#d55e00" if count > 1 else "#009e73")
        turns = max(map(len, wanted.values()))
        axes.set_title(f"{title}\n{turns} turn{'s' * (turns > 1)}", fontsize=10)
        axes.set_xlabel("bank")
    both[0].set_ylabel("lanes that read from it", color=GREY)
    save(figure, folder, "cuda_fused_banks")
