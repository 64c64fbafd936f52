#!/usr/bin/env python3
"""Builds wrong programs and expects the tests to notice each: the tests of the tests.

    tests/mutants/run_mutants.py                  # all, in build/mutants
    tests/mutants/run_mutants.py "no rescale"     # those whose name or file contains the words
    tests/mutants/run_mutants.py --list

The tracked files are copied to a folder of their own and built there; then each mutant of
mutants.toml is applied alone, built incrementally, tested in small scale on the tier it belongs to,
and undone. Of a file that is compiled for several instruction sets, only the copy that this processor
runs is made wrong at first; a mutant that survives so is built and tested again with all copies.
Fails if the tests fail without a mutant, if a mutant survives, or if a text to be replaced does not
stand in its file exactly once. Needs Python 3.11, cmake and ninja.
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
sys.path.insert(0, str(ROOT / "tests"))
import isas

PROGRAM = "tests/attn_tests"
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
    """Links anew whatever ninja thinks of the times: objects come and go below."""
    for linked in [folder / PROGRAM, *folder.rglob("*.a")]:
        linked.unlink(missing_ok=True)
    return run(["ninja", "-C", str(folder), f"-j{jobs}", PROGRAM])


def objects_of(folder):
    """For each file of the tree, the objects that are compiled from it or include it."""
    objects, name = {}, None
    for line in run(["ninja", "-C", str(folder), "-t", "deps"]).stdout.splitlines():
        if line.startswith("    ") and name.exists():  # ninja remembers those of an earlier tree, too
            file = pathlib.Path(os.path.normpath(folder / line.strip()))
            objects.setdefault(file, set()).add(name)
        elif ": #deps" in line:
            name = folder / line.split(":")[0]
    return objects


def copies_not_run(objects, flags):
    """The objects for instruction sets that this processor lacks, or has a better copy for."""
    run_here, rest = set(), set()
    for isa, flag in isas.COPIES.items():
        for path in objects:
            file = str(path).replace(f"_{isa}.dir/", "/")
            if file == str(path):
                continue
            if flag in flags and file not in run_here:
                run_here.add(file)
            else:
                rest.add(path)
    return rest


def build_mutant(mutant, path, objects, folder, jobs):
    """Builds with these objects made from the wrong file, and puts all back.

    The file keeps its time and the objects are moved away, so that ninja makes these and no others.
    """
    original, times = path.read_text(), path.stat()
    aside = {made: made.with_name(made.name + ".original") for made in objects}
    for made, kept in aside.items():
        made.rename(kept)
    path.write_text(original.replace(mutant["find"], mutant["replace"]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    built = build(folder, jobs)
    for made, kept in aside.items():
        kept.replace(made)
    path.write_text(original)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return built


def test(program, tier, kinds):
    """Returns the first test case that fails, or None."""
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
    flags = isas.flags()
    for m in [m for m in mutants if m.get("needs", "") not in flags]:
        print(f'left out: {m["name"]}: this machine has no {m["needs"]}')
        mutants.remove(m)
    if not mutants:
        sys.exit(f"no mutant has '{arguments.words}' in its name or file")
    misplaced = [m for m in mutants if (ROOT / m["file"]).read_text().count(m["find"]) != 1]
    for m in misplaced:
        print(f'MISPLACED  {m["name"]}: its text does not stand in {m["file"]} exactly once')

    began = time.monotonic()
    tree, folder = arguments.folder.resolve() / "tree", arguments.folder.resolve() / "build"
    tree.mkdir(parents=True, exist_ok=True)
    copy_tree(tree)
    configured = run(["cmake", "-S", str(tree), "-B", str(folder), "-G", "Ninja",
                      "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
                      "-DATTN_CUDA=OFF", "-DATTN_BENCH=OFF", "-DATTN_DISCOVER=OFF"])
    built = build(folder, arguments.jobs) if configured.returncode == 0 else configured
    if built.returncode != 0:
        sys.exit(built.stdout[-3000:] + "\nthe program does not build without a mutant")
    print(f"built without a mutant ({time.monotonic() - began:.0f} s)", flush=True)
    objects = objects_of(folder)
    unmutated = shutil.copy(folder / PROGRAM, folder / "no_mutant")
    tiers = sorted({m["tier"] for m in mutants})
    broken = set()  # tiers whose tests fail without a mutant

    def test_without():
        for tier, kind in [("literal", "the *"), *((tier, "every tier*") for tier in tiers)]:
            if failed := test(unmutated, tier, [kind]):
                print(f"FAILS without a mutant: tier {tier}: {failed}", flush=True)
                broken.update(tiers if kind == "the *" else [tier])
        print(f"tested without a mutant ({time.monotonic() - began:.0f} s)", flush=True)

    def judge(mutant, mutated, built_in, everything):
        begin = time.monotonic()
        # The tier's own tests stand before the others: they are quicker.
        first = [mutant["first"]] if "first" in mutant else []
        kinds = [*first, "every tier*", "the *"]
        killer = None if mutant["tier"] in broken else test(mutated, mutant["tier"], kinds)
        pathlib.Path(mutated).unlink()
        if killer or everything:
            print(("killed by  " if killer else "SURVIVED   ") + (killer or mutant["models"])
                  + f': {mutant["name"]} ({mutant["file"]}; build {built_in:.0f} s, '
                  f'tests {time.monotonic() - begin:.0f} s)', flush=True)
        return killer

    def survivors_of(tried, everything):
        """The tests of one mutant run beside the build of the next."""
        killers = []
        for number, mutant in enumerate(tried):
            begin = time.monotonic()
            path = tree / mutant["file"]
            made = objects.get(path, set())
            if not everything and mutant.get("copies") != "all":
                made = made - copies_not_run(made, flags)
            built = build_mutant(mutant, path, made, folder, arguments.jobs)
            if not made or built.returncode != 0:
                print(built.stdout[-2000:])
                print(f'NOT BUILT {mutant["name"]}: a mutant must compile', flush=True)
                killers.append(None)
                continue
            mutated = shutil.copy(folder / PROGRAM, folder / f"mutant_{number}")
            killers.append(tester.submit(judge, mutant, mutated, time.monotonic() - begin,
                                         everything))
        return [m for m, killer in zip(tried, killers) if not (killer and killer.result())]

    with ThreadPoolExecutor(1) as tester:
        tester.submit(test_without)
        survivors = [m for m in mutants if m not in misplaced]
        for everything in False, True:
            survivors = survivors_of([m for m in survivors if m["tier"] not in broken], everything)
    not_run = len([m for m in mutants if m in misplaced or m["tier"] in broken])
    killed = len(mutants) - not_run - len(survivors)
    print(f"{killed} of {len(mutants)} mutants killed, {len(survivors)} survived, {not_run} not run "
          f"({time.monotonic() - began:.0f} s)")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
