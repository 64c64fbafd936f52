"""Tier cuda_mma: which lane holds which element of a (16, 8) result of mma.sync."""
import matplotlib.pyplot as plt

from figures import GREY, save

PAINT = ["#4a90d9", "#e69f00", "#009e73", "#d55e00"]


def draw(folder, root):
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    for lane in range(32):
        for i in range(4):  # as cuda_mma_tile.cuh uses them: rows g and g + 8, columns 2t and 2t + 1
            row, column = lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2
            axes.add_patch(plt.Rectangle((column * 2, -row), 1.92, 0.9, facecolor=PAINT[lane % 4],
                                         alpha=0.18 if lane // 4 % 2 else 0.4))
            axes.text(column * 2 + 0.96, -row + 0.42, f"{lane}: c{i}", ha="center", va="center",
                      fontsize=7.5, color=GREY)
    for row in range(16):
        axes.text(-0.2, -row + 0.42, f"row {row}", ha="right", va="center", fontsize=8)
    axes.set_xlim(-2, 16.2)
    axes.set_ylim(-15.3, 1.6)
    axes.set_title("lane: register of each element; four lanes share a row")
    axes.axis("off")
    save(figure, folder, "cuda_mma_fragment")
