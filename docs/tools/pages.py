"""Fills the {{directives}} of the pages: docs/*.dox (English) and docs/zh/*.dox (Chinese).

A directive is {{name argument key=value}}; its function below is named after it. Everything it
writes comes from the registry (facts), the records, the exercises or the sources.
"""
import json
import re
import sys
import tomllib
import xml.sax.saxutils

import excerpts
import int8
import tables
import plots
import tables_gpu
import taught
from sources import files_of, tests_of
from words import WORDS

QUESTIONS = ["why_no_transpose", "why_fused", "why_masks", "why_memory", "why_auto", "why_int8"]
DIRECTIVE = re.compile(r"\{\{(\w+)\s*([^}]*)\}\}")


class Maker:
    def __init__(self, root, work, language, facts, measured, verdicts):
        self.root, self.work, self.language = root, work, language
        self.facts, self.measured, self.verdicts = facts, measured, verdicts
        self.words, self.order, self.last_cited = WORDS[language], None, None
        folder = root / "docs" / ("" if language == "en" else language)
        self.sources = sorted(folder.glob("*.dox"))
        self.texts = {path.stem: path.read_text() for path in self.sources}
        if language == "en":  # the kernel engineers' journals of what was tried
            for path in sorted((root / "docs").glob("steps_*.md")):
                title, _, body = path.read_text().partition("\n")
                title = re.sub(r"\s*\{#.*\}", "", title.lstrip("# "))
                self.texts[path.stem] = f"/**\n\\page {path.stem} {title}\n\n{body}\n\n{{{{next}}}}\n*/\n"
        # A page may be there before its tier.
        registered = {f"tier_{t['name']}" for t in facts["tiers"]}
        self.texts = {name: text for name, text in self.texts.items()
                      if not name.startswith("tier_") or name in registered}
        self.tiers = [tier for tier in facts["tiers"] if f"tier_{tier['name']}" in self.texts]

    # ---- the course as a whole ------------------------------------------------------------------

    def title(self, page):
        match = re.search(rf"\\page {page} (.*)", self.texts.get(page, ""))
        return match.group(1).strip() if match else page

    def course(self):
        """[(page, title)] in reading order."""
        if self.order is None:
            text = self.expand("course", self.texts["course"])
            self.order = [(page, xml.sax.saxutils.escape(self.title(page)))
                          for page in re.findall(r"\\subpage (\w+)", text)]
        return self.order

    def write(self):
        """Writes every page; returns their ids."""
        target = self.work / "pages" / self.language
        target.mkdir(parents=True, exist_ok=True)
        ids = []
        self.course()
        for name, text in self.texts.items():
            text = self.expand(name, text)
            excerpts.check(f"{name} ({self.language})", text, self.root)
            (target / f"{name}.dox").write_text(text)
            match = re.search(r"\\page (\w+)", text)
            ids.append(match.group(1) if match else "index")
        return ids

    def expand(self, page, text):
        def fill(match):
            name, arguments = match.group(1), match.group(2).split()
            function = getattr(self, "do_" + name, None)
            if function is None:
                sys.exit(f"docs: {page}: there is no directive {{{{{name}}}}}")
            named_only = ("level=", "minutes=", "before=", "hardware=")
            plain = [a for a in arguments if not a.startswith(named_only)]
            named = dict(a.split("=", 1) for a in arguments if a.startswith(named_only))
            self.page = page
            return function(*plain, **named)
        text = DIRECTIVE.sub(fill, text)
        # A line break between two Chinese characters is not a space.
        text = re.sub(r"([\u3001-\u9fff\uff01-\uff5e])\n *([\u3001-\u9fff\uff01-\uff5e])", r"\1\2", text)
        # Emphasis between Chinese characters, which Markdown does not see.
        text = re.sub(r"(?<!\*)\*([\u3001-\u9fff][^*\n]*?)\*(?!\*)", r"<em>\1</em>", text)
        # Bold that begins or ends at code: 1.9.4 shows its stars.
        text = re.sub(r"\*\*(`[^*\n]*?|[^*\n]*?`)\*\*", r"<b>\1</b>", text)
        # Doxygen takes a star at the start of a line for the edge of the comment.
        text = re.sub(r"(?m)^( *)\*\*(\S.*?)\*\*", r"\1<b>\2</b>", text)
        text = re.sub(r"(?m)^( *)\*(\S[^*\n]*)\*", r"\1<em>\2</em>", text)
        return re.sub(r"(?m)^(\\page .*)$", r"\1\n\\tableofcontents", text, count=1)

    def tier(self, name):
        for tier in self.facts["tiers"]:
            if tier["name"] == name:
                return tier
        sys.exit(f"docs: {self.page}: lib/tiers.def has no tier {name}")

    # ---- directives: the ladder -----------------------------------------------------------------

    def do_chapters(self):
        """One line for each tier that has a page, in the ladder's order."""
        return "\n".join(f"- \\subpage tier_{t['name']}" for t in self.tiers)

    def do_question_pages(self):
        return "\n".join(f"- \\subpage {name}" for name in QUESTIONS if name in self.texts)

    def do_questions(self):
        return "\n".join(f"- \\ref {name}" for name in QUESTIONS if name in self.texts)

    def do_steps(self):
        """The journals of steps that were tried, where they exist."""
        return "\n".join(f"- \\subpage {name}" for name in self.texts if name.startswith("steps_"))

    def do_ladder(self):
        return tables.ladder(self.words, self.facts["tiers"], {t["name"] for t in self.tiers},
                             self.idea)

    def idea(self, tier):
        """In English from the registry; in another language from the title of the tier's page."""
        title = self.title(f"tier_{tier['name']}")
        return title.partition("：")[2] or tier["idea"]

    def do_map(self):
        return f"\\dotfile ladder_{self.language}.dot"

    def do_head(self, name, level="1", minutes="15", before="", hardware=""):
        tier, words = self.tier(name), self.words
        links = ", ".join(f"\\ref {page}" for page in before.split(",") if page) or words["nothing"]
        files = ", ".join(f"`{path.relative_to(self.root)}`" for path in files_of(self.root, name))
        needs = hardware.replace("_", " ") or tier["limits"]["requires"] or words["any_machine"]
        stars = "★" * int(level) + "☆" * (5 - int(level))
        return tables.table([words["tier"], f"`{name}`"], [
            [words["idea"], self.idea(tier)], [words["builds_on"], self.link(tier["builds_on"])],
            [words["level"], stars], [words["minutes"], words["minute_count"].format(minutes)],
            [words["before"], links], [words["hardware"], needs], [words["files"], files]])

    def link(self, name):
        if name == "nothing":
            return self.words["nothing"]
        known = any(t["name"] == name for t in self.tiers)
        return f"\\ref tier_{name} \"{name}\"" if known else f"`{name}`"

    def do_limits(self, name):
        return tables.limits(self.words, self.tier(name))

    def do_diff(self, name):
        return tables.diff(self.words, self.root, name, self.tier(name)["builds_on"])

    def do_whole(self, name):
        parts = []
        for path in files_of(self.root, name):
            relative = path.relative_to(self.root)
            parts.append("\\htmlonly\n<details><summary>"
                         + self.words["whole"].format(f"<code>{relative}</code>")
                         + f"</summary>\n\\endhtmlonly\n\\include whole/{relative}\n"
                         + "\\htmlonly\n</details>\n\\endhtmlonly")
        if len(parts) > 2:
            parts = [f"\\htmlonly\n<details><summary>{self.words['all_files'].format(len(parts))}"
                     "</summary>\n\\endhtmlonly", *parts, "\\htmlonly\n</details>\n\\endhtmlonly"]
        return "\n".join(parts)

    def do_teaches(self, *names):
        """The names of the API that an English page teaches: shown at its end, in each language, and
        the names lead back to it (taught.py)."""
        return "" if self.page in dict(self.order) else self.teaches()  # {{next}} shows them

    def teaches(self):
        names = [name for name, page in taught.claims().items() if page == self.page]
        links = ", ".join(f"\\ref attn::{name} \"{name}\"" for name in names)
        return f"{self.words['teaches']}: {links}\n\n" if names else ""

    def do_next(self):
        names = [page for page, _ in self.order]
        at = names.index(self.page) if self.page in names else -1
        if at < 0:
            sys.exit(f"docs: {self.page} is not in the course")
        before = f"← \\ref {names[at - 1]}" if at > 0 else "← \\ref course"
        after = f"\\ref {names[at + 1]} →" if at + 1 < len(names) else ""
        words = self.words
        return (self.teaches() + "\\htmlonly\n<div class=\"previous-next\">\n\\endhtmlonly\n"
                f"{words['previous']}: {before}"
                + (f" &emsp; {words['next']}: {after}" if after else "")
                + "\n\\htmlonly\n</div>\n\\endhtmlonly")

    # ---- directives: what the library says of itself --------------------------------------------

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
        return (f"### {words['task'].format(folder.name)}: {title.lstrip('# ')}\n{body}\n"
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

    def do_anchors(self):
        """What others' kernels take at the seed's shapes, from the record that holds them."""
        return tables.anchors(self.words, self.root / "docs/measured")

    def do_int8_accuracy(self, name):
        return int8.accuracy(self.words, self.root / "docs/measured", name)

    def do_int8_speed(self, name):
        return int8.speed(self.words, self.root / "docs/measured", name)

    def do_int8_state(self):
        names = [t["name"] for t in self.facts["tiers"] if t["quantized"] or "int8" in t["name"]]
        if not names:
            return self.words["no_int8"]
        return self.words["int8_tiers"].format(", ".join(self.link(name) for name in names))

    # ---- directives: measured -------------------------------------------------------------------

    def do_measured(self, name):
        self.tier(name)
        return tables.measured(self.words, self.measured, name, self.tier(name)["builds_on"])

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
        backends are torch_default and so on."""
        case, slow = case.replace("_", " "), slow.replace("torch_", "torch ")
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
