"""Tier cuda_simple: the memory sectors that one warp's load of a key channel touches."""
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from figures import GREY, save

ZH = {"neighbours:\n{} sectors": "相邻：\n{} 个扇区", "{}, first 64 sectors of 256:\n{} sectors":
      "{}，256 个扇区的前 64 个：\n{} 个扇区", "{}:\n{} sectors": "{}：\n{} 个扇区"}


def draw(folder, root, facts):
    """Lane n reads float n * E: each square is a sector of 32 bytes, filled where it is used."""
    figure, axes = plt.subplots(figsize=(7.2, 2.6))
    for line, (E, label) in enumerate([(1, "neighbours"), (4, "E = 4"), (64, "E = 64, first 64 "
                                                                         "sectors of 256")]):
        for sector in range(64):
            used = sum(1 for lane in range(32) if lane * E // 8 == sector)
            blue = (*to_rgb("#4a90d9"), 0.2 + 0.8 * used / 8 if used else 0)
            axes.add_patch(plt.Rectangle((sector, -line), 0.85, 0.7, facecolor=blue, linewidth=0.5,
                                         edgecolor=(*to_rgb(GREY), 0.5)))
        touched = len({lane * E // 8 for lane in range(32)})
        axes.text(65, -line + 0.2, f"{label}:\n{touched} sectors", fontsize=9)
    axes.set_xlim(-1, 92)
    axes.set_ylim(-2.4, 1.2)
    axes.axis("off")
    save(figure, folder, "cuda_simple_sectors")
