"""What fills the directives that show what the library says of itself, and its exercises.

A part of pages.Maker, which holds `root`, `facts`, `verdicts`, `words`, `language`, and the page that is
being filled.
"""
import json
import re
import sys
import tomllib

import tables
from sources import tests_of


class Library:
    def do_worked(self):
        return tables.worked(self.words, self.facts["worked_example"])

    def do_running_state(self):
        return tables.running_state(self.words, self.facts["running_state"])

    def do_errors(self, name):
        return tables.errors(self.words, self.tier(name))

    def do_scratch(self, *names):
        chosen = [t for t in self.facts["tiers"] if "scratch" in t and (not names
                                                                       or t["name"] in names)]
        return tables.scratch(self.words, chosen)

    def do_scratch_at(self, name, L):
        for point in self.tier(name)["scratch"]:
            if point["L"] == int(L):
                return tables.bytes_text(point["bytes"])
        sys.exit(f"docs: {self.page}: no scratch of {name} at L = {L}")

    def do_generators(self):
        return tables.generators(self.words, self.facts["generators"])

    def do_mutants(self):
        """The programs that the tests must catch."""
        path = self.root / "tests/mutants/mutants.toml"
        mutants = tomllib.loads(path.read_text())["mutant"]
        return tables.table([self.words["tier"], self.words["mutant"], self.words["models"]],
                            [[f"`{m['tier']}`" if m.get("tier") else "", m["name"], m["models"]]
                             for m in mutants])

    def do_speeds(self):
        """Says so where `auto` has no recorded speeds to go by."""
        recorded = re.findall(r"(?m)^ATTN_SPEED\((\w+)", (self.root / "lib/speeds.def").read_text())
        missing = [t["name"] for t in self.facts["tiers"] if t["name"] not in recorded]
        return self.words["no_speeds"].format(", ".join(missing)) if missing else ""

    def do_explained(self):
        return tables.explained(self.words, self.facts["explained"])

    def do_test(self, *sentence):
        """The name of a test, which must exist."""
        name = " ".join(sentence)
        if name not in tests_of(self.root):
            sys.exit(f"docs: {self.page}: tests/ has no test \"{name}\"")
        return f"<em>{name}</em>"  # a star after a Chinese colon is a star

    # ---- directives: exercises ------------------------------------------------------------------

    def do_exercises(self, name):
        folders = sorted((self.root / "docs/exercises").glob(f"{name}_[0-9]"))
        if not folders:
            sys.exit(f"docs: {self.page}: docs/exercises has none for {name}")
        return "\n".join(self.exercise(folder) for folder in folders)

    def exercise(self, folder):
        words = self.words
        task = folder / ("task.md" if self.language == "en" else f"task.{self.language}.md")
        title, _, rest = task.read_text().partition("\n")
        body, _, hint = rest.partition("<!-- hint -->")
        path = folder.relative_to(self.root)

        def folded(summary, inside):
            return (f"\\htmlonly\n<details><summary>{summary}</summary>\n\\endhtmlonly\n{inside}\n"
                    "\\htmlonly\n</details>\n\\endhtmlonly\n")
        return (f"### {words['task'].format(folder.name, title.lstrip('# '))}\n{body}\n"
                + words["try"].format(folder.name) + "\n\n"
                + f"\\include whole/{path}/start.cpp\n"
                + (folded(words["hint"], hint) if hint.strip() else "")
                + folded(words["solution"], f"\\include whole/{path}/solution.cpp"))

    def do_verdict(self, exercise, *words_of_case):
        """What the judge says of the unsolved exercise, in its own words."""
        found, case = self.verdicts.get(exercise), " ".join(words_of_case)
        if found is None:
            sys.exit(f"docs: {self.page}: no verdict on {exercise}")
        lines = [c for c in found["start"]["cases"] if not case or c["case"] == case]
        if not lines:
            sys.exit(f"docs: {self.page}: {exercise} has no case {case}")
        return tables.verdict(self.words, max(lines, key=lambda c: tables.number(c["ratio"])))

    def do_bug_grid(self):
        return tables.bug_grid(self.words, self.root, self.verdicts)

    def do_output(self, example):
        """What a program in docs/examples/ printed when the site was built."""
        text = (self.work.parent / f"output_{example}.txt").read_text()
        return f"\\verbatim\n{text}\\endverbatim"

    def do_drop_in(self):
        """The lines that put the library in PyTorch's place, as the Python module states them."""
        text = (self.root / "lib/python/attention_ladder/__init__.py").read_text()
        lines = re.search(r"(?m)^    import attention_ladder as al\n(?:    .*\n)+", text)
        if not lines:
            sys.exit("docs: the Python module no longer says how it is dropped in")
        return "```{.py}\n" + re.sub(r"(?m)^    ", "", lines[0]) + "```"

    def do_notebooks(self):
        titles = []
        for path in sorted((self.root / "notebooks").glob("*.ipynb")):
            cells = json.loads(path.read_text())["cells"]
            first = "".join(next(c["source"] for c in cells if c["cell_type"] == "markdown"))
            title = first.split("\n")[0].lstrip("# ")
            titles.append([title, f"`notebooks/{path.name}`"])
        if not titles:
            return self.words["no_notebooks"]
        return tables.table(["", self.words["files"]], titles)
