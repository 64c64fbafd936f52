#!/usr/bin/env python3
"""Builds wrong programs and expects the tests to notice each: the tests of the tests.

    tests/mutants/run_mutants.py                  # all, in build/mutants
    tests/mutants/run_mutants.py "no rescale"     # those whose name or file contains the words
    tests/mutants/run_mutants.py --list

The tracked files are copied to a folder of their own and built there; then each mutant of
mutants.toml is applied alone, built incrementally, tested in small scale on the tier it belongs to,
and undone. Fails if the tests fail without a mutant, if a mutant survives, or if a text to be
replaced does not stand in its file exactly once. Needs Python 3.11, cmake and ninja.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 300  # a mutant that hangs is noticed as well


def copy_tree(to):
    """Copies tracked and new files, leaving alone those that have not changed: ninja looks at times."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.splitlines()
    wanted = {name for name in listed if (ROOT / name).is_file()}
    for name in wanted:
        source, target = ROOT / name, to / name
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for target in [path for path in to.rglob("*") if path.is_file()]:
        if str(target.relative_to(to)) not in wanted:
            target.unlink()


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", **options)


def build(folder, jobs):
    return run(["ninja", "-C", str(folder), f"-j{jobs}", "attn_tests"])


def test(program, tier, kinds=("every tier*", "the *")):
    """Returns the first test case that fails, or None. The tier's own tests begin: they are quick."""
    environment = dict(os.environ, ATTN_TEST_SCALE="small", OMP_NUM_THREADS="2")
    for kind in kinds:
        try:
            done = run([program, f"--tier={tier}", f"--test-case={kind}", "--no-colors=true",
                        "--abort-after=1"], env=environment, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return "(did not end)"
        if done.returncode != 0:
            names = re.findall(r"^TEST CASE:  (.*)$", done.stdout, re.M)
            return names[-1] if names else "(the program ended abnormally)"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="?", default="", help="only mutants with this in name or file")
    parser.add_argument("--list", action="store_true", help="show the mutants and stop")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "mutants")
    parser.add_argument("-j", dest="jobs", type=int, default=2, help="compilations at once")
    arguments = parser.parse_args()

    mutants = tomllib.loads((ROOT / "tests/mutants/mutants.toml").read_text())["mutant"]
    mutants = [m for m in mutants if arguments.words in m["name"] or arguments.words in m["file"]]
    if arguments.list:
        for m in mutants:
            print(f'{m["name"]:32} {m["file"]:34} {m["models"]}')
        return 0
    flags = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    for m in [m for m in mutants if m.get("needs", "") not in flags | {""}]:
        print(f'left out: {m["name"]}: this machine has no {m["needs"]}')
        mutants.remove(m)
    if not mutants:
        sys.exit(f"no mutant has '{arguments.words}' in its name or file")
    misplaced = [m for m in mutants if (ROOT / m["file"]).read_text().count(m["find"]) != 1]
    for m in misplaced:
        print(f'MISPLACED  {m["name"]}: its text does not stand in {m["file"]} exactly once')

    began = time.monotonic()
    tree, folder = arguments.folder / "tree", arguments.folder / "build"
    tree.mkdir(parents=True, exist_ok=True)
    copy_tree(tree)
    configured = run(["cmake", "-S", str(tree), "-B", str(folder), "-G", "Ninja",
                      "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
                      "-DATTN_CUDA=OFF", "-DATTN_BENCH=OFF"])
    built = build(folder, arguments.jobs) if configured.returncode == 0 else configured
    if built.returncode != 0:
        sys.exit(built.stdout[-3000:] + "\nthe program does not build without a mutant")
    program = folder / "tests" / "attn_tests"
    unusable = []
    if failed := test(program, "literal", ["the *"]):
        sys.exit(f"FAILS without a mutant: {failed}")
    for tier in sorted({m["tier"] for m in mutants}):
        failed = test(program, tier, ["every tier*"])
        if failed:
            print(f"FAILS without a mutant: tier {tier}: {failed}", flush=True)
            unusable += [m for m in mutants if m["tier"] == tier]
    print(f"built and tested without a mutant ({time.monotonic() - began:.0f} s)", flush=True)

    survivors = []

    def judge(mutant, mutated):
        killer = test(mutated, mutant["tier"])
        mutated.unlink()
        if not killer:
            survivors.append(mutant["name"])
        print(("killed by  " if killer else "SURVIVED   ") + (killer or mutant["models"])
              + f': {mutant["name"]} ({mutant["file"]})', flush=True)

    with ThreadPoolExecutor(1) as tester:  # tests of one mutant beside the build of the next
        for number, mutant in enumerate(mutants):
            if mutant in misplaced or mutant in unusable:
                continue
            path = tree / mutant["file"]
            original = path.read_text()
            path.write_text(original.replace(mutant["find"], mutant["replace"]))
            built = build(folder, arguments.jobs)
            path.write_text(original)
            if built.returncode != 0:
                print(built.stdout[-2000:])
                survivors.append(mutant["name"])
                print(f'NOT BUILT {mutant["name"]}: a mutant must compile', flush=True)
                continue
            mutated = folder / f"mutant_{number}"
            shutil.copy(program, mutated)
            tester.submit(judge, mutant, mutated)
    not_run = len([m for m in mutants if m in misplaced or m in unusable])
    killed = len(mutants) - not_run - len(survivors)
    print(f"{killed} of {len(mutants)} mutants killed, {len(survivors)} survived, {not_run} not run "
          f"({time.monotonic() - began:.0f} s)")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
