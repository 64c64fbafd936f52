"""Makes the course site: fills the pages' {{directives}}, draws the figures, runs Doxygen twice.

Called by docs/build.sh. Everything in a page that could go stale comes from the code, from the
output of docs_facts or from the records in docs/measured/; what is missing stops the build.
"""
import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys

import crossover
import excerpts
import figures
import pages
import plots
import records
from sources import limits_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
AWESOME = pathlib.Path("/usr/share/doxygen-awesome-css")
MATHJAX = pathlib.Path("/usr/share/javascript/mathjax")
LANGUAGES = {"en": ("English", "from the formula to the tensor cores"),
             "zh": ("Chinese", "从公式到张量核心")}
# What MathJax 2 needs for TeX input and HTML-CSS output; the whole package is thirty times this.
MATHJAX_PARTS = ["MathJax.js", "extensions/tex2jax.js", "extensions/MathEvents.js",
                 "extensions/MathMenu.js", "extensions/MathZoom.js", "extensions/TeX",
                 "jax/element", "jax/input/TeX", "jax/output/HTML-CSS/config.js",
                 "jax/output/HTML-CSS/jax.js", "jax/output/HTML-CSS/imageFonts.js",
                 "jax/output/HTML-CSS/autoload", "jax/output/HTML-CSS/fonts/TeX",
                 "fonts/HTML-CSS/TeX/woff"]


def limits_without_compiler(facts):
    """Tiers that this build has no compiler for get their limits from their source. Where the
    library knows better, the source must have been read aright."""
    for tier in facts["tiers"]:
        stated = limits_of(ROOT, tier["name"]) if tier["device"] == "gpu" else None
        if not tier["built"] and stated:
            tier["limits"] = stated
        elif tier["built"] and stated and stated != tier["limits"]:
            sys.exit(f"docs: the source of {tier['name']} was read as {stated}, "
                     f"the library says {tier['limits']}")


def copy_mathjax(site):
    target = site / "mathjax"
    for part in MATHJAX_PARTS:
        source = MATHJAX / part
        if not source.exists():
            sys.exit(f"docs: {source} is missing; install libjs-mathjax")
        to = target / part
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, dirs_exist_ok=True)  # follows the fonts' links
        else:
            shutil.copy(source, to)


def write_header(work, language, version):
    """Doxygen's own header with the scripts of the theme: its text depends on Doxygen's version."""
    header = work / f"header_{language}.html"
    subprocess.run(["doxygen", "-w", "html", header, work / "footer.html", work / "style.css"],
                   check=True, stdout=subprocess.DEVNULL)
    text = header.read_text()
    scripts = "".join(
        f'<script type="text/javascript" src="$relpath^{name}.js"></script>\n'
        for name in ["doxygen-awesome-darkmode-toggle", "doxygen-awesome-fragment-copy-button",
                     "doxygen-awesome-paragraph-link", "doxygen-awesome-interactive-toc",
                     "languages"])
    start = ("<script type=\"text/javascript\">DoxygenAwesomeDarkModeToggle.init();"
             "DoxygenAwesomeFragmentCopyButton.init();DoxygenAwesomeParagraphLink.init();"
             "DoxygenAwesomeInteractiveToc.init();</script>\n")
    link = ('<a id="language" hreflang="zh" href="#">中文</a>' if language == "en"
            else '<a id="language" hreflang="en" href="#">English</a>')
    brief = '<div id="projectbrief">$projectbrief</div>'
    for mark in ["</head>", brief]:
        if mark not in text:
            sys.exit(f"docs: Doxygen {version} writes a header without {mark}")
    text = text.replace("</head>", scripts + start + "</head>")
    text = text.replace(brief, f'<div id="projectbrief">$projectbrief {link}</div>', 1)
    header.write_text(text)


def write_languages(work, ids):
    """The language link changes only the folder; a page without a translation leads to its start."""
    translated = json.dumps(sorted(ids["zh"]))
    (work / "languages.js").write_text(f"""\
// Points the link between the languages at this page's translation.
const translated = {translated};
document.addEventListener("DOMContentLoaded", () => {{
    const link = document.getElementById("language");
    const file = location.pathname.split("/").pop() || "index.html";
    const page = translated.includes(file.replace(".html", "")) ? file : "index.html";
    if (link) link.href = link.hreflang === "zh" ? "zh/" + page : "../" + page;
}});
""")


