"""Figures as SVG: the map of tiers and pictures of the real loops. Plots of records: plots.py.

Deterministic (a fixed hash salt, no date), transparent, with grey text that can be read on light
and on dark paper.
"""
import pathlib
import runpy

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

import figure_words  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
GREY = "#8a8a8a"
INK = "#202020"  # on a pastel, which is the same on light and on dark paper
PALETTE = ["#8a8a8a", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#4a90d9", "#b8a000",
           "#7a5fd0", "#2fa8a0", "#c0504d", "#7f9f3f", "#a06030", "#5f7fa0"]

plt.rcParams.update({
    "svg.hashsalt": "attention-ladder", "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 11, "text.color": GREY, "axes.edgecolor": GREY, "axes.labelcolor": GREY,
    "xtick.color": GREY, "ytick.color": GREY, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25,
    "legend.frameon": False, "axes.titlesize": 11})


def pastel(paint, share):
    """A colour mixed with white: opaque, so that INK can be read on it on any paper."""
    return [1 + share * (part - 1) for part in matplotlib.colors.to_rgb(paint)]


def colour(facts, name):
    order = [tier["name"] for tier in facts["tiers"]]
    return PALETTE[order.index(name) % len(PALETTE)] if name in order else GREY


chinese = None  # a figure_words.Chinese while figures are drawn for the Chinese pages


def speak(language, facts, table=()):
    """The language of the figures to come, and what a script brings of its own."""
    global chinese
    chinese = figure_words.Chinese(facts, table) if language == "zh" else None


def save(figure, folder, name):
    if chinese:
        chinese(figure)
    figure.tight_layout()
    path = folder / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None}, bbox_inches="tight")
    if chinese:  # which forms of the characters a browser takes
        path.write_text(path.read_text().replace("<svg ", '<svg xml:lang="zh-CN" ', 1))
    plt.close(figure)


def of_record(text):
    """Marks a text that a record brought: its words may have no translation."""
    text.from_record = True
    return text


def legend_beside(axes):
    """Outside the axes, where it hides no data."""
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


# ---- the map -------------------------------------------------------------------------------------

def ladder_map(folder, facts, language, pages, ideas):
    lines = ["digraph ladder {", '  rankdir=LR; bgcolor="transparent"; nodesep=0.25; ranksep=0.4;',
             f'  node [shape=box, style="rounded", fontname="sans-serif", fontsize=11, '
             f'color="{GREY}", fontcolor="{GREY}"]; edge [color="{GREY}"];']
    for tier in facts["tiers"]:
        name = tier["name"]
        link = f', URL="\\ref tier_{name}"' if f"tier_{name}" in pages else ""
        lines.append(f'  {name} [label="{name}", color="{colour(facts, name)}", penwidth=2, '
                     f'tooltip="{ideas[name]}"{link}];')
        if tier["builds_on"] != "nothing":
            lines.append(f'  {tier["builds_on"]} -> {name};')
    lines.append("}")
    (folder / f"ladder_{language}.dot").write_text("\n".join(lines) + "\n")


# ---- pictures of the code ------------------------------------------------------------------------

def access_order(folder, facts, name):
    """Which key or value row a tier touches, touch after touch, for one query row."""
    touches = []
    for kind, row in facts["trace"][name]:
        if kind in "kv" and (not touches or touches[-1] != (kind, row)):
            touches.append((kind, row))
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    for kind, label, paint in (("k", "key row", "#4a90d9"), ("v", "value row", "#e69f00")):
        points = [(n, row) for n, (k, row) in enumerate(touches) if k == kind]
        axes.plot([n for n, _ in points], [row for _, row in points], ".", markersize=2.5,
                  color=paint, label=label)
    axes.set_xlabel("touch of a row, in the order of the loops")
    axes.set_ylabel("row j")
    axes.set_title(f"{name}: one query row against 160 keys, recorded")
    axes.legend(loc="upper left", markerscale=4)
    save(figure, folder, f"order_{name}")


