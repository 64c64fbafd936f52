"""From which length 8-bit scores pay on a GPU: the rows of docs/measured/gpu_bench_*.json whose groups begin
with "int8", and first calls from docs/measured/gpu_first_calls_*.json."""
import json

import matplotlib.pyplot as plt

from figures import GREY, colour, legend_beside, save
from tables import table, time_text

TIER, BASE, RIVAL = "cuda_int8", "cuda_mma", "torch default"


def curves(record):
    """{(form, E, dtype): {L: {who: row}}}, not causal, without masks. A form is "many", about 16 K rows of each
    head dimension, or "few", the question's four batches of eight heads."""
    found = {}
    for row in record.rows:
        group = row["case"].split(" ")[:2]
        if group[0] != "int8" or row["causal"] or " mask " in row["case"] or row["L"] != row["S"]:
            continue
        form = "few" if group[1] == "small" else "many" if group[1].startswith("E=") else None
        E = row["shape"][3]
        if form and row["shape"][1] == row["shape"][2] and E != 256:
            found.setdefault((form, E, row["dtype"]), {}).setdefault(row["L"], {})[row["tier"]] = row
    return {key: dict(sorted(of.items())) for key, of in found.items()
            if sum(TIER in who and BASE in who for who in of.values()) > 2}


def with_curves(measured):
    return [(n, record) for n, record in enumerate(measured) if curves(record)]


def wins(curve, who, base):
    """(the length from which `who` is the faster at each longer one too, or None; shorter ones where it is)"""
    faster = {L: rows[who]["seconds"] < rows[base]["seconds"] for L, rows in curve.items()
              if who in rows and base in rows}
    last_loss = max((L for L, is_so in faster.items() if not is_so), default=0)
    always = [L for L in faster if L > last_loss]
    return min(always, default=None), [L for L, is_so in faster.items() if is_so and L < last_loss]


# ---- text ----------------------------------------------------------------------------------------

def tables(words, measured):
    """Every curve: times, and the tier's over those of the others."""
    parts = []
    for _, record in with_curves(measured):
        for (form, E, dtype), curve in sorted(curves(record).items(), reverse=True):
            rows = []
            for L, who in curve.items():
                if TIER not in who:
                    continue
                mine = who[TIER]["seconds"]

                def over(other):
                    return f"{who[other]['seconds'] / mine:.2f}" if other in who else "-"
                rows.append([L] + [time_text(who[w]["seconds"]) if w in who else "-"
                                   for w in (RIVAL, BASE, TIER)]
                            + [over(BASE), over(RIVAL)])
            title = words[f"curve_{form}"].format(E=E, dtype=dtype)
            parts.append(f"\\htmlonly\n<details{'' if parts else ' open'}><summary>{title}</summary>\n"
                         "\\endhtmlonly\n"
                         + table(["L = S", RIVAL, f"`{BASE}`", f"`{TIER}`",
                                  words["over"].format(f"`{BASE}`"), words["over"].format(RIVAL)], rows)
                         + "\n\\htmlonly\n</details>\n\\endhtmlonly\n")
        parts.append(record.caption(words) + "\n")
    return "\n".join(parts) or words["gpu_not_measured"]


def said(words, measured, form, E, dtype, base):
    """A sentence's part: from which length on, or that it is never so."""
    for _, record in with_curves(measured):
        curve = curves(record).get((form, E, dtype))
        if curve:
            begin, others = wins(curve, TIER, base)
            parts = [words["from_length"].format(begin)] if begin else []
            parts += [words["at_lengths"].format(", ".join(map(str, others)))] if others else []
            return "; ".join(parts) or words["at_no_length"].format(max(curve))
    return words["not_measured_inline"]


def first_calls(words, folder):
    """The first, the second and a later call of a process."""
    parts = []
    for path in sorted(folder.glob("gpu_first_calls_*.json")):
        data = json.loads(path.read_text())
        rows = []
        for r in data["first_calls"]:
            times = [time_text(1e-6 * r[key]) for key in ("first_us", "second_us", "later_us")
                     ] if "failed" not in r else [r["failed"], "-", "-"]
            rows.append([f"`{r['rival']}`", f"({r['B']}, {r['H']}, {r['L']}, {r['L']}, {r['E']}) {r['dtype']}",
                         *times])
        parts.append(table([words["rival"], "(B, H, L, S, E)", words["first_call"], words["second_call"],
                            words["later_call"]], rows)
                     + "\n" + words["caption"].format(
                         machine=data["machine"]["gpu"], date=data["date"], file=path.name,
                         source=data["source_hash"][:10], command=data["made_by"] + " --first --records")
                     + "\n")
    if parts:
        return "\n".join(parts)
    for path in sorted(folder.glob("gpu_int8_*.json")):  # holds those of the tier alone
        data = json.loads(path.read_text())
        return words["first_of_tier"].format(
            f"`{TIER}`", time_text(1e-3 * data["first_call_ms"]),
            time_text(1e-3 * data["second_call_ms"]), data["machine"]["gpu"], data["date"])
    return words["gpu_not_measured"]


# ---- plots ---------------------------------------------------------------------------------------

def plots(words, measured):
    return "\n\n".join(
        f"\\image html {plot_name(n, form)}.svg "
        f"\"{words['crossover_' + form]} {record.caption(words).replace('`', '')}\" width=100%"
        for n, record in with_curves(measured) for form in ("many", "few")
        if any(key[0] == form for key in curves(record))) or words["gpu_not_measured"]


def plot_name(n, form):
    return f"int8_crossover_{form}_{n}"


def draw(folder, facts, measured):
    for n, record in with_curves(measured):
        for form in ("many", "few"):
            chosen = {key[1:]: of for key, of in sorted(curves(record).items()) if key[0] == form}
            if chosen:
                figure, panels = plt.subplots(-(-len(chosen) // 2), 2, squeeze=False, sharex=True,
                                              figsize=(8.2, 0.6 + 2.5 * -(-len(chosen) // 2)))
                for axes, ((E, dtype), curve) in zip(panels.flat, chosen.items()):
                    panel(axes, facts, curve, E, dtype)
                for axes in panels.flat[len(chosen):]:
                    axes.axis("off")
                for axes in panels[-1]:
                    axes.set_xlabel("L = S")
                for line in panels:
                    line[0].set_ylabel("time / cuda_mma's")
                legend_beside(panels[0][-1])
                save(figure, folder, plot_name(n, form))


def panel(axes, facts, curve, E, dtype):
    """Times over those of cuda_mma; the crossover as a line."""
    def points(who):
        return [(L, rows[who]["seconds"] / rows[BASE]["seconds"]) for L, rows in curve.items()
                if who in rows and BASE in rows]
    axes.axhline(1, color=colour(facts, BASE), label=BASE)
    axes.plot(*zip(*points(RIVAL)), "v--", markersize=4, color=GREY, label=RIVAL)
    axes.plot(*zip(*points(TIER)), "o-", markersize=4, color=colour(facts, TIER), label=TIER)
    begin, _ = wins(curve, TIER, BASE)
    if begin:
        axes.axvline(begin, color=GREY, linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, None)
    axes.set_title(f"E = {E}, {dtype}", fontsize=10)
