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
            r"快\s*\d|慢\s*\d", r"\d\s*(?:%|％|per cent)"]
TRANSLATED = ("start", "course", "notebooks", "measured", "tier_", "why_")  # pages that must exist in both languages


def typed_numbers():
    bad = []
    files = [*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox"), *DOCS.glob("exercises/*/task*.md")]
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


def tests_that_do_not_exist():
    """Names of tests in the pages, whose directive also stops the build of the site."""
    tests = sources.tests_of(DOCS.parent)
    return [f"{path.relative_to(DOCS.parent)}: tests/ has no test \"{' '.join(name.split())}\""
            for path in sorted([*DOCS.glob("*.dox"), *DOCS.glob("zh/*.dox")])
            for name in re.findall(r"\{\{test ([^}]*)\}\}", path.read_text())
            if " ".join(name.split()) not in tests]


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
    """Every local link leads to a file, and nothing but the text's own links leads outside."""
    bad = []
    for path in sorted(site.rglob("*.html")):
        if "mathjax" in path.parts:
            continue
        links = Links()
        links.feed(path.read_text())
        bad += [f"{path.relative_to(site)} loads {link} from the network" for link in links.loaded]
        for link in links.found:
            target = urllib.parse.urlsplit(link)
            if target.scheme or link.startswith(("#", "javascript:")):
                continue
            if not (path.parent / urllib.parse.unquote(target.path)).exists():
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
        bad = broken_links(arguments.site)
    else:
        bad = (typed_numbers() + one_language() + tiers_without_page()
               + tests_that_do_not_exist())
    for line in bad:
        print(f"docs: {line}", file=sys.stderr)
    sys.exit(1 if bad else 0)


main()
