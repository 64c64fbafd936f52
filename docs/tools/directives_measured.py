"""What fills the directives that show measurements: from the records in docs/measured/ and, for what the
8-bit tiers lose, from docs_facts.

A part of pages.Maker, which holds `root`, `facts`, `measured`, `words`, and the page that is being filled.
"""
import re
import sys

import crossover
import int8
import int8_gpu
import plots
import tables
import tables_gpu


class Measurements:
    def do_anchors(self):
        """What others' kernels take at the seed's shapes, from the record that holds them."""
        return tables.anchors(self.words, self.root / "docs/measured", "anchors_h200")

    def do_anchors_beside(self):
        """The same beside this library, in one process."""
        return tables.anchors(self.words, self.root / "docs/measured", "anchors_beside_h200")

    def do_int8_accuracy(self, name):
        if self.tier(name)["device"] == "gpu":
            return int8_gpu.accuracy(self.words, self.root / "docs/measured")
        return int8.accuracy(self.words, self.root / "docs/measured", name)

    def do_int8_speed(self, name):
        return int8.speed(self.words, self.root / "docs/measured", name)

    def do_int8_plot(self, kind, name):
        if self.tier(name)["device"] == "gpu":
            return int8_gpu.plots(self.words, self.root / "docs/measured")
        return int8.plots(self.words, self.root / "docs/measured", kind, name)

    def do_int8_without(self, what):
        """Errors with an idea left out: `scores` or `values`, computed by docs_facts."""
        return int8.without(self.words, self.facts["int8"][f"without_{what}"])

    def do_int8_error(self, what, inputs, *name):
        return f"{self.int8_number(what, inputs, name, 'relative_l2'):.2g}"

    def do_int8_ratio(self, what, inputs, *name):
        """The judge's error / bound."""
        return tables.ratio_text(self.int8_number(what, inputs, name, "ratio"))

    def int8_number(self, what, inputs, name, key):
        rows = self.facts["int8"][f"without_{what}"]
        return int8.without_number(rows, inputs.replace("_", " ") if inputs.startswith("a_") else inputs,
                                   " ".join(name), key)

    def do_int8_step(self, inputs, stage):
        """Stage 0, 1 or 2 of the key of the picture: the step that it would be rounded with."""
        rows = self.facts["int8"]["key_rows"]
        steps = next(row["stages"] for row in rows if row["inputs"] == inputs)
        return f"{steps[int(stage)]['step']:.3g}"

    def do_int8_lost(self, against):
        """The share of a row's weight that rounding loses beside a sink."""
        return f"{100 * self.facts['int8']['sink'][f'lost_against_{against}']:.2g} %"

    def do_int8_state(self):
        found = [t for t in self.facts["tiers"] if t["quantized"] or "int8" in t["name"]]
        if not found:
            return self.words["no_int8"]
        text = self.words["int8_tiers"].format(", ".join(self.link(t["name"]) for t in found))
        if not any(t["device"] == "gpu" for t in found):
            text += "\n\n" + self.words["no_gpu_int8"]
        return text

    def do_int8_times(self, name, L, E):
        """Times as fast as `simd` on one thread, not causal."""
        return int8.times(self.words, self.root / "docs/measured", name, int(L), int(E))

    def do_crossover_plot(self):
        return crossover.plots(self.words, self.measured)

    def do_crossover_tables(self):
        return crossover.tables(self.words, self.measured)

    def do_crossover(self, form, E, dtype, base):
        """From which length cuda_int8 is faster than `base`: form "many" or "few"."""
        return crossover.said(self.words, self.measured, form, int(E), dtype, base.replace("torch_", "torch "))

    def do_first_calls(self):
        return crossover.first_calls(self.words, self.root / "docs/measured")

    # ---- directives: measured -------------------------------------------------------------------

    def do_measured(self, name):
        base = self.tier(name)["builds_on"]
        if not any(row["tier"] == name for record in self.measured for row in record.rows):
            if int8.measured(self.root / "docs/measured", name):
                return ""  # in records of another form: {{int8_speed}}
            if self.tier(name)["device"] == "gpu":
                return self.words["gpu_not_measured"]
        return tables.measured(self.words, self.measured, name, base)

    def do_plot(self, kind, name=""):
        """A figure made from records; a sentence where there is no record for it."""
        made = plots.made_from_records(kind, name, self.measured)
        if not made:  # a tier's own page has said above that nothing was measured
            return "" if name else self.words["not_measured"].format(what=self.words[kind])
        return "\n\n".join(f"\\image html {file} \"{self.caption_text(record)}\" width=100%"
                           for file, record in made)

    def caption_text(self, record):
        return record.caption(self.words).replace("`", "").replace('"', "'")

    def cited(self, record):
        """Where a number in a sentence comes from: said once for numbers that follow each other."""
        source = (self.page, record.machine, record.date)
        again, self.last_cited = source == self.last_cited, source
        return "" if again else f" ({record.machine}, {record.date})"

    def do_ratio(self, slow, fast, case):
        """`slow`'s time divided by `fast`'s, from the first record that holds both. PyTorch's
        backends are torch_default and so on; an underscore is a space."""
        case, slow = case.replace("_", " "), slow.replace("_", " ") if slow.startswith("torch_") else slow
        for record in [*self.measured, *self.measured.lengths]:
            a, b = record.find(slow, case), record.find(fast, case)
            if a and b:
                return f"{a['seconds'] / b['seconds']:.3g}" + self.cited(record)
        return self.words["not_measured_inline"]

    def do_across(self, slow, slow_case, fast, fast_case):
        """`slow`'s time divided by `fast`'s, from records of two machines. The cases must ask for the
        same work."""
        found = []
        for tier, case in ((slow, slow_case), (fast, fast_case)):
            rows = ((record, record.find(tier, case.replace("_", " "))) for record in self.measured)
            found.append(next(((record, row) for record, row in rows if row), None))
        if None in found:
            return self.words["not_measured_inline"]
        (here, a), (there, b) = found
        if (a["flops"], a["dtype"], a["shape"]) != (b["flops"], b["dtype"], b["shape"]):
            sys.exit(f"docs: {self.page}: {slow_case} and {fast_case} are different problems")
        self.last_cited = None
        return (f"{a['seconds'] / b['seconds']:.3g} ({here.machine}, {a['threads']} "
                f"{self.words['one_thread' if a['threads'] == 1 else 'threads']}, {here.date}; "
                f"{there.machine}, {there.date})")

    def do_saves(self, name, case, less):
        """The tier's time on a case divided by its time on one that asks for less."""
        name = name.replace("torch_", "torch ")
        for record in self.measured:
            a, b = (record.find(name, c.replace("_", " ")) for c in (case, less))
            if a and b:
                return f"{a['seconds'] / b['seconds']:.3g}" + self.cited(record)
        return self.words["not_measured_inline"]

    def do_versus(self):
        return tables.versus(self.words, self.measured.rivals)

    def do_beside(self, rival, case, threads):
        """PyTorch's time divided by the rival's, from a record in which they took turns."""
        for record in self.measured.rivals:
            for row in record.rows:
                if (row["rival"], row["case"], row["threads"]) == (rival, case.replace("_", " "),
                                                                   int(threads)):
                    many = self.words["one_thread" if int(threads) == 1 else "threads"]
                    return (f"{row['torch_over_this_median']:.3g}, {threads} {many}"
                            + self.cited(record))
        return self.words["not_measured_inline"]

    def do_step(self, new, old):
        """Speed with a step divided by the speed without it, over all pairs that were tried."""
        for path in sorted((self.root / "docs/measured").glob("gpu_steps_*.json")):
            if found := tables_gpu.step(path, new, old):
                return found
        return self.words["not_measured_inline"]

    def do_all_measured(self):
        return (tables.all_measured(self.words, [*self.measured, *self.measured.lengths]) + "\n"
                + tables_gpu.all_of(self.words, self.root / "docs/measured"))
