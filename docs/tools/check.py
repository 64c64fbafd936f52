"""Checks what Doxygen cannot: typed-in measurements, missing translations, files, links."""
import argparse
import html.parser
import pathlib
import re
import sys
import urllib.parse

import ladder_zh
import readme
import sources

DOCS = pathlib.Path(__file__).resolve().parents[1]
# A time, a rate, or "so many times faster": only records may say these.
MEASURED = [r"\d\s*(?:ms|us|µs|μs|ns|seconds?|minutes?|秒|毫秒|微秒|分钟)\b(?!\s*device)",
            r"\d\s*[KMGTP]?(?:FLOP|B|iB|OP)s?/s", r"\d\s*(?:x|times|倍)\s*(?:faster|slower|as fast|快|慢)",
            r"快\s*\d|慢\s*\d", r"(?:\d|several|some|few)\s*(?:%|％|per cent)"]
TRANSLATED = ("start", "course", "notebooks", "measured", "tier_", "why_")  # pages that must exist in both languages


def typed_numbers():
    bad = []
    files = [*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox"), DOCS / "steps_cuda.md",
             *DOCS.glob("exercises/*/task*.md")]
    for path in sorted(files):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            line = re.sub(r"\{\{[^}]*\}\}|width=100%|minutes=", "", line)
            for pattern in MEASURED:
                match = re.search(pattern, line)
                if match:
                    bad.append(f"{path.relative_to(DOCS.parent)}:{number}: '{match.group(0)}' looks "
                               "measured; take it from a record ({{ratio}}, {{measured}})")
    return bad


def one_language():
    def pages(folder):
        return {p.stem for p in folder.glob("*.dox") if p.stem.startswith(TRANSLATED)}
    english, chinese = pages(DOCS), pages(DOCS / "zh")
    bad = [f"docs/zh/{name}.dox is missing" for name in sorted(english - chinese)]
    bad += [f"docs/{name}.dox is missing" for name in sorted(chinese - english)]
    root = DOCS.parent
    if (root / "README.md").exists() != (root / "README.zh-CN.md").exists():
        bad.append("README.md and README.zh-CN.md must exist together")
    elif ladder_zh.fresh(ladder_zh.README.read_text()) != ladder_zh.README.read_text():
        bad.append("README.zh-CN.md's ladder is not that of lib/tiers.def; "
                   "python3 docs/tools/ladder_zh.py rewrites it")
    for name in readme.WORDS:
        if readme.fresh(name) != (root / name).read_text():
            bad.append(f"{name}'s numbers are not those of docs/measured/; "
                       "python3 docs/tools/readme.py rewrites them")
    for task in sorted(DOCS.glob("exercises/*/task.md")):
        for name in ("task.zh.md", "start.cpp", "solution.cpp"):
            if not (task.parent / name).exists():
                bad.append(f"{task.parent.relative_to(root)}/{name} is missing")
    return bad


def tiers_without_page():
    """Every line of lib/tiers.def has a page and two exercises."""
    text = (DOCS.parent / "lib/tiers.def").read_text()
    bad = []
    for name in re.findall(r"(?m)^ATTN_[CG]PU_TIER\((\w+)", text):
        if not (DOCS / f"tier_{name}.dox").exists():
            bad.append(f"tier {name} has no docs/tier_{name}.dox")
        if len(list(DOCS.glob(f"exercises/{name}_[0-9]"))) < 2:
            bad.append(f"tier {name} has fewer than two exercises")
    return bad


def sources_that_lead_to_no_page():
    """The first comment of a tier's main file says where the tier is taught."""
    root, bad = DOCS.parent, []
    for name in sources.names(root):
        path = next(iter(sources.files_of(root, name)), None)
        said = re.match(r"(?:///.*\n)*", path.read_text())[0] if path else ""
        if f"Taught in \\ref tier_{name}." not in said:
            bad.append(f"{path.relative_to(root) if path else name}: its first comment does not say "
                       f"\"Taught in \\ref tier_{name}.\"")
    return bad


