"""Proves on copies of this tree that a new tier's page is one file in each language and no change
elsewhere, and that what must stop the build of the site does stop it.

    docs/tools/test_site.py    after docs/build.sh, whose facts and verdicts it takes
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build/ci/new_page"


def copy_of_tree():
    shutil.rmtree(WORK, ignore_errors=True)
    files = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (WORK / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, WORK / name)


def add_tier():
    """Tier `mine` is `online` under another name; so are its pages and exercises."""
    with (WORK / "lib/tiers.def").open("a") as ladder:
        ladder.write('ATTN_CPU_TIER(mine, online, "the idea of mine")\n')
    for source, target in (("cpu/online.cpp", "cpu/mine.cpp"),
                           ("docs/tier_online.dox", "docs/tier_mine.dox"),
                           ("docs/zh/tier_online.dox", "docs/zh/tier_mine.dox")):
        text = re.sub(r"\{\{teaches [^}]*\}\}\n", "", (WORK / source).read_text())
        (WORK / target).write_text(re.sub(r"(page tier_|page tier_\w+ |Taught in .ref tier_|\{\{\w+ )online", r"\1mine", text))
    for n in (1, 2):
        shutil.copytree(WORK / f"docs/exercises/online_{n}", WORK / f"docs/exercises/mine_{n}")
    subprocess.run([sys.executable, WORK / "docs/tools/ladder_zh.py"], check=True)


def facts_and_verdicts():
    """What docs_facts and the exercises of a build with tier `mine` would say."""
    facts = json.loads((ROOT / "build/docs/facts.json").read_text())
    base = next(tier for tier in facts["tiers"] if tier["name"] == "online")
    facts["tiers"].append({**base, "name": "mine", "builds_on": "online", "idea": "the idea of mine"})
    verdicts = json.loads((ROOT / "build/docs/verdicts.json").read_text())
    verdicts |= {f"mine_{n}": verdicts[f"online_{n}"] for n in (1, 2)}
    out = WORK / "build/docs"
    out.mkdir(parents=True)
    (out / "facts.json").write_text(json.dumps(facts))
    (out / "verdicts.json").write_text(json.dumps(verdicts))
    shutil.copy(ROOT / "build/docs/output_first.txt", out)
    return out


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def expect(what, result, fails=""):
    if (result.returncode != 0) != bool(fails) or fails not in result.stderr:
        sys.exit(f"test_site: {what}: exit status {result.returncode}\n{result.stderr}")
    print(f"ok: {what}")


def main():
    copy_of_tree()
    add_tier()
    out, check = facts_and_verdicts(), WORK / "docs/tools/check.py"
    expect("a new tier with a page and two exercises passes the checks", run(check))
    expect("and is in the site", run(WORK / "docs/tools/site.py", "--facts", out / "facts.json",
                                     "--verdicts", out / "verdicts.json", "--work", out / "work",
                                     "--site", out / "site"))
    for page in ("tier_mine.html", "zh/tier_mine.html"):
        if "mine" not in (out / "site" / page).read_text():
            sys.exit(f"test_site: {page} does not speak of the tier")
    for page in ("index.html", "course.html", "compare.html", "zh/course.html"):
        if 'href="tier_mine.html"' not in (out / "site" / page).read_text():
            sys.exit(f"test_site: {page} does not lead to the new page")
    expect("no link is broken", run(check, "--site", out / "site"))
    with (out / "site/tier_mine.html").open("a") as page:
        page.write('<a href="course.html#nowhere">nowhere</a>')
    expect("a link to a place that is not there is refused", run(check, "--site", out / "site"),
           "course.html#nowhere")

    def broken(what, name, change, message):
        path = WORK / name
        kept = path.read_text()
        path.unlink() if change is None else path.write_text(change(kept))
        expect(what, run(check), message)
        path.write_text(kept)
    broken("a page in English only is refused", "docs/zh/tier_mine.dox", None, "tier_mine.dox is missing")
    broken("a page in Chinese only is refused", "docs/tier_mine.dox", None, "tier_mine.dox is missing")
    broken("a typed-in time is refused", "docs/tier_mine.dox", lambda t: t + "It takes 3.5 ms.\n",
           "looks measured")
    broken("a source that leads to no page is refused", "cpu/mine.cpp",
           lambda t: t.replace("Taught in", "Known in"), "Taught in")
    broken("a test that does not exist is refused", "docs/tier_mine.dox",
           lambda t: t.replace("{{test every tier agrees", "{{test no tier agrees"), "no test")
    broken("a page without a heading is refused", "docs/tier_mine.dox",
           lambda t: t.replace("## Pitfalls\n", ""), "see 'Pitfalls'")
    broken("code in a heading is refused", "docs/tier_mine.dox",
           lambda t: t.replace("## Limits\n", "## Limits\n\n### Of `mine`\n"), "cannot hold code")
    broken("headings in another order are refused", "docs/zh/tier_mine.dox",
           lambda t: t.replace("## 限制\n", "## 公式\n"), "in their order")
    broken("a row of a table with a cell too few is refused", "docs/tier_mine.dox",
           lambda t: t + "| one | two |\n|---|---|\n| alone |\n", "1 cells in a table of 2")
    broken("a pitfall without a test is refused", "docs/tier_mine.dox",
           lambda t: t.replace("## Pitfalls\n", "## Pitfalls\n\n- **Careless.** No more.\n"),
           "a pitfall without a test")
    broken("an exercise without its Chinese task is refused", "docs/exercises/mine_1/task.zh.md", None,
           "task.zh.md is missing")


main()
