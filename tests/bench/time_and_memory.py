#!/usr/bin/env python3
"""Time and peak memory against the length, for every CPU tier: the picture of why the ladder exists.

    cmake --build build --target attn_cpu_door
    python3 tests/bench/time_and_memory.py measure docs/measured/length_NAME.json

The course site draws it (docs/tools/plots.py).

One head, L = S from 256 to 16384, E = 64, float32, no mask. A CPU tier's memory is its scratch, which it
reports and which the tests hold it to. Times are the best of some calls, one where a call takes seconds. A tier is left
out, and the record says so, from the length on at which a call would take longer than --longest: four
times its call of the length before.
"""
import argparse
import ctypes
import datetime
import json
import os
import pathlib
import platform
import re
import sys
import time

TIERS = ("literal", "eigen", "online", "openmp", "simd")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
E = 64


class Call(ctypes.Structure):
    _fields_ = ([("tier", ctypes.c_char_p)] + [(n, ctypes.c_int64) for n in "B Hq H L S E Ev".split()] +
                [(n, ctypes.c_int32) for n in "dtype mask_dtype causal threads".split()] +
                [(n, ctypes.c_void_p) for n in "query key value mask".split()] +
                [("mask_stride", ctypes.c_int64 * 4), ("out", ctypes.c_void_p),
                 ("scratch", ctypes.c_void_p), ("scratch_bytes", ctypes.c_int64)])


def save(args, door, rows, left_out):
    source = args.source_hash
    if not source:
        from source_hash import source_hash
        source = source_hash()
    found = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    path = pathlib.Path(args.record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(
        command=f"python3 tests/bench/time_and_memory.py measure --longest {args.longest:g}", machine=path.stem.replace("length_", ""),
        cpu=" ".join(found[1].split()) if found else platform.machine(), cores=len(os.sched_getaffinity(0)),
        isa=door.attn_door_isa().decode(), date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        source_hash=source, longest_call=args.longest, left_out=left_out, rows=rows), indent=1) + "\n")


def measure(args):
    import numpy as np
    root = pathlib.Path(__file__).resolve().parents[2]
    names = [args.library] if args.library else sorted(map(str, root.glob("build*/**/libattn_cpu_door.so")))
    if not names:
        sys.exit("libattn_cpu_door.so not found: build the target attn_cpu_door or pass --library")
    door = ctypes.CDLL(names[-1])
    door.attn_door_isa.restype = ctypes.c_char_p
    message = ctypes.create_string_buffer(300)
    random = np.random.default_rng(1)
    rows, left_out, last = [], [], {}
    for L in LENGTHS:
        q, k, v = (random.standard_normal((1, 1, L, E), np.float32) for _ in range(3))
        want = None
        for tier in TIERS:
            if 4 * last.get(tier, 0) > args.longest:
                left_out.append(dict(tier=tier, L=L, seconds_expected=4 * last[tier]))
                last[tier] *= 4
                continue
            out = np.empty_like(q)
            call = Call(tier=tier.encode(), B=1, Hq=1, H=1, L=L, S=L, E=E, Ev=E, dtype=1, threads=args.threads,
                        query=q.ctypes.data, key=k.ctypes.data, value=v.ctypes.data, out=out.ctypes.data)
            scratch = ctypes.c_int64()
            best, spent, calls = None, 0.0, 0
            door.attn_door_run(ctypes.byref(call), message, 300, ctypes.byref(scratch))
            while calls < 2 or (spent < 1.0 and calls < 20):
                start = time.perf_counter()
                if door.attn_door_run(ctypes.byref(call), message, 300, None):
                    sys.exit(message.value.decode())
                seconds = time.perf_counter() - start
                best = seconds if best is None else min(best, seconds)
                spent, calls = spent + seconds, calls + 1
                if spent > 4:
                    break
            last[tier] = best
            if want is None:
                want, first = out, tier
            error = float(np.abs(out - want).max())
            if not error <= 1e-5:
                sys.exit(f"{tier} at L={L} differs from {first} by {error}")
            rows.append(dict(tier=tier, L=L, S=L, E=E, threads=args.threads, seconds_best=best, calls=calls,
                             scratch_bytes=scratch.value, gflops=4.0 * L * L * E / best * 1e-9, difference_to_literal=error))
            print(f"{tier:<8} L={L:<6} {best * 1e3:>10.2f} ms {scratch.value:>12} bytes", flush=True)
        save(args, door, rows, left_out)  # each length, so that a run cut short is not lost


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
one = commands.add_parser("measure")
one.add_argument("record")
one.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
one.add_argument("--longest", type=float, default=120.0, help="seconds of the longest call")
one.add_argument("--library", default="")
one.add_argument("--source-hash", default="", help="of the sources the library was made from, where they are not beside this script")
one.set_defaults(run=measure)
arguments = parser.parse_args()
arguments.run(arguments)
