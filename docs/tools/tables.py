"""Tables in Markdown, as Doxygen 1.9.4 reads it."""
import difflib
import html
import json
import math
import re

from sources import code_of, included


# In a cell, a shape or a number with its unit stays on one line.
TOGETHER = re.compile(r"(?<=[\dBHLSEqv],) (?=(?:\d+|[BHLSE]|Hq|Ev)[,)])|(?<=\d,) (?=\d+$)"
                      r"|(?<=\d) (?=%|(?:ns|us|ms|s|bytes|KiB|MiB|GiB)\b)")


def table(header, rows):
    rows = [[TOGETHER.sub("\u00a0", str(cell)) for cell in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"


# ---- numbers -------------------------------------------------------------------------------------

def number(value):
    """JSON has no infinity: the driver writes a string."""
    return math.inf if value is None or value in ("inf", "nan") else float(value)


def time_text(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def bytes_text(count):
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def rate_text(gflops):
    return f"{gflops:.3g}" if gflops < 1000 else f"{gflops:.0f}"


def folded(words, rows, text):
    """A long table behind a click."""
    if len(rows) <= 14:
        return text
    return (f"\\htmlonly\n<details><summary>{words['rows'].format(len(rows))}</summary>\n"
            f"\\endhtmlonly\n{text}\n\\htmlonly\n</details>\n\\endhtmlonly\n")


def ratio_text(ratio):
    ratio = number(ratio)
    if math.isinf(ratio):
        return "∞"
    if ratio < 1000:
        return f"{ratio:.3g}" if ratio < 1 else f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"
    return f"{ratio:.0e}".replace("e+0", "e")


# ---- the registry --------------------------------------------------------------------------------

def ladder(words, tiers, with_page, idea):
    rows = []
    for tier in tiers:
        name = tier["name"]
        link = f"\\ref tier_{name} \"{name}\"" if name in with_page else f"`{name}`"
        base = tier["builds_on"]
        rows.append([link, idea(tier), tier["device"].upper(),
                     words["nothing"] if base == "nothing" else f"`{base}`"])
    return table([words["tier"], words["adds"], words["on"], words["builds_on"]], rows)


def limits(words, tier):
    has = tier["limits"]
    if not has["dtypes"]:
        return words["not_built"]
    rows = [[words["dtypes"], ", ".join(has["dtypes"])]]
    rows += [[words[key], words["yes"] if has[key] else words["no"]]
             for key in ("boolean_mask", "additive_mask", "causal", "grouped_heads", "logsumexp")]
    rows += [[words["max_head_dim"], has["max_head_dim"] or words["any"]],
             [words["requires"], has["requires"] or words["any_machine"]]]
    if has["error_limit"]:
        rows.append([words["error_limit"], has["error_limit"]])
    if tier["device"] == "cpu":
        rows.append([words["parallel"], words["is_so"] if tier["parallel"] else words["is_not"]])
    note = words["limits_note" if tier["built"] else "limits_read"]
    return table([words["limit"], words["value"]], rows) + "\n" + note


def errors(words, tier):
    worst = {}
    for entry in tier.get("errors", []):
        key = entry["dtype"]
        if key not in worst or entry["worst_ratio"] > worst[key]["worst_ratio"]:
            worst[key] = entry
    rows = [[dtype, ratio_text(e["worst_ratio"]), f"`{e['generator']}`", f"{e['relative_l2']:.2e}"]
            for dtype, e in worst.items()]
    return (table([words["dtype"], words["worst"], words["generator"], words["relative_l2"]], rows)
            + "\n" + words["computed"])


def scratch(words, tiers):
    lengths = [point["L"] for point in tiers[0]["scratch"]]
    rows = [[L] + [bytes_text(tier["scratch"][n]["bytes"]) for tier in tiers]
            for n, L in enumerate(lengths)]
    return (table(["L = S"] + [f"`{tier['name']}`" for tier in tiers], rows)
            + "\n" + words["computed"])


def generators(words, list_):
    return table([words["generator"], words["about"]],
                 [[f"`{g['name']}`", g["about"]] for g in list_])


def explained(words, list_):
    parts = []
    for entry in list_:
        shape = "(" + ", ".join(map(str, entry["shape"])) + ")"
        parts.append(f"{words['shape_order']} = {shape}: `auto` {words['taken']} "
                     f"`{entry['tier']}`\n"
                     + table([words["tier"], ""],
                             [[f"`{c['tier']}`", c["reason"]] for c in entry["candidates"]]))
    return "\n".join(parts) + "\n" + words["computed"]


def diff(words, root, name, base):
    if base == "nothing":
        return ""
    shared = included(root, name, base)
    old, new = code_of(root, base, shared), code_of(root, name, shared)
    lines = list(difflib.unified_diff(old, new, base, name, n=2, lineterm=""))[2:]
    added = sum(line.startswith("+") for line in lines)
    removed = sum(line.startswith("-") for line in lines)
    kinds = {"+": "added", "-": "removed", "@": "where"}
    body = "\n".join(f'<span class="{kinds.get(line[:1], "same")}">{html.escape(line)}</span>'
                     for line in lines)
    summary = words["diff"].format(f"<code>{base}</code>", added, removed).replace("`", "")
    return (f"\\htmlonly\n<details><summary>{summary}</summary>\n"
            f"<pre class=\"diff\">{body}</pre>\n</details>\n\\endhtmlonly")


# ---- computed examples ---------------------------------------------------------------------------

def matrix(rows, digits=3):
    body = r" \\ ".join(" & ".join(f"{x:.{digits}f}".rstrip("0").rstrip(".") or "0" for x in row)
                        for row in rows)
    return r"\begin{pmatrix} " + body + r" \end{pmatrix}"


def worked(words, example):
    m = {key: matrix(rows) for key, rows in example.items() if key != "logsumexp"}
    column = matrix([[x] for x in example["logsumexp"]])
    return (f"\\f[ Q = {m['query']} \\f]\n\\f[ K = {m['key']} \\f]\n\\f[ V = {m['value']} \\f]\n"
            f"\\f[ s = \\tfrac{{1}}{{\\sqrt{{2}}}}\\, Q K^T = {m['score']} \\f]\n"
            f"\\f[ P = {m['probability']} \\f]\n\\f[ \\mathrm{{lse}} = {column} \\f]\n"
            f"\\f[ O = P V = {m['out']} \\f]\n\n" + words["computed"])


def running_state(words, states):
    rows = [[n + 1, ", ".join(f"{x:g}" for x in s["scores"]), f"{s['shrink']:.3f}",
             f"{s['max']:.1f}", f"{s['sum']:.3f}", f"{s['logsumexp']:.3f}"]
            for n, s in enumerate(states)]
    return (table([words["tile"], words["scores"], words["shrink"], words["max"], words["sum"],
                   "logsumexp"], rows) + "\n" + words["computed"])


def verdict(words, case):
    return f"{words['case']} “{case['case']}”: {case['text']}"


def bug_grid(words, root, verdicts):
    """Every unsolved exercise against every case; a dagger where a fixed tolerance would pass."""
    cases = [c["case"] for c in verdicts["literal_1"]["start"]["cases"]]
    rows = []
    for name, verdict_ in verdicts.items():
        start = (root / f"docs/exercises/{name}/start.cpp").read_text().split("\n")[0]
        bug = start.partition(": ")[2].rstrip(".")
        if any("budget" in c["text"] or "fixed" not in c for c in verdict_["start"]["cases"]):
            continue  # right but too large, or a counting exercise
        row = [bug]
        for c in verdict_["start"]["cases"]:
            blind = " †" if c["fixed"] and number(c["ratio"]) > 1 else ""
            row.append(ratio_text(c["ratio"]) + blind)
        rows.append(row)
    return table([words["bug"]] + cases, rows) + "\n" + words["computed"]


# ---- records -------------------------------------------------------------------------------------

def cell(value, text):
    return "-" if value is None else text(value)


def measured_row(words, row):
    return [row["case"], row["dtype"], row["threads"], time_text(row["seconds"]),
            row["spread"] or f"{time_text(row['low'])} - {time_text(row['high'])}", rate_text(row["gflops"]),
            cell(row["scratch"], bytes_text), cell(row["ratio"], ratio_text)]


def measured_table(words, record, rows, first=(), last=()):
    """Without the columns that no row fills."""
    header = [*first, words["case"], words["dtype"], words["threads"], words[record.time],
              words[record.spread], "GFLOP/s", words["scratch"], words["error"], *last]
    kept = [n for n in range(len(header)) if any(row[n] != "-" for row in rows)]
    return folded(words, rows, table([header[n] for n in kept],
                                     [[row[n] for n in kept] for row in rows]))


def measured(words, records, name, base):
    parts = []
    for record in records:
        rows = []
        for row in (r for r in record.rows if r["tier"] == name):
            other = record.find(base, row["case"], row["threads"])
            gain = f"{other['seconds'] / row['seconds']:.3g}" if other else "-"
            rows.append(measured_row(words, row) + [gain])
        if rows:
            against = words["against"].format(f"`{base}`") if base != "nothing" else ""
            parts.append(measured_table(words, record, rows, last=[against]) + "\n"
                         + record.caption(words) + "\n")
    return "\n".join(parts) or words["not_measured"].format(what=f"`{name}`")


def all_measured(words, records):
    parts = []
    machines = [record.machine for record in records]
    for record in records:
        rows = [[f"`{row['tier']}`"] + measured_row(words, row) for row in record.rows]
        twice = machines.count(record.machine) > 1  # then the heading names the record, too
        text = measured_table(words, record, rows, first=[words["tier"]])
        failed = "".join(f"- {reason}\n" for reason in getattr(record, "failed", []))
        parts.append(f"## {record.machine}{': ' + record.file.removesuffix('.json') if twice else ''}\n" + text + "\n"
                     + (words["failed"] + "\n" + failed + "\n" if failed else "") + record.caption(words) + "\n")
    return "\n".join(parts) or words["not_measured"].format(what="any tier")


def versus(words, rivals, cases=None):
    """Times beside other libraries, from records in which the rivals took turns."""
    parts = []
    for record in rivals:
        rows = []
        for row in record.rows:
            share = row.get("share_of_read_best") or row.get("share_of_peak_best")
            roof = words["of_read"] if row.get("share_of_read_best") else words["of_peak"]
            rows.append([row["case"], row["dtype"], row["threads"],
                         f"`{row['rival']}`", time_text(row["seconds_best"]),
                         time_text(row["seconds_median"]), f"{row['gflops_best']:.3g}",
                         f"{share:.2f} {roof}" if share else "-",
                         f"{row['torch_over_this_median']:.3g}"
                         if row.get("torch_over_this_median") else "-"])
        header = [words["case"], words["dtype"], words["threads"], words["rival"], words["best"],
                  words["median"], "GFLOP/s", words["share"], words["torch_over"]]
        parts.append(folded(words, rows, table(header, rows)) + "\n" + record.caption(words) + "\n")
    return "\n".join(parts) or words["not_measured"].format(what="PyTorch")


def anchors(words, folder, name):
    path = folder / f"{name}.json"
    if not path.exists():
        return words["not_measured"].format(what="sageattn, PyTorch")
    record = json.loads(path.read_text())
    parts = []
    for part in record["tables"]:
        rows = [[row.get(words["name_key"], row["name"])] + [cell(x, time_text) for x in row["seconds"]]
                for row in part["rows"]]
        parts.append(part[words["title_key"]] + "\n" + table([words["anchor"]] + part["columns"], rows))
    return ("\n".join(parts) + f"\n{record['machine']['gpu']}; {record['date']}; "
            f"{record.get(words['method_key'], record['method'])}; docs/measured/{path.name}\n")
