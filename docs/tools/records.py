"""Reads the records of real runs, docs/measured/*.json: the only source of measured numbers.

A record says on which machine, when and from which source it was made, and holds one row for each
tier and case. A row here is a dict with tier, case, dtype, threads, L, S, seconds, gflops, scratch,
error and ratio (error / bound); None where the record does not say.
"""
import json


class Record:
    def __init__(self, path):
        data = json.loads(path.read_text())
        self.file = path.name
        machine = data.get("machine", {})
        self.machine = machine.get("cpu") or machine.get("name") or path.stem
        if machine.get("gpu"):
            self.machine = f"{machine['gpu']}, {self.machine}"
        self.date = str(data.get("date", "?"))[:10]
        self.source = str(data.get("source", "?"))[:12]
        self.compiler = data.get("compiler", "?")
        self.command = data.get("command", "./run bench")
        self.rows = [self.row(entry) for entry in data.get("results", [])]
        self.ceilings = data.get("ceilings", {})

    @staticmethod
    def row(entry):
        seconds, flops = entry.get("seconds"), entry.get("flops")
        return {"tier": entry["tier"], "case": entry["case"],
                "dtype": entry.get("dtype", "float32"), "threads": entry.get("threads"),
                "L": entry.get("L"), "S": entry.get("S"), "seconds": seconds,
                "gflops": flops / seconds / 1e9 if seconds and flops else None,
                "bytes": entry.get("bytes"), "flops": flops,
                "scratch": entry.get("scratch_bytes"), "error": entry.get("worst_error"),
                "ratio": entry.get("worst_ratio")}

    def caption(self, words):
        return words["caption"].format(machine=self.machine, date=self.date, source=self.source,
                                       file=self.file, command=self.command)

    def find(self, tier, case):
        return next((row for row in self.rows if row["tier"] == tier and row["case"] == case), None)


def load(folder):
    return [Record(path) for path in sorted(folder.glob("*.json"))]
