"""Tier int8: weights beside an attention sink, its error and its speed."""
import matplotlib.pyplot as plt

import plots_int8
from figures import GREY, save

ZH = {"weight of a key": "一个键的权重", "key {}": "键 {}",
      "lost below, against the row: {} of all weight": "对着整行，线下的丢失：全部权重的 {}",
      "lost below, against the block: {}": "对着所在的块，线下的丢失：{}", "key j, in blocks of 64": "键 j，每块 64 个",
      "weight / largest of the row": "权重 / 行内最大的权重"}


def draw(folder, root, facts):
    beside_a_sink(folder, facts["int8"]["sink"])
    plots_int8.draw(folder, root / "docs/measured", facts, "int8")


def beside_a_sink(folder, sink):
    """Weights of one row, and below which of them rounding leaves nothing."""
    keys = range(len(sink["weight"]))
    figure, axes = plt.subplots(figsize=(7.6, 3.6))
    axes.plot(keys, sink["weight"], ".", markersize=3, color=GREY, label="weight of a key")
    loud = max(keys, key=lambda j: sink["weight"][j])
    axes.plot(loud, sink["weight"][loud], "o", markersize=5, color=GREY)
    axes.annotate(f"key {loud}", (loud, sink["weight"][loud]), xytext=(8, -4),
                  textcoords="offset points", fontsize=9)
    axes.axhline(sink["row_floor"], color="#d55e00",
                 label=f"lost below, against the row: {sink['lost_against_row']:.0%} of all weight")
    axes.step(keys, sink["block_floor"], where="post", color="#009e73",
              label=f"lost below, against the block: {sink['lost_against_block']:.1%}")
    axes.set_yscale("log")
    axes.set_ylim(min(sink["block_floor"]) / 3, 3)
    axes.set_xlabel("key j, in blocks of 64")
    axes.set_ylabel("weight / largest of the row")
    axes.set_xticks([*range(0, len(sink["weight"]) + 1, 128)])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=1, fontsize=9, markerscale=3)
    save(figure, folder, "int8_sink")
