"""Fills the {{directives}} of the pages: docs/*.dox (English) and docs/zh/*.dox (Chinese).

A directive is {{name argument key=value}}; a method do_name is what fills it: those of the course and
the ladder here, the others in directives_library.py and directives_measured.py. Everything they write
comes from the registry (facts), the records, the exercises or the sources.
"""
import re
import sys
import xml.sax.saxutils

import excerpts
import tables
import taught
from directives_library import Library
from directives_measured import Measurements
from sources import files_of
from words import WORDS

QUESTIONS = ["why_no_transpose", "why_fused", "why_masks", "why_memory", "why_auto", "why_int8"]
DIRECTIVE = re.compile(r"\{\{(\w+)\s*([^}]*)\}\}")


class Maker(Library, Measurements):
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
        # A percent sign before one of them is an escape to Doxygen.
        text = re.sub(r"%(?=[\u3001-\u9fff\uff01-\uff5e])", r"\\%", text)
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
        return f"{self.words['teaches']} {links}\n\n" if names else ""

    def do_next(self):
        names = [page for page, _ in self.order]
        at = names.index(self.page) if self.page in names else -1
        if at < 0:
            sys.exit(f"docs: {self.page} is not in the course")
        before = f"← \\ref {names[at - 1]}" if at > 0 else "← \\ref course"
        after = f"\\ref {names[at + 1]} →" if at + 1 < len(names) else ""
        words = self.words
        return (self.teaches() + "\\htmlonly\n<div class=\"previous-next\">\n\\endhtmlonly\n"
                f"{words['previous']} {before}"
                + (f" &emsp; {words['next']} {after}" if after else "")
                + "\n\\htmlonly\n</div>\n\\endhtmlonly")
