"""Plots of the records of the 8-bit tiers: docs/measured/int8_*.json."""
import matplotlib.pyplot as plt

import int8
from figures import GREY, colour, save

TIERS = ("int8_pv32", "int8")


def draw(folder, measured, facts, name):
    """The plots of one tier's page: it in full colour, the other beside it."""
    for kind, plot in (("speed", speed), ("accuracy", accuracy)):
        for n, (_, data) in enumerate(int8.records(measured, f"int8 {kind}")):
            figure, axes = plt.subplots(figsize=(7.6, 3.6))
            plot(axes, data, facts, name)
            axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            save(figure, folder, int8.plot_name(kind, name, n))


def bars(axes, data, facts, name, labels, heights, errors=None):
    """Two bars for each label; `heights` and `errors` by tier."""
    for n, tier in enumerate(TIERS):
        axes.bar([x + 0.4 * n for x in range(len(labels))], heights[tier], 0.4,
                 yerr=errors and errors[tier], ecolor=GREY, error_kw={"linewidth": 1},
                 color=colour(facts, tier), alpha=1 if tier == name else 0.4, label=tier)
    axes.set_xticks([x + 0.2 for x in range(len(labels))], labels, rotation=35, ha="right",
                    fontsize=9)


def speed(axes, data, facts, name):
    rows = {tier: [r for r in data["rows"] if r["tier"] == tier] for tier in TIERS}
    labels = [f"L = {r['shape'][2]}, E = {r['shape'][4]}{', causal' if r['causal'] else ''}"
              for r in rows[name]]
    times = {tier: [r["times_simd"] for r in of] for tier, of in rows.items()}
    bars(axes, data, facts, name, labels,
         {tier: [t["median"] for t in of] for tier, of in times.items()},
         {tier: [[t["median"] - t["p10"] for t in of], [t["p90"] - t["median"] for t in of]]
          for tier, of in times.items()})
    axes.axhline(1, color=colour(facts, "simd"), label="simd")
    axes.set_ylabel("times as fast as simd")
    axes.set_title("one thread, quantization included; whiskers: 10 % to 90 % of the runs",
                   fontsize=10)


def accuracy(axes, data, facts, name):
    most = max(r["E"] for r in data["rows"])
    rows = {tier: [r for r in data["rows"] if r["tier"] == tier
                   and (r["E"] == most or r["inputs"] == "captured")] for tier in TIERS}
    bars(axes, data, facts, name, [r["inputs"] for r in rows[name]],
         {tier: [r["relative_l2"] for r in of] for tier, of in rows.items()})
    axes.set_ylabel("relative L2 error, worst head")
    axes.set_title(f"L = {rows[name][0]['L']}, E = {most}; a layer of a real model: "
                   f"L = {rows[name][-1]['L']}, E = {rows[name][-1]['E']}", fontsize=10)