def tests_that_do_not_exist():
    """Names of tests in the pages, whose directive also stops the build of the site."""
    tests = sources.tests_of(DOCS.parent)
    return [f"{path.relative_to(DOCS.parent)}: tests/ has no test \"{' '.join(name.split())}\""
            for path in sorted([*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox")])
            for name in re.findall(r"\{\{test ([^}]*)\}\}", path.read_text())
            if " ".join(name.split()) not in tests]


# The headings of a tier's page, in this order; more may stand between the code and the measurements.
HEADINGS = {
    "": ["The idea in three sentences", "The formula", "A picture: |Pictures: ", "The code",
         "What was measured", "What if we leave it out?", "Pitfalls", "Limits", "Exercises", "Sources"],
    "zh": ["三句话说清想法", "公式", "一幅图：|图：", "代码", "实测", "去掉它会怎样？", "陷阱", "限制", "练习",
           "出处"]}


def headings_out_of_order():
    bad = []
    for language, wanted in HEADINGS.items():
        for path in sorted((DOCS / language).glob("tier_*.dox")):
            found = re.findall(r"(?m)^## (.*)$", path.read_text())
            names = [next((w for w in wanted if h == w or "|" in w and h.startswith(tuple(w.split("|")))),
                          None) for h in found]
            code, measured = wanted[3], wanted[4]
            extra = [h for n, h in enumerate(found) if names[n] is None
                     and not (code in names[:n] and measured in names[n:])]
            kept = [name for name in names if name is not None]
            if kept != wanted or extra:
                first = next((w for w, k in zip(wanted, [*kept, *[None] * len(wanted)]) if w != k),
                             (extra or kept)[-1])
                bad.append(f"{path.relative_to(DOCS.parent)}: its headings are not those of a tier's "
                           f"page, in their order: see '{first}'")
    return bad


def code_in_headings():
    """Doxygen 1.9.4 shows its tags."""
    files = [*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox"), *DOCS.glob("*.md"),
             *DOCS.glob("exercises/*/task*.md")]
    return [f"{path.relative_to(DOCS.parent)}: a heading cannot hold code: {heading}"
            for path in sorted(files)
            for heading in re.findall(r"(?m)^(?:#+|\\page) .*`.*$", path.read_text())]


def broken_tables():
    """A row with more or fewer cells than its table's head ends the table for Doxygen."""
    bad = []
    for path in sorted([*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox"), *DOCS.glob("*.md")]):
        cells = None  # of the table's head
        for number, line in enumerate(path.read_text().split("\n"), 1):
            found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
            if found and cells and found != cells:
                bad.append(f"{path.relative_to(DOCS.parent)}:{number}: {found - 1} cells in a table "
                           f"of {cells - 1}")
            cells = found and (cells or found)
    return bad


def pitfalls_without_test():
    """Each pitfall names the test or exercise that guards it, or says that only a clock sees it."""
    bad = []
    for language, wanted in HEADINGS.items():
        for path in sorted((DOCS / language).glob("tier_*.dox")):
            part = path.read_text().partition(f"## {wanted[6]}\n")[2].partition("\n## ")[0]
            for item in re.split(r"(?m)^- ", part)[1:]:
                if not re.search(r"\{\{test |[Ee]xercise|clock|练习|时钟", item):
                    bad.append(f"{path.relative_to(DOCS.parent)}: a pitfall without a test: "
                               f"{item.split(chr(10))[0][:60]}")
    return bad


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.anchors, self.loaded = [], set(), []

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("id", "name") and value:
                self.anchors.add(value)
            if value and ((tag, key) in (("a", "href"), ("img", "src"), ("script", "src"),
                                         ("link", "href"), ("object", "data"), ("iframe", "src"))):
                self.found.append(value)
                if tag != "a" and value.startswith(("http:", "https:", "//")):
                    self.loaded.append(value)


def broken_links(site):
    """Every local link leads to a file, and to a place in it; nothing but the text's own links leads
    outside."""
    bad, pages = [], {}
    for path in sorted(site.rglob("*.html")):
        if "mathjax" not in path.parts:
            pages[path.resolve()] = links = Links()
            links.feed(path.read_text())
    for path, links in pages.items():
        bad += [f"{path.relative_to(site)} loads {link} from the network" for link in links.loaded]
        for link in links.found:
            target = urllib.parse.urlsplit(link)
            if target.scheme or link == "#":
                continue
            to = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path
            if not to.exists() or (target.fragment and to in pages
                                   and target.fragment not in pages[to].anchors):
                bad.append(f"{path.relative_to(site)} links to {link}, which is not there")
    for path in sorted(site.rglob("navtreedata.js")):  # the tree at the left
        for page in re.findall(r'"(\w+\.html)', path.read_text()):
            if not (path.parent / page).exists():
                bad.append(f"{path.relative_to(site)} links to {page}, which is not there")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=pathlib.Path, help="check the links of a built site instead")
    arguments = parser.parse_args()
    if arguments.site:
        bad = broken_links(arguments.site.resolve())
    else:
        bad = (typed_numbers() + one_language() + tiers_without_page()
               + sources_that_lead_to_no_page() + tests_that_do_not_exist() + headings_out_of_order()
               + code_in_headings() + broken_tables() + pitfalls_without_test())
    for line in bad:
        print(f"docs: {line}", file=sys.stderr)
    sys.exit(1 if bad else 0)


main()
