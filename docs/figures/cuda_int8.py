"""Tier cuda_int8: which thread rounds what, and which bytes it holds for a product, by the index maps
of gpu/cuda_int8_lanes.hpp and gpu/fragments.hpp as they stand there."""
import re
import sys

import matplotlib.pyplot as plt

import int8_gpu
from figures import GREY, INK, pastel, save

PAINT = ["#4a90d9", "#e69f00", "#009e73", "#d55e00"]
ZH = {
    "one row of 64 channels in four lanes of a warp": "一行 64 个通道，在线程束的四个线程里",
    "lane {}:\nchannels {} - {}": "线程 {}：\n通道 {} - {}", "row {}": "第 {} 行",
    "stages {}: inside a lane": "第 {} 级：线程之内",
    "channels {} apart: lanes {} apart": "相隔 {} 个通道：相隔 {} 个线程",
    "16 queries, 32 channels; lane: register, four bytes in each":
        "16 个查询，32 个通道；“线程: 寄存器”，每格四个字节",
    "8 keys, 32 channels; lane: register": "8 个键，32 个通道；“线程: 寄存器”",
    "query {}": "查询 {}", "key {}": "键 {}", "channels": "通道"}


def index_maps(root):
    """The one-line functions of the two headers, as functions of Python."""
    found = {}
    for name in ("gpu/cuda_int8_lanes.hpp", "gpu/fragments.hpp"):
        text = (root / name).read_text()
        for constant, value in re.findall(r"inline constexpr int (\w+) = (\d+);", text):
            found[constant] = int(value)
        for function, arguments, body in re.findall(
                r"ATTN_HD constexpr int (\w+)\(([^)]*)\) \{\s*return ([^;]*);\s*\}", text):
            names = ", ".join(part.split()[-1] for part in arguments.split(","))
            found[function] = eval(f"lambda {names}: {body.replace('/', '//')}", found)
        apart = re.search(r"int lanes_apart\(int half\) \{ return (.*?); \}", text)
        if apart:
            found["lanes_apart"] = eval(f"lambda half: {apart[1].replace('/', '//')}", found)
    missing = {"a_row", "a_byte", "b_column", "b_byte", "lane_row", "first_channel", "lanes_apart",
               "lane_channels"} - set(found)
    if missing:
        sys.exit(f"docs: the headers of cuda_int8 no longer have {missing}")
    return found


def spread(folder, maps):
    """Two rows in eight lanes, and who exchanges with whom at each stage of the rotation."""
    head_dim, width = 64, maps["lane_channels"]
    figure, axes = plt.subplots(figsize=(8.2, 3.4))
    for lane in range(8):
        row, first = maps["lane_row"](lane, head_dim), maps["first_channel"](lane, head_dim)
        axes.add_patch(plt.Rectangle((first, -1.7 * row), width - 0.6, 0.9,
                                     facecolor=pastel(PAINT[lane % 4], 0.4)))
        axes.text(first + width / 2, -1.7 * row + 0.45,
                  f"lane {lane}:\nchannels {first} - {first + width - 1}", fontsize=8.5,
                  ha="center", va="center", color=INK)
    for row in range(2):
        axes.text(-1, -1.7 * row + 0.45, f"row {row}", ha="right", va="center", fontsize=9)
    height, half = 1.15, width
    axes.text(-1, height + 0.1, f"stages 1 - {width.bit_length() - 1}: inside a lane", fontsize=9,
              va="center")
    while half < head_dim:
        apart = maps["lanes_apart"](half)
        height += 0.75
        for lane in range(4):
            if lane & apart:
                continue
            ends = [maps["first_channel"](n, head_dim) + width / 2 for n in (lane, lane + apart)]
            y = height + 0.16 * (lane % (2 * apart))
            axes.annotate("", (ends[1], y), (ends[0], y),
                          arrowprops={"arrowstyle": "<->", "color": GREY})
        axes.text(65, height + 0.1, f"channels {half} apart: lanes {apart} apart", fontsize=9,
                  va="center")
        half *= 2
    axes.set_xlim(-7, 98)
    axes.set_ylim(-1.9, height + 0.7)
    axes.set_title("one row of 64 channels in four lanes of a warp", loc="left")
    axes.axis("off")
    save(figure, folder, "cuda_int8_lanes")


def fragments(folder, maps):
    """The bytes of both operands: a square is a register."""
    figure, both = plt.subplots(2, 1, figsize=(8.2, 6.6), height_ratios=[17.5, 9.5])
    parts = (("16 queries, 32 channels; lane: register, four bytes in each", 16, 4, "query",
              lambda lane, r: (maps["a_row"](lane, r), maps["a_byte"](lane, r))),
             ("8 keys, 32 channels; lane: register", 8, 2, "key",
              lambda lane, r: (maps["b_column"](lane), maps["b_byte"](lane, r))))
    for axes, (title, rows, registers, what, place) in zip(both, parts):
        taken = set()
        for lane in range(32):
            for r in range(registers):
                row, byte = place(lane, r)
                taken.add((row, byte))
                axes.add_patch(plt.Rectangle((byte, -row), 3.85, 0.88, facecolor=pastel(
                    PAINT[lane % 4], 0.18 if lane // 4 % 2 else 0.4)))
                axes.text(byte + 1.9, -row + 0.42, f"{lane}: {r}", ha="center", va="center",
                          fontsize=7.5, color=INK)
        if taken != {(row, byte) for row in range(rows) for byte in range(0, 32, 4)}:
            sys.exit(f"docs: gpu/fragments.hpp no longer covers {title}")
        for row in range(rows):
            axes.text(-0.3, -row + 0.42, f"{what} {row}", ha="right", va="center", fontsize=8)
        for byte in range(0, 32, 4):
            axes.text(byte + 1.9, 1.1, f"{byte} - {byte + 3}", ha="center", fontsize=8)
        axes.text(-0.3, 1.1, "channels", ha="right", fontsize=8)
        axes.set_xlim(-4, 32)
        axes.set_ylim(-rows + 0.9, 1.9)
        axes.set_title(title, loc="left", fontsize=10)
        axes.axis("off")
    save(figure, folder, "cuda_int8_fragment")


def draw(folder, root, facts):
    maps = index_maps(root)
    spread(folder, maps)
    fragments(folder, maps)
    int8_gpu.draw(folder, root / "docs/measured", facts)
