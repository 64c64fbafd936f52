"""Tier int8_pv32: keys on their way to integers, its error and its speed."""
import matplotlib.pyplot as plt

import plots_int8
from figures import save

ZH = {"a layer of a real model,\nhead {}, token {}": "真实模型的一层，\n头 {}，词元 {}",
      "generator {},\nhead {}, token {}": "生成器 {}，\n头 {}，词元 {}", "{}\nstep {}": "{}\n步长 {}", "channel": "通道",
      "as it comes": "原样", "without the mean": "去掉平均", "and rotated": "再旋转"}


def draw(folder, root, facts):
    key_rows(folder, facts["int8"]["key_rows"])
    plots_int8.draw(folder, root / "docs/measured", facts, "int8_pv32")


def key_rows(folder, rows):
    """Each channel of one key as a bar. The range that 255 integers must cover is shaded."""
    names = {"captured": "a layer of a real model", "key_outliers": "generator key_outliers"}
    figure, panels = plt.subplots(len(rows), 3, figsize=(7.6, 4.6), sharey="row")
    for line, key in zip(panels, rows):
        for axes, stage in zip(line, key["stages"]):
            reach = max(abs(x) for x in stage["row"])
            axes.axhspan(-reach, reach, color="#56b4e9", alpha=0.18, linewidth=0)
            axes.bar(range(len(stage["row"])), stage["row"], width=0.8, color="#4a90d9")
            axes.set_title(f"{stage['name']}\nstep {stage['step']:.3g}", fontsize=10)
            axes.set_xticks([0, len(stage["row"]) - 1])
        line[0].set_ylabel(names[key["inputs"]] + f",\nhead {key['head']}, token {key['token']}",
                           fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("channel")
    save(figure, folder, "int8_key_rows")
