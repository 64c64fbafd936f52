"""Tier cuda_fused: shared-memory banks of a warp that writes a tile, by the source's own formula."""
import re

import matplotlib.pyplot as plt

from figures import GREY, save

ZH = {"as it lies: column = row\n{} turns": "照原样：列 = 行\n{} 轮", "column = row ^ {}\n{} turns": "列 = 行 ^ {}\n{} 轮",
      "bank": "存储体", "lanes that write to it": "写它的线程数"}


def draw(folder, root, facts):
    source = (root / "gpu/cuda_fused.cu").read_text()
    formula = re.search(r"swizzle\(int e, int row\) \{ return (.*?); \}", source)[1]
    swizzle = compile(formula.replace("/", "//"), "cuda_fused.cu", "eval")
    figure, both = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True)
    for axes, title, column in (
            (both[0], "as it lies: column = row", lambda e, row: row),
            (both[1], f"column = {formula}", lambda e, row: eval(swizzle, {"e": e, "row": row}))):
        wanted = {}
        for lane in range(32):  # lane holds row lane / 8 and channel lane % 8 * 4
            e, row = lane % 8 * 4, lane // 8
            wanted.setdefault((e * 128 + column(e, row)) % 32, []).append(lane)
        for bank in range(32):
            count = len(wanted.get(bank, []))
            axes.bar(bank, count, color="#d55e00" if count > 1 else "#009e73")
        axes.set_title(f"{title}\n{max(map(len, wanted.values()))} turns", fontsize=10)
        axes.set_xlabel("bank")
    both[0].set_ylabel("lanes that write to it", color=GREY)
    save(figure, folder, "cuda_fused_banks")
