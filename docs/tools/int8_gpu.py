"""What the GPU's own record says of the accuracy of `cuda_int8`: docs/measured/gpu_int8_*.json, by
tests/gpu/int8_report.cpp."""
import json

import matplotlib.pyplot as plt

from figures import colour, legend_beside, save
from int8 import anchors
from tables import table

TIER = "cuda_int8"


def records(folder):
    return [(path, json.loads(path.read_text())) for path in sorted(folder.glob("gpu_int8_*.json"))]


def caption(words, path, data):
    return words["caption"].format(machine=data["machine"]["gpu"], date=data["date"],
                                   source=data["source_hash"][:10], file=path.name,
                                   command=data["made_by"])


def worst(data, limit):
    """{generator: the worst of its heads over all types, lengths and head dimensions}"""
    found = {}
    for row in (r for r in data["rows"] if r["limit"] == limit):
        held = found.setdefault(row["inputs"], dict(row))
        held["cosine"] = min(held["cosine"], row["cosine"])
        for key in ("relative_l1", "relative_l2", "max_error", "logsumexp_error"):
            held[key] = max(held[key], row[key])
    return found


def limits(data):
    return sorted({row["limit"] for row in data["rows"]})


def accuracy(words, folder):
    """The worst head of each generator, and what a limit leaves of its error."""
    text = ""
    for path, data in records(folder):
        free, held = worst(data, 0), {limit: worst(data, limit) for limit in limits(data) if limit}
        rows = [[f"`{name}`", f"{w['cosine']:.6f}", f"{w['relative_l1']:.2g}",
                 f"{w['relative_l2']:.2g}", f"{w['max_error']:.2g}", f"{w['logsumexp_error']:.2g}"]
                + [f"{of[name]['relative_l2']:.2g}" for of in held.values()]
                for name, w in free.items()]
        text += table([words["generator"], words["cosine"], words["relative_l1"], words["relative_l2"],
                       words["largest"], "logsumexp"]
                      + [words["with_limit"].format(limit) for limit in held], rows)
        broken = sum(not row["kept"] for row in data["rows"])
        text += "\n" + words["promises"].format(len(data["rows"]) - broken, len(data["rows"]))
        text += "\n" + caption(words, path, data) + "\n"
    return text + anchors(words, folder) if text else words["gpu_not_measured"]


def plots(words, folder):
    return "\n\n".join(f"\\image html {plot_name(n)}.svg "
                       f"\"{caption(words, path, data).replace('`', '')}\" width=100%"
                       for n, (path, data) in enumerate(records(folder)))


def plot_name(n):
    return f"int8_accuracy_{TIER}_{n}"


def draw(folder, measured, facts):
    """Relative L2 error by generator: without a limit, and with each."""
    for n, (_, data) in enumerate(records(measured)):
        figure, axes = plt.subplots(figsize=(7.6, 3.6))
        chosen, names = limits(data), list(worst(data, 0))
        width = 0.8 / len(chosen)
        for place, limit in enumerate(chosen):
            of = worst(data, limit)
            axes.bar([x + place * width for x in range(len(names))],
                     [of[name]["relative_l2"] for name in names], width,
                     color=colour(facts, TIER), alpha=1 - 0.3 * place,
                     label=f"limit {limit:g}" if limit else "no limit")
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(names))], names, rotation=35,
                        ha="right", fontsize=9)
        axes.set_ylabel("relative L2 error, worst head")
        axes.set_title("worst of all element types, lengths and head dimensions", fontsize=10)
        legend_beside(axes)
        save(figure, folder, plot_name(n))
