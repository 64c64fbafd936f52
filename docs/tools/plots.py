"""Plots of the records in docs/measured/: speed, time and memory, rooflines, crossovers.

A plot is drawn from one record, whose machine, date and source stand in its caption.
"""
import re
import textwrap

import matplotlib.pyplot as plt

import figures
from figures import GREY, colour, legend_beside, of_record, save

OTHERS = {"torch": "v", "torch default": "v", "torch flash": "<", "torch cudnn": ">",
          "torch efficient": "^", "openblas": "s", "onnxruntime": "D"}
COLUMNS, PANELS = 3, 9  # of a plot of speeds


def evenly(items, count):
    """At most that many of the items, the first and the last among them."""
    if len(items) <= count:
        return items
    step = (len(items) - 1) / max(1, count - 1)
    return [items[round(n * step)] for n in range(count)]


def speed_cases(record, tiers, name):
    """The cases to show: those that several tiers were measured on, then some of the others."""
    who = {}
    for row in record.rows:
        if row["tier"] in tiers:
            who.setdefault(row["case"], set()).add(row["tier"])
    cases = [case for case, has in who.items() if not name or name in has]
    if len(cases) <= PANELS:
        return cases
    several = evenly([c for c in cases if len(who[c]) > 1], PANELS - 3)
    alone = evenly([c for c in cases if len(who[c]) == 1], PANELS - len(several))
    return [case for case in cases if case in several + alone]


def short(case):
    """For a title of a small panel. A group that is named after the type need not say it twice."""
    text = case.replace("bfloat16", "bf16").replace("float16", "f16").replace("float32", "f32")
    words = text.split()
    return textwrap.fill(" ".join(w for n, w in enumerate(words) if w not in words[:n]), 28)


def bars(folder, facts, record, file, name):
    """GFLOP/s from 0, a panel for each case; the tier of the page in full colour."""
    tiers = [tier["name"] for tier in facts["tiers"]]
    cases = speed_cases(record, tiers, name)
    best = {case: {} for case in cases}
    for row in record.rows:
        if row["case"] in best and (row["tier"] in tiers or row["tier"] == "torch default"):
            held = best[row["case"]].get(row["tier"])
            if held is None or row["threads"] < held["threads"]:
                best[row["case"]][row["tier"]] = row
    present = [who for who in [*tiers, "torch default"] if any(who in b for b in best.values())]
    lines = -(-len(cases) // COLUMNS)
    most = max(row["gflops"] for b in best.values() for row in b.values())
    unit, size = ("TFLOP/s", 1000) if most > 10000 else ("GFLOP/s", 1)
    figure, panels = plt.subplots(lines, COLUMNS, squeeze=False, sharey=True,
                                  figsize=(8.2, lines * (0.24 * len(present) + 0.55)))
    for axes, case in zip(panels.flat, cases):
        for y, who in enumerate(present):
            row = best[case].get(who)
            rate = row["gflops"] / size if row else 0
            axes.barh(y, rate, height=0.7, color=colour(facts, who),
                      alpha=1 if name in ("", who) else 0.45)
            axes.text(rate, y, f"\u00a0{rate:.3g}" if row else "\u00a0not measured", va="center",
                      fontsize=8.5 if row else 7)
        of_record(axes.set_title(short(case), fontsize=9))
        axes.set_xlim(0, 1.3 * max(row["gflops"] for row in best[case].values()) / size)
        axes.set_xticks([])
        axes.set_yticks(range(len(present)), present, fontsize=9)
        axes.tick_params(left=False)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
    for axes in panels.flat[len(cases):]:
        axes.axis("off")
    panels[0][0].invert_yaxis()
    threads = {row["threads"] for b in best.values() for row in b.values()} - {"-"}
    figure.suptitle(f"{unit}; each panel has its own scale, from 0"
                    + (f"; {min(threads)} thread{'s' if min(threads) > 1 else ''}" if threads
                       else ""), fontsize=10)
    save(figure, folder, file)


def time_plot(folder, facts, record, file, name):
    """Time and, where it was recorded, working memory against the length."""
    rows = record.lengths()
    fewest = min(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == fewest]
    wanted = [("seconds", "seconds of one call")]
    if any(r["scratch"] for r in rows):
        wanted.append(("scratch", "bytes of working memory"))
    figure, panels = plt.subplots(1, len(wanted), squeeze=False, figsize=(8.2, 3.6))
    for axes, (key, title) in zip(panels.flat, wanted):
        for tier in facts["tiers"]:
            points = sorted((r["L"], r[key]) for r in rows
                            if r["tier"] == tier["name"] and r[key] is not None)
            if points:
                axes.plot(*zip(*points), "o-", markersize=4, color=colour(facts, tier["name"]),
                          label=tier["name"])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=10 if key == "seconds" else 2)
        axes.set_xlabel("L = S")
        axes.set_title(title, fontsize=10)
    B, Hq, H, E, Ev = rows[0]["shape"]
    threads = f", {fewest} thread{'s' if fewest > 1 else ''}" if fewest != "-" else ""
    figure.suptitle(f"(B, Hq, H, E, Ev) = ({B}, {Hq}, {H}, {E}, {Ev}), {rows[0]['dtype']}{threads}",
                    fontsize=10)
    legend_beside(panels.flat[-1])
    save(figure, folder, file)


