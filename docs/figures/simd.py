"""Tier simd: the registers of its inner loop, read from its source."""
import re

import matplotlib.pyplot as plt

from figures import save

ZH = {"b: queries": "b：查询", "c: {} x {} sums": "c：{} x {} 个和", "AVX-512: {} registers": "AVX-512：{} 个寄存器",
      "AVX2: {} registers": "AVX2：{} 个寄存器", "SSE2: {} registers": "SSE2：{} 个寄存器"}


def draw(folder, root, facts):
    """Accumulators, operands and broadcast of tier simd's inner loop, read from its source."""
    source = (root / "cpu/simd_microkernel.hpp").read_text()
    found = re.findall(r"panel_vectors = (\d+);\s*constexpr int tile_rows\(int vectors\) \{\s*"
                       r"return vectors == \d+ \? (\d+)", source)
    names = ["AVX-512: 32 registers", "AVX2: 16 registers", "SSE2: 16 registers"]
    figure, all_axes = plt.subplots(1, len(found), figsize=(7.2, 3.2))
    for axes, name, (vectors, rows) in zip(all_axes, names, found):
        vectors, rows = int(vectors), int(rows)
        for r in range(rows):
            for v in range(vectors):
                axes.add_patch(plt.Rectangle((v + 1.4, -r - 1.4), 0.9, 0.9, facecolor="#4a90d9",
                                             alpha=0.7))
        for v in range(vectors):
            axes.add_patch(plt.Rectangle((v + 1.4, 0), 0.9, 0.9, facecolor="#e69f00", alpha=0.8))
        axes.add_patch(plt.Rectangle((0.1, -1.4), 0.9, 0.9, facecolor="#d55e00", alpha=0.8))
        axes.text(0.55, -1.7, "a", ha="center", va="top")
        axes.text(1.4 + vectors / 2, 1.05, "b: queries", ha="center", va="bottom", fontsize=9)
        axes.text(1.4 + vectors / 2, -rows - 0.75, f"c: {rows} x {vectors} sums", ha="center",
                  va="top", fontsize=9)
        axes.set_title(name, fontsize=10)
        axes.set_xlim(-0.3, 5.8)
        axes.set_ylim(-8, 2.2)
        axes.set_aspect("equal")
        axes.axis("off")
    save(figure, folder, "simd_registers")
