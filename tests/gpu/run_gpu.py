#!/usr/bin/env python3
"""Everything that a machine with a GPU can say about the GPU tiers; `./run gpu` calls it.

    tests/gpu/run_gpu.py                     # all parts
    tests/gpu/run_gpu.py --build --test      # some of them

    --build     the library, the tests and the C door, with ptxas' report on each kernel
    --test      the property tests of every GPU tier, and the tests that hold device memory
    --sanitize  compute-sanitizer: memcheck, racecheck, initcheck, synccheck on thirty-six shapes
    --accuracy  cuda_int8 on every generator and on captured inputs, with an error limit and
                without; its first call (needs numpy)
    --bench     beside torch's backends, in one process (needs torch); the rates of the GPU's units
    --first     the first call of a process, beside torch's (needs torch)
    --python    the Python module with its GPU tiers: its tests on CUDA tensors, torch's backends and
                our tiers judged, a real model (needs torch; uses what is there of CuPy, JAX, ...)
    --records   writes docs/measured/gpu_{tests,bench,python,int8,rates,first_calls}_<gpu>.json and
                gpu_ptxas.json; of the Python module also
                docs/reports/{judge-*cuda*,model-minilm-cuda.json}

A record carries the machine, the date and a hash of the sources it speaks of; ctest's "gpu record"
shows it as passed only while that hash is the sources' and nothing in it failed.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from check_spills import spilling  # noqa: E402
import python_module  # noqa: E402
from source_hash import ROOT, source_hash  # noqa: E402

TIERS = ["cuda_simple", "cuda_fused", "cuda_mma", "cuda_int8"]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]


def command(arguments, log, **environment):
    with open(log, "w") as file:
        code = subprocess.run(arguments, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                              env=dict(os.environ, ATTN_REQUIRE_GPU="1", **environment)).returncode
    print(f"{'ok' if code == 0 else 'FAILED'}: {' '.join(map(str, arguments))}", flush=True)
    return code, pathlib.Path(log).read_text(errors="replace")


def build(args):
    code, text = command(
        ["cmake", "-S", ".", "-B", args.build_dir, "-DCMAKE_BUILD_TYPE=Release", "-DATTN_CLI=OFF",
         "-DATTN_BENCH=OFF", "-DATTN_PTXAS=ON", "-DATTN_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={args.architectures}"]
        + (["-G", "Ninja"] if args.ninja else []), args.out / "configure.log")
    if code:
        sys.exit(text[-3000:])
    code, text = command(
        ["cmake", "--build", args.build_dir, "--parallel", str(args.jobs), "--target",
         "attn_tests", "attn_gpu_tests", "attn_door", "attn_int8_report", "attn_tensor_rates"], args.out / "build.log")
    if code:
        sys.exit(text[-3000:])
    return ptxas_report(text)


def ptxas_report(text):
    """Registers, spills and shared memory of each kernel, from ptxas -v."""
    kernels, name, stack = [], None, {}
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            name = found.groups()
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes "
                                r"spill loads", line):
            stack = dict(zip(("stack", "spill_stores", "spill_loads"), map(int, found.groups())))
        elif (found := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append(dict(kernel=demangled(name[0]), target=name[1],
                                registers=int(found[1]), static_shared=int(shared[1]) if shared else 0,
                                **stack))
            name = None
    return kernels


def demangled(name):
    try:
        return subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip() or name
    except OSError:
        return name


def doctest_summary(text):
    found = re.search(r"test cases: +(\d+) \| +(\d+) passed \| +(\d+) failed", text)
    checks = re.search(r"assertions: +(\d+)", text)
    return dict(zip(("cases", "passed", "failed"), map(int, found.groups()))) | dict(
        assertions=int(checks[1])) if found else dict(cases=0, passed=0, failed=1, assertions=0)


def test(args):
    tests = args.build_dir / "tests"
    runs = {tier: [tests / "attn_tests", f"--tier={tier}", "-tc=every tier*"] for tier in TIERS}
    runs["device memory"] = [tests / "attn_gpu_tests", "-tce=sanitizer*"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.map(lambda item: (item[0], *command(
            item[1], args.out / f"test_{item[0].replace(' ', '_')}.log")), runs.items())
    return {name: dict(doctest_summary(text), exit=code) for name, code, text in done}


def sanitize(args):
    program = args.build_dir / "tests" / "attn_gpu_tests"

    def one(tool):
        code, text = command(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", program,
                              "-tc=sanitizer*"], args.out / f"{tool}.log")
        errors = re.search(r"ERROR SUMMARY: (\d+)|RACECHECK SUMMARY: (\d+)", text)
        count = int(next(g for g in errors.groups() if g is not None)) if errors else None
        return tool, dict(doctest_summary(text), exit=code, errors=count)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(pool.map(one, TOOLS))


def captured(folder):
    """The inputs captured from a real model as bare numbers, for a program that is built without
    the reader of their format: [query, key, value, B, H, L, E]."""
    import numpy

    arrays = {name: numpy.load(ROOT / "tests" / "data" / f"{name}.npy").astype("<f2")
              for name in ("query", "key", "value")}
    for name, array in arrays.items():
        array.tofile(folder / f"{name}.f16")
    return [folder / f"{name}.f16" for name in arrays] + list(map(str, arrays["query"].shape))


def machine():
    def ask(what):
        return subprocess.run(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"],
                              capture_output=True, text=True).stdout.splitlines()[0].strip()
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    return dict(gpu=ask("name"), driver=ask("driver_version"), memory=ask("memory.total"),
                nvcc=re.search(r"V([\d.]+)", nvcc)[1] if "V" in nvcc else "",
                python=platform.python_version())


def write(path, what, content):
    record = dict(what=what, made_by="./run gpu", machine=machine(),
                  date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                  source_hash=source_hash(), **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print("wrote", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("build", "test", "sanitize", "accuracy", "bench", "first", "python", "records"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--build-dir", type=pathlib.Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "gpu-logs",
                        help="logs")
    parser.add_argument("--to", type=pathlib.Path, default=ROOT / "docs" / "measured",
                        help="records")
    parser.add_argument("--architectures", default="90a-real")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--ninja", action="store_true")
    parser.add_argument("--wheel", type=pathlib.Path, help="of the Python module: instead of a build")
    parser.add_argument("--quick", action="store_true", help="a shorter bench")
    parser.add_argument("--only", help="a group of the bench's cases")
    args = parser.parse_args()
    everything = not any((args.build, args.test, args.sanitize, args.accuracy, args.bench,
                          args.first, args.python, args.records))
    args.build_dir, args.out = args.build_dir.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    gpu = re.sub(r"[^a-z0-9]+", "_", machine()["gpu"].lower()).strip("_")
    save = everything or args.records
    ok = True

    if everything or args.build:
        kernels = build(args)
        for kernel in spilling(kernels):
            print("SPILLS:", kernel)
            ok = False
        if save and kernels:
            write(args.to / "gpu_ptxas.json", "registers, spills and shared memory of each kernel",
                  dict(kernels=kernels))
    # Neither is timed: side by side.
    parts = {"tests": (test, everything or args.test),
             "sanitizers": (sanitize, everything or args.sanitize)}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = {name: pool.submit(part, args) for name, (part, wanted) in parts.items() if wanted}
        results = {name: part.result() for name, part in running.items()}
    if results:
        runs = [r for part in results.values() for r in part.values()]
        green = all(r["exit"] == 0 and r["failed"] == 0 and r["cases"] > 0 for r in runs)
        ok = ok and green
        if save:
            write(args.to / f"gpu_tests_{gpu}.json", "the GPU tiers' tests on a GPU",
                  dict(green=green, **results))
    if everything or args.accuracy:
        code, text = command([args.build_dir / "tests" / "attn_int8_report", *captured(args.out)],
                             args.out / "int8.json")
        ok = ok and code == 0
        if text.rstrip().endswith("]}"):
            report = json.loads(text)
            for row in report["rows"]:
                if not row["kept"]:
                    print("NOT KEPT:", row)
            if save:
                write(args.to / f"gpu_int8_{gpu}.json", "the accuracy of cuda_int8", report)
    if everything or args.bench:
        door = next(args.build_dir.rglob("libattn_door.so"))
        out = args.out / "bench.json"
        code, text = command([sys.executable, "tests/gpu/bench_torch.py", "--door", door, "--out",
                              out] + (["--quick"] if args.quick else [])
                             + (["--only", args.only] if args.only else []), args.out / "bench.log")
        print(text[-9000:])
        ok = ok and code == 0
        if save and code == 0:
            write(args.to / f"gpu_bench_{gpu}.json", "the GPU tiers beside torch's backends",
                  json.loads(out.read_text()))
        code, text = command([args.build_dir / "tests" / "attn_tensor_rates"],
                             args.out / "rates.json")
        print(text)
        ok = ok and code == 0
        if save and code == 0:
            write(args.to / f"gpu_rates_{gpu}.json", "the rates of the GPU's units",
                  json.loads(text))
    if everything or args.first:
        door = next(args.build_dir.rglob("libattn_door.so"))
        out = args.out / "first_calls.json"
        out.unlink(missing_ok=True)
        code, text = command([sys.executable, "tests/gpu/first_call.py", "--door", door, "--out", out],
                             args.out / "first_calls.log")
        print(text)
        ok = ok and code == 0
        if save and out.exists():
            write(args.to / f"gpu_first_calls_{gpu}.json", "first calls, each in its own process",
                  json.loads(out.read_text()))
    if everything or args.python:
        reports = args.to.parent / "reports" if save else args.out / "reports"
        results = python_module.run(args, command, reports)
        ok = ok and results["green"]
        if save:
            write(args.to / f"gpu_python_{gpu}.json", "the Python module on a GPU", results)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
