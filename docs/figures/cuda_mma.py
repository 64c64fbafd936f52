"""Tier cuda_mma: the layout of a result of mma.sync, and the pipelines, by the sources' own text."""
import re
import sys

import matplotlib.pyplot as plt

from figures import GREY, INK, pastel, save

ZH = {"row {}": "第 {} 行", "lane: register of each element; four lanes share a row":
      "“线程: 寄存器”，每个元素一格；四个线程共有一行", "copy {}": "拷贝 {}", "read {}": "读 {}", "warp": "线程束",
      "stage {}": "段 {}", "scores": "得分", "values": "值",
      "gpu/cuda_mma_kernel.cuh: the next tile is copied while this one is used":
          "gpu/cuda_mma_kernel.cuh：用着这一块，拷贝下一块",
      "gpu/cuda_mma_split.cu (few queries): {} stages, copies under way: {}":
          "gpu/cuda_mma_split.cu（查询很少）：{} 段，在途的拷贝：{}",
      "calls of the loop, in the order of the source (not to the scale of time); dotted: waits for copies":
          "循环里的调用，按源码的次序（不按时间的比例）；虚线：等待拷贝"}

PAINT = ["#4a90d9", "#e69f00", "#009e73", "#d55e00"]


def fragment(folder, root):
    """Which lane holds which element of a (16, 8) result, by the functions that the judge of
    exercise cuda_mma_1 accepts."""
    text = (root / "docs/exercises/cuda_mma_1/solution.cpp").read_text()
    formula = {name: compile(body.replace("/", "//"), name, "eval")
               for name, body in re.findall(r"int (row|column)_of\(int lane, int i\) "
                                            r"\{ return (.*?); \}", text)}
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    for lane in range(32):
        for i in range(4):
            row, column = (eval(formula[f], {"lane": lane, "i": i}) for f in ("row", "column"))
            axes.add_patch(plt.Rectangle((column * 2, -row), 1.92, 0.9, facecolor=pastel(
                PAINT[lane % 4], 0.18 if lane // 4 % 2 else 0.4)))
            axes.text(column * 2 + 0.96, -row + 0.42, f"{lane}: c{i}", ha="center", va="center",
                      fontsize=7.5, color=INK)
    for row in range(16):
        axes.text(-0.2, -row + 0.42, f"row {row}", ha="right", va="center", fontsize=8)
    axes.set_xlim(-2, 16.2)
    axes.set_ylim(-15.3, 1.6)
    axes.set_title("lane: register of each element; four lanes share a row")
    axes.axis("off")
    save(figure, folder, "cuda_mma_fragment")


def loop_of(path, start):
    """The text of the loop that begins with `start`."""
    text = path.read_text()
    at = text.find(start)
    if at < 0:
        sys.exit(f"docs: {path} no longer has the loop '{start}'")
    depth, end = 0, text.index("{", at)
    for end in range(end, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            break
    return text[at:end]


def in_order(path, loop, wanted):
    """Where each call stands in the loop: what the picture shows is the order of the source."""
    found = {}
    for name, pattern in wanted.items():
        match = re.search(pattern, loop)
        if not match:
            sys.exit(f"docs: {path} no longer has {pattern} in its loop")
        found[match.start()] = (name, match)
    return [found[at] for at in sorted(found)]


def pipeline(axes, title, order, stages, ahead, tiles):
    """One column for each call of the loop, in its order; a row for each stage and the warp.

    A copy runs from its call to the wait that has it arrived: `wait` leaves the newest `pending`
    groups of copies in flight.
    """
    clock, reads, copies = 0, [], [(tile, 0) for tile in range(ahead)]
    pending, arrived = 0, {}
    begin = -2 if ahead else 0
    for tile in range(tiles):
        for name, match in order:
            if name == "copy":
                if tile + ahead < tiles:
                    copies.append((tile + ahead, clock))
            elif name == "wait":
                pending = eval(match[1], {"stages": stages})  # "0", or "stages - 1"
                issued = tile + ahead
                for done in range(issued - pending + 1):
                    arrived.setdefault(done, clock)
                axes.axvline(clock + 0.5, color=GREY, linewidth=0.8, linestyle=":")
            elif name in ("scores", "softmax", "values"):
                share = {"scores": 0.5, "softmax": 0.25, "values": 0.5}[name]
                axes.barh(0, 1, left=clock, height=0.8, color=pastel(PAINT[tile % 4], share))
                axes.text(clock + 0.5, 0, name, ha="center", va="center", fontsize=7, rotation=90,
                          color=INK)
                reads.append((tile, clock))
            clock += 1
    used = {tile: (min(c for t, c in reads if t == tile), 1 + max(c for t, c in reads if t == tile))
            for tile in range(tiles)}
    for tile, start in copies:
        first = begin if start == 0 and tile < ahead else start
        landed = 0 if tile < ahead and tile not in arrived else arrived.get(tile, used[tile][0])
        landed = min(landed + 0.5, used[tile][0])
        y = 1 + tile % stages
        axes.barh(y, landed - first, left=first, height=0.8, color=pastel(PAINT[tile % 4], 0.2),
                  hatch="//", edgecolor=pastel(PAINT[tile % 4], 0.4), linewidth=0)
        axes.text((first + landed) / 2, y, f"copy {tile}", ha="center", va="center", fontsize=8,
                  color=INK)
        axes.barh(y, used[tile][1] - used[tile][0], left=used[tile][0], height=0.8,
                  color=pastel(PAINT[tile % 4], 0.5))
        axes.text(sum(used[tile]) / 2, y, f"read {tile}", ha="center", va="center", fontsize=8,
                  color=INK)
        for other, start_other in copies:  # a stage may not be filled while it is read
            if other % stages == tile % stages and other > tile and start_other < used[tile][1]:
                sys.exit(f"docs: tile {other} would overwrite tile {tile} in {title}")
    axes.set_yticks(range(stages + 1), ["warp", *(f"stage {s}" for s in range(stages))], fontsize=9)
    axes.set_xticks([])
    axes.set_title(title, fontsize=9.5)
    axes.grid(False)


def timelines(folder, root):
    main, split = root / "gpu/cuda_mma_kernel.cuh", root / "gpu/cuda_mma_split.cu"
    steps = {"scores": r"Rows::multiply\(", "softmax": r"rows\.weigh\(",
             "values": r"rows\.add_values\("}
    # Shown without a second mask tile, and with the copies before the product: E = 128.
    pending = in_order(main, main.read_text(), {"wait": r"const auto wait_for_tiles = \[&\] \{[^}]*"
                                                        r"else\s*copy_async_wait<(\d+)>"})[0][1][1]
    loop = loop_of(main, "while (j < tiles) {").replace("wait_for_tiles", f"wait_for<{pending}>")
    in_order(main, loop, {"copy": r"copy_next = \[&\] \{[^}]*copy_keys\(next, stage \^ 1\)"})
    two = in_order(main, loop, {"copy": r"if \(!product_first[^;]*\) copy_next\(\)", **steps,
                                "wait": r"wait_for<(\d+)>\(\);\s*__syncthreads"})
    stages = int(re.search(r"int stages = (\d+);", split.read_text())[1])
    many = in_order(split, loop_of(split, "for (; step < split_end; step += warps) {"),
                    {"copy": r"copy_step\(step \+ \(Shape::stages - 1\) \* warps\)",
                     "wait": r"copy_async_wait<Shape::(stages - 1)>", **steps})
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8.2, 5.0), height_ratios=[3, stages + 1])
    pipeline(top, "gpu/cuda_mma_kernel.cuh: the next tile is copied while this one is used", two,
             2, 1, 4)
    pipeline(bottom, f"gpu/cuda_mma_split.cu (few queries): {stages} stages, "
             f"copies under way: {stages - 1}", many, stages, stages - 1, 5)
    bottom.set_xlabel("calls of the loop, in the order of the source (not to the scale of time); "
                      "dotted: waits for copies", fontsize=9)
    save(figure, folder, "cuda_mma_pipeline")


def draw(folder, root, facts):
    fragment(folder, root)
    timelines(folder, root)
