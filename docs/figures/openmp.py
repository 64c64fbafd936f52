"""Tier openmp: the order of its tasks, with the rows of a task read from its source."""
import re

import matplotlib.pyplot as plt

from figures import save

ZH = {"task {}": "任务 {}", "key j": "键 j", "query row i": "查询行 i",
      "tasks of {} rows, the longest first": "每个任务 {} 行，最长的先做"}


def draw(folder, root, facts):
    """Tasks of one head of tier openmp, numbered in the order in which they are handed out."""
    source = (root / "cpu/openmp.cpp").read_text()
    rows = int(re.search(r"rows_per_task = (\d+)", source)[1])
    L, count = 128, 128 // rows
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    for number in range(count):
        first = (count - 1 - number) * rows
        axes.fill([0, first, first + rows, 0], [first, first, first + rows, first + rows],
                  color="#009e73", alpha=0.75 - 0.6 * number / count, linewidth=0)
        axes.text(first + rows + 2, first + rows / 2, f"task {number + 1}", va="center", fontsize=9)
    axes.set_xlim(0, L + 16)
    axes.set_ylim(L, 0)
    axes.set_xlabel("key j")
    axes.set_ylabel("query row i")
    axes.set_title(f"tasks of {rows} rows, the longest first")
    save(figure, folder, "openmp_tasks")
