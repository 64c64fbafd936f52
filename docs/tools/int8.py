"""What the records say of the 8-bit tiers: docs/measured/int8_*.json, by tests/bench/record_int8.py."""
import json

from tables import cell, folded, number, rate_text, table, time_text


def records(folder, kind):
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return [(path, data) for path, data in found if data.get("kind") == kind]


def caption(words, path, data):
    machine = data["machine"]
    return "\n" + words["caption"].format(
        machine=f"{machine['cpu']}, {machine['cores']} cores, {data['isa']}", date=data["date"][:10],
        source=data["source_hash"][:10], file=path.name, command=data["command"]) + "\n"


def plot_name(kind, tier, n):
    return f"int8_{kind}_{tier}_{n}"


def plots(words, folder, kind, tier):
    """The plots that plots_int8.py draws, a record each."""
    return "\n\n".join(
        f"\\image html {plot_name(kind, tier, n)}.svg "
        f"\"{caption(words, path, data).strip().replace('`', '')}\" width=100%"
        for n, (path, data) in enumerate(records(folder, f"int8 {kind}")))


def measured(folder, tier):
    return any(row["tier"] == tier for _, data in records(folder, "int8 speed")
               for row in data["rows"])


def not_measured(words, what):
    return words["int8_not_measured"].format(what)


def accuracy(words, folder, tier):
    """The worst head of each generator, and others beside it."""
    text = ""
    for path, data in records(folder, "int8 accuracy"):
        rows = [[f"`{r['inputs']}`", r["E"], f"{r['cosine']:.6f}", f"{r['relative_l1']:.2g}",
                 f"{r['relative_l2']:.2g}", f"{r['max_error']:.2g}", f"{r['logsumexp_error']:.2g}"]
                for r in data["rows"] if r["tier"] == tier]
        text += folded(words, rows, table(
            [words["generator"], "E", words["cosine"], words["relative_l1"], words["relative_l2"],
             words["largest"], "logsumexp"], rows))
        text += caption(words, path, data)
    return text + anchors(words, folder) if text else not_measured(words, "accuracy")


def anchors(words, folder):
    """What others' kernels showed on normal data."""
    text = ""
    for path, data in records(folder, "anchors of accuracy"):
        rows = [[r["name"], f"{r['dtype']}, E = {r['E']}{', causal' if r['causal'] else ''}",
                 f"{r['cosine']:.6f}", f"{r['relative_l2']:.2g}"] for r in data["rows"]]
        text += ("\n" + words["int8_anchors"] + "\n"
                 + table([words["anchor"], words["case"], words["cosine"], words["relative_l2"]], rows)
                 + f"\n{data['machine']['gpu']}; {data['date']}; {data.get(words['method_key'], data['method'])}; "
                   f"docs/measured/{path.name}\n")
    return text


def speed(words, folder, tier):
    """One thread, beside `simd` in the same run."""
    text = ""
    for path, data in records(folder, "int8 speed"):
        rows = []
        for r in data["rows"]:
            if r["tier"] != tier:
                continue
            rows.append([", ".join(str(n) for n in r["shape"]),
                         words["is_so"] if r["causal"] else words["is_not"],
                         cell(r["seconds"]["median"], time_text),
                         rate_text(r["gflops_per_second"]), f"{r['times_simd']['median']:.2f}"])
        text += table(["(B, H, L, S, E)", words["causal"], words["median"], "GFLOP/s",
                       words["times_simd"]], rows) + caption(words, path, data)
    return text or not_measured(words, "speed")


def times(words, folder, tier, L, E):
    """Times as fast as `simd`, from the first record that holds the shape, without causal rule."""
    for _, data in records(folder, "int8 speed"):
        for r in data["rows"]:
            if (r["tier"], r["shape"][2], r["shape"][4], r["causal"]) == (tier, L, E, False):
                return f"{r['times_simd']['median']:.3g}"
    return words["not_measured_inline"]


def without(words, rows):
    """Relative L2 error of each input with one idea left out; the judge's word where it objects."""
    def cell_of(verdict):
        error, ratio = f"{number(verdict['relative_l2']):.2g}", number(verdict["ratio"])
        return error if ratio <= 1 else f"<b>{error}</b> ({ratio:.3g})"
    header = [words["generator"]] + [words["without"][v["name"]] for v in rows[0]["verdicts"]]
    return (table(header, [[f"`{row['inputs']}`" if " " not in row["inputs"] else words["without"][row["inputs"]]]
                           + [cell_of(v) for v in row["verdicts"]] for row in rows])
            + "\n" + words["without_note"] + " " + words["computed"])


def without_number(rows, inputs, name, key):
    """One number of that table."""
    verdicts = next(row["verdicts"] for row in rows if row["inputs"] == inputs)
    return number(next(v[key] for v in verdicts if v["name"] == name))