def write_layout(work, language, course):
    """The tree at the left: Start, Course with its chapters, API, Notebooks, Measured."""
    words = pages.WORDS[language]

    def tab(page, title):
        return f'<tab type="user" url="@ref {page}" title="{title}"/>'
    chapters = "\n".join(tab(page, title) for page, title in course)
    api = "" if language != "en" else f"""
    <tab type="usergroup" url="@ref attn" title="{words['api']}">
      <tab type="classlist" title="Types"/>
      <tab type="namespacemembers" title="Functions and constants"/>
      <tab type="classmembers" title="Members"/>
    </tab>"""
    default = work / "layout_default.xml"
    subprocess.run(["doxygen", "-l", default], check=True, stdout=subprocess.DEVNULL)
    navigation = f"""<navindex>
    <tab type="mainpage" title="{words['start']}"/>
    <tab type="usergroup" url="@ref course" title="{words['course']}">
{chapters}
    </tab>{api}
    {tab('notebooks', words['notebooks'])}
    {tab('measured', words['measured'])}
  </navindex>"""
    layout = re.sub(r"<navindex>.*</navindex>", lambda _: navigation, default.read_text(),
                    flags=re.S)
    (work / "layout.xml").write_text(layout)


def local_pages_only(tagfile, known):
    """The English tag file without the pages that have a translation, and without the values of
    enumerations: Doxygen would take every variable `key` for Operand::key."""
    text = re.sub(r"\s*<enumvalue .*?</enumvalue>", "", tagfile.read_text())

    def keep(match):
        name = re.search(r"<name>(\w+)</name>", match.group(0))
        return "" if name and name.group(1) in known else match.group(0)
    return re.sub(r'\s*<compound kind="page">.*?</compound>', keep, text, flags=re.S)


def draw(folder, language, facts, measured, ideas):
    """All figures of one language's pages."""
    folder.mkdir(parents=True)
    figures.speak(language, facts)
    plots.draw(folder, facts, measured)
    crossover.draw(folder, facts, measured)
    figures.draw(folder, facts, language, ideas)


def run_doxygen(work, site, language, ids):
    name, brief = LANGUAGES[language]
    out = site if language == "en" else site / language
    out.mkdir(parents=True, exist_ok=True)
    sources = [work / "pages" / language]
    tagfiles = ""
    if language == "en":
        sources.append(ROOT / "lib/include/attn")
    else:
        tags = work / "english.tag"
        tags.write_text(local_pages_only(work / "all.tag", ids[language]))
        tagfiles = f"{tags}=.."
    values = {"BRIEF": brief, "OUT": out, "LANGUAGE": name, "LANG": language, "WORK": work,
              "INPUT": " ".join(map(str, sources)), "ROOT": ROOT, "AWESOME": AWESOME,
              "MATHJAX": "./mathjax/" if language == "en" else "../mathjax/",
              "TAGFILE": work / "all.tag" if language == "en" else "", "TAGFILES": tagfiles}
    text = (ROOT / "docs/Doxyfile.in").read_text()
    text = re.sub(r"@(\w+)@", lambda match: str(values[match.group(1)]), text)
    config = work / f"Doxyfile_{language}"
    config.write_text(text)
    result = subprocess.run(["doxygen", config], capture_output=True, text=True)
    if result.returncode != 0 or result.stderr:
        sys.exit(f"docs: Doxygen is not content with the {name} pages:\n{result.stderr}")
    for page in out.glob("*.html"):
        drop_empty_summaries(page)


def drop_empty_summaries(page):
    """Doxygen 1.9.4 links a page's summary to sections that it then leaves out."""
    text = page.read_text()

    def keep(match):
        return match.group(0) if f'name="{match.group(1)}"' in text else ""

    def summary(match):
        links = re.sub(r'<a href="#([\w-]+)">[^<]*</a>(?: &#124;\n)?', keep, match.group(0))
        return re.sub(r" &#124;\n(?=\s*</div>)", "", links)
    page.write_text(re.sub(r'<div class="summary">.*?</div>', summary, text, flags=re.S))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", required=True, help="output of docs_facts")
    parser.add_argument("--verdicts", required=True, help="output of exercise.sh --verdicts")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--site", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    work, site = arguments.work.resolve(), arguments.site.resolve()
    for folder in (work, site):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    facts = json.loads(pathlib.Path(arguments.facts).read_text())
    limits_without_compiler(facts)
    verdicts = json.loads(pathlib.Path(arguments.verdicts).read_text())
    measured = records.load(ROOT / "docs/measured")
    excerpts.write(ROOT, work)
    ids = {}
    with concurrent.futures.ProcessPoolExecutor() as pool:  # the languages side by side
        drawn = []
        for language in LANGUAGES:
            maker = pages.Maker(ROOT, work, language, facts, measured, verdicts)
            drawn.append(pool.submit(draw, work / "figures" / language, language, facts, measured,
                                     {tier["name"]: maker.idea(tier) for tier in facts["tiers"]}))
            ids[language] = maker.write()
        for one in drawn:
            one.result()
    version = subprocess.run(["doxygen", "--version"], capture_output=True, text=True).stdout
    write_languages(work, ids)
    copy_mathjax(site)
    for language in LANGUAGES:
        maker = pages.Maker(ROOT, work, language, facts, measured, verdicts)
        write_header(work, language, version)
        write_layout(work, language, maker.course())
        run_doxygen(work, site, language, ids)


main()
