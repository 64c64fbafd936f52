"""Reads the records of real runs, docs/measured/*.json: the only source of measured numbers.

A record says on which machine, when and from which source it was made, and holds one row for each
tier, case and number of threads: see tests/bench/record.py. A file of another kind (an "anchors"
record of other people's kernels) has no "rows" and is read where it is shown.
"""
import json


class Record:
    def __init__(self, path, data):
        self.file = path.name
        machine = data.get("machine", {})
        self.machine = machine.get("gpu") or machine.get("cpu") or machine.get("name") or path.stem
        if machine.get("cores") and not machine.get("gpu"):
            self.machine += f", {machine['cores']} cores"
        self.command = data.get("command", "./run bench")
        self.ceilings = data.get("ceilings", {})
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

    def lengths(self):
        """The rows of the one shape that was measured at most lengths; none below three."""
        shapes = {}
        for r in self.rows:
            if r["L"] == r["S"]:
                key = (r["shape"], r["dtype"], r["causal"])
                shapes.setdefault(key, {}).setdefault(r["L"], []).append(r)
        best = max(shapes.values(), key=len, default={})
        return [r for rows in best.values() for r in rows] if len(best) >= 3 else []


def load(folder):
    records = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        if data.get("rows") and "sizes" in data["rows"][0]:
            records.append(Record(path, data))
    return records
