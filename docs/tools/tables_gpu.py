"""Tables of the records that a GPU run leaves beside its times: tests, registers, tried variants."""
import json
import re
import statistics

from tables import folded, table


def source_line(words, record, path):
    machine = record["machine"]["gpu"]
    return words["caption" if record["made_by"].startswith("./") else "made_by"].format(machine=machine, date=record["date"],
                                   source=record["source_hash"][:10], file=path.name,
                                   command=record["made_by"])


def tests(words, path):
    record = json.loads(path.read_text())
    rows = [[f"`{name}`", t["cases"], t["passed"], t["assertions"]]
            for part in ("tests", "sanitizers") for name, t in record.get(part, {}).items()]
    return (table([words["tier"], words["test_cases"], words["passed"], words["assertions"]], rows)
            + "\n" + source_line(words, record, path))


def kernels(words, path):
    record = json.loads(path.read_text())
    rows = []
    for k in record["kernels"]:
        name = k["kernel"].replace("attn::gpu::", "").replace("(anonymous namespace)::", "")
        name = re.sub(r"\(.*", "", name).removeprefix("void ")
        rows.append([f"`{name}`", k["target"], k["registers"], k["static_shared"],
                     k["spill_stores"] + k["spill_loads"]])
    return folded(words, rows, table([words["kernel"], words["target"], words["registers"],
                                      words["shared_bytes"], words["spills"]], rows)) \
        + "\n" + source_line(words, record, path)


def variants(words, path):
    record = json.loads(path.read_text())
    rows = [[f"{row['E']}, {row['L']}, {row['causal']}", f"`{name}`", value] for row in record["rows"]
            for name, value in row.items() if name not in ("E", "L", "causal")]
    return folded(words, rows, table(["E, L, causal", words["variant"], "TFLOP/s"], rows)) \
        + "\n" + source_line(words, record, path)


def step(path, new, old):
    """Speed of the variants with `new` in their names divided by that of the same with `old`."""
    ratios, pairs = [], set()
    parts = list(zip(old.split("+"), new.split("+")))
    for row in json.loads(path.read_text())["rows"]:
        for name in row:
            twin = name.split()
            if not all(a in twin for a, _ in parts):
                continue
            for a, b in parts:
                twin[twin.index(a)] = b
            if " ".join(twin) in row:
                ratios.append(row[" ".join(twin)] / row[name])
                pairs.add(name)
    return ratios and (f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}; "
                       f"{len(pairs)} pairs)")


def all_of(words, folder):
    """Every such record, each under a heading."""
    parts = []
    for pattern, title, text in (("gpu_tests_*.json", "gpu_tests", tests),
                                 ("gpu_ptxas*.json", "gpu_kernels", kernels),
                                 ("gpu_steps_*.json", "gpu_variants", variants)):
        parts += [f"## {words[title]}\n{text(words, path)}\n" for path in sorted(folder.glob(pattern))]
    return "\n".join(parts)