def roofline(folder, facts, record, file, name):
    """GFLOP/s against operations per byte of input and output, under roofs of the same run."""
    roofs = record.roofs()
    figure, panels = plt.subplots(1, len(roofs), squeeze=False, sharey=True, figsize=(8.2, 3.6))
    for axes, (title, (peaks, reads, rows)) in zip(panels.flat, roofs.items()):
        points = {}
        for row in rows:
            points.setdefault(row["tier"], []).append((row["flops"] / row["bytes"], row["gflops"]))
        low = min(x for of in points.values() for x, _ in of) / 2
        high = max(x for of in points.values() for x, _ in of) * 2
        grid = [low * (high / low) ** (n / 100) for n in range(101)]
        top, read = max(peaks), max(reads, default=None)
        axes.plot(grid, [min(top, read * x) if read else top for x in grid], color=GREY,
                  label="roof: best of the run")
        if min(peaks) < 0.97 * top or reads and min(reads) < 0.97 * read:
            axes.plot(grid, [min(min(peaks), min(reads) * x) if read else min(peaks)
                             for x in grid], ":", color=GREY, label="roof: worst of the run")
        for who, at in points.items():
            ours = who not in OTHERS
            axes.plot(*zip(*at), "o" if ours else OTHERS[who], markersize=5, linestyle="none",
                      color=colour(facts, who), alpha=0.85, label=who,
                      markerfacecolor=colour(facts, who) if ours else "none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("flops per byte")
        axes.set_title(title, fontsize=10)
    panels[0][0].set_ylabel("GFLOP/s")
    handles = {text: handle for axes in panels.flat
               for handle, text in zip(*axes.get_legend_handles_labels())}
    panels.flat[-1].legend(handles.values(), handles, fontsize=9, loc="upper left",
                           bbox_to_anchor=(1.0, 1.0))
    save(figure, folder, file)


def crossover(folder, facts, record, file, name):
    """Who is fastest at how much work: what `auto` believes as lines, what was measured as dots."""
    one = [r for r in record.rows if r["threads"] == 1 and r["dtype"] == "float32"]
    speeds = {who: tuple(map(float, numbers.split(", "))) for who, numbers in
              re.findall(r"(?m)^ATTN_SPEED\((\w+), ([^)]*)\)",
                         (figures.ROOT / "lib/speeds.def").read_text())
              if any(r["tier"] == who for r in one)}
    one = [r for r in one if r["tier"] in speeds]

    def estimate(who, flops):  # of one head with L = S and E = 64: 4 * 64 L^2 flops, 128 L numbers
        gflops, call, nanoseconds = speeds[who]
        return call + 1e-9 * (flops / gflops + 128 * (flops / 256) ** 0.5 * nanoseconds)

    fastest = {}
    for row in one:
        fastest[row["case"]] = min(fastest.get(row["case"], row["seconds"]), row["seconds"])
    grid = [10 ** (3 + n / 20) for n in range(141)]
    least = [min(estimate(who, x) for who in speeds) for x in grid]
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    for who in speeds:
        axes.plot(grid, [estimate(who, x) / best for x, best in zip(grid, least)],
                  color=colour(facts, who), label=who)
        dots = [(r["flops"], r["seconds"] / fastest[r["case"]]) for r in one if r["tier"] == who]
        if dots:
            axes.plot(*zip(*dots), "o", markersize=4, color=colour(facts, who))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flops of a call, one thread (lines: one head, L = S, E = 64)")
    axes.set_ylabel("time / time of the fastest")
    axes.set_title("lines: what auto estimates; dots: what was measured")
    legend_beside(axes)
    save(figure, folder, file)


PLOTS = {"bars": bars, "time": time_plot, "roofline": roofline, "crossover": crossover}


def made_from_records(kind, name, measured):
    """[(file, record)] of the plots of that kind which some record has the numbers for."""
    def has(record):
        tiers = {r["tier"] for r in record.rows}
        if name and name not in tiers:
            return False
        return {"bars": lambda: record in list(measured), "time": lambda: bool(record.lengths()),
                "roofline": lambda: bool(record.roofs()),
                "crossover": lambda: len({r["tier"] for r in record.rows if r["threads"] == 1}) > 1
                and record in list(measured)}[kind]()
    records = [*measured, *measured.lengths, *measured.rivals]
    return [(f"{kind}_{name + '_' if name else ''}{n}.svg", record)
            for n, record in enumerate(records) if has(record)]


def draw(folder, facts, measured):
    for name in [""] + [tier["name"] for tier in facts["tiers"]]:
        for kind, plot in PLOTS.items():
            if name and kind in ("time", "crossover"):
                continue
            for file, record in made_from_records(kind, name, measured):
                plot(folder, facts, record, file.removesuffix(".svg"), name)