def matrices_to_scale(folder):
    """The matrices of one head at L = S = 512, E = Ev = 64, drawn to one scale."""
    L, E = 512, 64
    shapes = [("Q\n(L, E)", L, E, "#56b4e9"), ("$K^T$, read,\nnot formed", E, L, "#56b4e9"),
              ("scores, then P\n(L, S)", L, L, "#d55e00"), ("V\n(S, Ev)", L, E, "#009e73"),
              ("O\n(L, Ev)", L, E, "#009e73")]
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    x = 0
    for label, rows, columns, paint in shapes:
        axes.add_patch(plt.Rectangle((x, L - rows), columns, rows, facecolor=paint, alpha=0.45,
                                     edgecolor=paint))
        axes.text(x + columns / 2, -20, label, ha="center", va="top", fontsize=9)
        x += columns + 130
    axes.set_xlim(-40, x)
    axes.set_ylim(-130, L + 10)
    axes.set_aspect("equal")
    axes.axis("off")
    save(figure, folder, "eigen_matrices")


def running_state(folder, facts):
    states = facts["running_state"]
    tiles = range(1, len(states) + 1)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.2, 4.0), sharex=True,
                                         height_ratios=[3, 2])
    for n, state in zip(tiles, states):
        top.plot([n] * 4, state["scores"], "o", color=GREY, markersize=4,
                 label="scores of the tile" if n == 1 else None)
    top.step(tiles, [s["max"] for s in states], where="mid", color="#d55e00", label="max")
    top.plot(tiles, [s["logsumexp"] for s in states], "s-", color="#009e73",
             label="max + log(sum)")
    top.set_ylim(-2.6, 5.2)
    top.legend(loc="lower right", ncol=3, fontsize=9)
    top.set_ylabel("score")
    bottom.bar(tiles, [s["shrink"] for s in states], width=0.4, color="#4a90d9")
    bottom.set_ylabel("shrink")
    bottom.set_xlabel("tile")
    bottom.set_xticks(list(tiles))
    save(figure, folder, "online_state")


def memory(folder, facts):
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    for tier in facts["tiers"]:
        if "scratch" not in tier:
            continue
        axes.plot([p["L"] for p in tier["scratch"]], [p["bytes"] for p in tier["scratch"]], "o-",
                  color=colour(facts, tier["name"]), label=tier["name"], markersize=4)
    lengths = [p["L"] for p in facts["tiers"][0]["scratch"]]
    axes.plot(lengths, [3 * 8 * 64 * 4 * L for L in lengths], "--", color=GREY, linewidth=1,
              label="the inputs themselves")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("L = S")
    axes.set_ylabel("bytes of working memory")
    axes.set_title("(B, H, E) = (1, 8, 64), float32, one thread; from the registry")
    legend_beside(axes)
    save(figure, folder, "memory")


def errors(folder, facts):
    """Worst error as a share of its bound, by tier and generator."""
    names = [g["name"] for g in facts["generators"]]
    tiers = [t for t in facts["tiers"] if t.get("errors") and not t["quantized"]]
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    width = 0.8 / max(1, len(tiers))
    for n, tier in enumerate(tiers):
        heights = [next(e["worst_ratio"] for e in tier["errors"]
                        if e["generator"] == g and e["dtype"] == "float32") for g in names]
        axes.bar([x + n * width for x in range(len(names))], heights, width,
                 color=colour(facts, tier["name"]), label=tier["name"])
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(names))], names, rotation=35,
                    ha="right", fontsize=9)
    axes.set_ylabel("worst error / bound")
    axes.set_title("float32; at 1 the judge says no; computed when this site was built")
    legend_beside(axes)
    save(figure, folder, "errors")


def draw(folder, facts, language, ideas):
    """The map and the pictures of the code. `ideas` by tier, in that language."""
    root = ROOT / "docs"
    pages = {p.stem for p in (root if language == "en" else root / language).glob("*.dox")}
    ladder_map(folder, facts, language, pages, ideas)
    speak(language, facts)
    for name in facts["trace"]:
        access_order(folder, facts, name)
    matrices_to_scale(folder)
    running_state(folder, facts)
    memory(folder, facts)
    errors(folder, facts)
    for script in sorted((root / "figures").glob("*.py")):  # figures of one tier's page
        if f"tier_{script.stem}" in pages and script.stem in {t["name"] for t in facts["tiers"]}:
            drawing = runpy.run_path(str(script))
            speak(language, facts, drawing.get("ZH", ()))
            drawing["draw"](folder, root.parent, facts)
