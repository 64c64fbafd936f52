"""Reads the records of real runs, docs/measured/*.json: the only source of measured numbers.

A record says on which machine, when and from which source it was made, and holds one row for each
tier, case and number of threads: see tests/bench/record.py. Other kinds of record have classes of their own
below; a file of a kind that is not known here is read where it is shown.
"""
import json


class Record:
    time, spread = "median", "spread"  # words for what its rows hold as seconds and as their spread

    def __init__(self, path, data):
        self.file = path.name
        machine = data.get("machine", {})
        self.machine = machine.get("gpu") or machine.get("cpu") or machine.get("name") or path.stem
        if machine.get("cores") and not machine.get("gpu"):
            self.machine += f", {machine['cores']} cores"
        self.command = data.get("command", "./run bench")
        self.rows = [self.row(entry) for entry in data["rows"]]
        dates = sorted({row["date"] for row in self.rows})
        self.date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        self.source = ", ".join(sorted({row["source"] for row in self.rows}))

    @staticmethod
    def row(entry):
        sizes = entry["sizes"]
        return {"tier": entry["tier"], "case": entry["case"], "dtype": entry["dtype"],
                "threads": entry.get("threads", 1), "causal": entry.get("causal", False),
                "L": sizes["L"], "S": sizes["S"],
                "shape": tuple(sizes[a] for a in ("B", "Hq", "H", "E", "Ev")),
                "seconds": entry["seconds"]["median"], "low": entry["seconds"]["p10"],
                "high": entry["seconds"]["p90"], "gflops": entry["flops"] / 1e9
                / entry["seconds"]["median"], "flops": entry["flops"], "bytes": entry["bytes"],
                "spread": entry.get("spread"),
                "scratch": entry.get("scratch_bytes"), "ratio": entry.get("worst_ratio"),
                "date": entry.get("date", "?")[:10], "source": entry.get("source_hash", "?")[:10]}

    def caption(self, words):
        return words["caption"].format(machine=self.machine, date=self.date, source=self.source,
                                       file=self.file, command=self.command)

    def find(self, tier, case, threads=None):
        """The row with that many threads; else the one with fewest."""
        rows = [r for r in self.rows if r["tier"] == tier and r["case"] == case]
        exact = [r for r in rows if r["threads"] == threads]
        return (exact or sorted(rows, key=lambda r: r["threads"]) or [None])[0]

    def roofs(self):
        """{title: (arithmetic peaks in GFLOP/s, reads in GB/s, rows)}; empty: none were measured."""
        return {}

    def lengths(self):
        """The rows of the one shape that was measured at most lengths; none below three."""
        shapes = {}
        for r in self.rows:
            if r["L"] == r["S"]:
                key = (r["shape"], r["dtype"], r["causal"])
                shapes.setdefault(key, {}).setdefault(r["L"], []).append(r)
        best = max(shapes.values(), key=len, default={})
        return [r for rows in best.values() for r in rows] if len(best) >= 3 else []


class Lengths(Record):
    """Time and memory against length: tests/bench/time_and_memory.py. Times are the best of some."""
    time = "best"

    def __init__(self, path, data):
        rows = [{"tier": r["tier"], "case": f"length {r['L']}", "dtype": "float32",
                 "threads": r["threads"], "date": data["date"], "source_hash": data["source_hash"],
                 "sizes": {"B": 1, "Hq": 1, "H": 1, "L": r["L"], "S": r["S"], "E": r["E"],
                           "Ev": r["E"]},
                 "seconds": {"median": r["seconds_best"], "p10": r["seconds_best"],
                             "p90": r["seconds_best"]}, "spread": "-",
                 "flops": r["gflops"] * 1e9 * r["seconds_best"], "bytes": None,
                 "scratch_bytes": r["scratch_bytes"]} for r in data["rows"]]
        super().__init__(path, {**data, "rows": rows,
                                "machine": {"cpu": data["cpu"], "cores": data["cores"]}})


