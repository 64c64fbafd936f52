"""The first call of a process, beside later ones: each rival in a process of its own.

    python tests/gpu/first_call.py --door build/libattn_door.so --out first_calls.json

Before the clock starts the process has a CUDA context, its tensors, and has waited for them; so a first
call loads the rival's kernels, sets up its libraries or compiles, and nothing else. Times are of the host,
until the device has finished. One process each: a figure is no median, and repeats within some tens of
per cent.
"""
import argparse
import json
import math
import statistics
import subprocess
import sys
import time

SHAPE = (4, 8, 128, 128)  # (B, H, L, E): that of the question which this project began with
RIVALS = ("torch default", "torch flash", "cuda_mma", "cuda_int8")
DTYPES = ("float16", "float32")


def calls(door_path, rival, dtype):
    """Microseconds of the first, the second and a later call."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from door import Door
    q, k, v = (torch.randn(*SHAPE, device="cuda", dtype=getattr(torch, dtype)) for _ in range(3))
    if rival == "torch default":
        def call():
            return F.scaled_dot_product_attention(q, k, v)
    elif rival == "torch flash":
        def call():
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v)
    else:
        call = Door(door_path).prepare(rival, q, k, v, torch.full_like(q, math.nan))
    torch.cuda.synchronize()
    times = []
    for _ in range(22):
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - begin))
    return dict(first_us=round(times[0], 1), second_us=round(times[1], 1),
                later_us=round(statistics.median(times[2:]), 1), torch=torch.__version__)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--door", required=True)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, metavar=("RIVAL", "DTYPE"), help="in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(calls(args.door, *args.one)))
        return
    rows, B_H_L_E = [], dict(zip("BHLE", SHAPE))
    for dtype in DTYPES:
        for rival in RIVALS:
            if (rival, dtype) == ("torch flash", "float32"):
                continue  # it takes 16 bits only
            done = subprocess.run([sys.executable, __file__, "--door", args.door, "--one", rival, dtype],
                                  capture_output=True, text=True)
            if done.returncode:  # it is in the record
                found = dict(failed=(done.stderr.strip().splitlines() or ["?"])[-1][:300])
            else:
                found = json.loads(done.stdout.splitlines()[-1])
            rows.append(dict(rival=rival, dtype=dtype, **B_H_L_E, **found))
            print(rows[-1], flush=True)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(dict(first_calls=rows), file, indent=1)
    sys.exit(any("failed" in row for row in rows))


if __name__ == "__main__":
    main()