class Gpu(Record):
    """The GPU tiers beside torch's backends in one process; a torch row's tier is "torch ..."."""
    spread = "spread_of_median"

    def __init__(self, path, data):
        rows = []
        # A case that failed stands in the record; {{all_measured}} shows it.
        self.failed = [f"{c['group']}: {c['failed']}" for c in data["cases"] if "failed" in c]
        for c in (c for c in data["cases"] if "failed" not in c):
            sizes = f"L={c['L']}" if c["L"] == c["S"] else f"B={c['B']} L={c['L']} S={c['S']}"
            name = f"{c['group']} {sizes} E={c['E']} {c['dtype']}"
            name += " causal" if c["causal"] else ""
            name += f" mask {c['mask']}" if c["mask"] else ""
            for who, microseconds in c["microseconds"].items():
                seconds = microseconds * 1e-6
                rows.append({
                    "tier": who if who.startswith("cuda_") else f"torch {who}", "case": name,
                    "dtype": c["dtype"], "threads": "-", "causal": c["causal"],
                    "sizes": {**{axis: c[axis] for axis in ("B", "Hq", "H", "L", "S", "E")},
                              "Ev": c["E"]},
                    "seconds": {"median": seconds, "p10": seconds, "p90": seconds},
                    "spread": f"{100 * c['spread'][who]:.1f} %", "flops": c["flops"], "bytes": None,
                    "date": data["date"], "source_hash": data["source_hash"]})
        super().__init__(path, {**data, "rows": rows, "command": data["made_by"]})
        self.machine += f", torch {data['torch']}"
        self.gpu = data["machine"]["gpu"]
        self.peaks = []  # TFLOP/s of a bare mma.sync loop on the same kind of GPU

    def roofs(self):
        """Only of arithmetic: no record holds the GPU's rate of reading."""
        rows = [{**r, "bytes": least_bytes(r)} for r in self.rows if r["dtype"] == "bfloat16"
                and r["tier"] != "torch default" and " mask " not in r["case"]]
        return {"bfloat16; roof: a bare mma.sync loop (the roof of reading: not measured)": ([1000 * p for p in self.peaks], [], rows)
                } if self.peaks and rows else {}


def least_bytes(row):
    """Each input read once and the output written once."""
    B, Hq, H, E, Ev = row["shape"]
    size = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[row["dtype"]]
    return size * B * (Hq * row["L"] * (E + Ev) + H * row["S"] * (E + Ev))


class Rivals:
    """Our tiers beside other libraries in one process: tests/bench/compare_torch_cpu.py."""
    def __init__(self, path, data):
        self.file, self.rows = path.name, [{**row, "tier": row["rival"]} for row in data["rows"]]
        machine = data.get("machine", "?")
        self.machine = data.get("cpu") or (machine if isinstance(machine, str) else
                                           machine.get("gpu") or machine.get("cpu"))
        if data.get("cores"):
            self.machine += f", {data['cores']} cores"
        if data.get("torch"):
            self.machine += f", torch {data['torch']}"
        self.command = data.get("command", "?")
        dates = sorted({row.get("date", "?")[:10] for row in self.rows})
        self.date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        self.source = ", ".join(sorted({row.get("source_hash", "?")[:10] for row in self.rows}))

    caption = Record.caption

    def lengths(self):
        return []

    def roofs(self):
        """The rulers ran between the rivals, so that they were measured as often as these."""
        found = {}
        for threads in sorted({row["threads"] for row in self.rows}):
            rows = [row for row in self.rows if row["threads"] == threads
                    and row["dtype"] == "float32" and not row["mask"]]
            shown = []
            for row in rows:
                sizes = {"Ev": row["sizes"]["E"], **row["sizes"]}
                one = {"tier": row["rival"], "dtype": row["dtype"], "L": sizes["L"],
                       "S": sizes["S"], "gflops": row["gflops_best"],
                       "shape": tuple(sizes[a] for a in ("B", "Hq", "H", "E", "Ev")),
                       "flops": row["gflops_best"] * 1e9 * row["seconds_best"]}
                shown.append({**one, "bytes": least_bytes(one)})
            peaks = [row["fma_peak_best"] for row in rows if row.get("fma_peak_best")]
            reads = [row["read_gbytes_best"] for row in rows if row.get("read_gbytes_best")]
            if peaks and reads:
                found[f"float32, {threads} thread{'s' if threads > 1 else ''}"] = (peaks, reads,
                                                                                  shown)
        return found


class Measured(list):
    """All records of the library's own bench, and beside them those of other kinds."""
    def __init__(self, folder):
        super().__init__()
        self.lengths, self.rivals = [], []
        peaks = {}  # by GPU
        for path in sorted(folder.glob("*.json")):
            data = json.loads(path.read_text())
            row = (data.get("rows") or [{}])[0]
            if "mma_peak_tflops" in data:
                peaks[data["machine"]["gpu"]] = data["mma_peak_tflops"]
            if any("microseconds" in case for case in data.get("cases", [])):
                self.append(Gpu(path, data))
            elif "rival" in row:
                self.rivals.append(Rivals(path, data))
            elif "seconds_best" in row and "L" in row:
                self.lengths.append(Lengths(path, data))
            elif isinstance(row.get("seconds"), dict) and "sizes" in row and "tier" in row:
                self.append(Record(path, data))
        for record in self:
            if isinstance(record, Gpu):
                record.peaks = peaks.get(record.gpu, [])


def load(folder):
    return Measured(folder)
