#!/usr/bin/env python3
"""The CPU tiers beside PyTorch's scaled_dot_product_attention and others, in one process.

    cmake --build build --target attn_cpu_door
    python3 tests/bench/compare_torch_cpu.py --threads 1 --out docs/measured/cpu_vs_torch_NAME.json
    python3 tests/bench/compare_torch_cpu.py --cases causal --rounds 30      only some, longer
    python3 tests/bench/compare_torch_cpu.py --library NEW.so --other OLD.so     what a change gains

Rivals take turns, so that a busy moment hits all alike; best and median of the rounds are kept. In the
same rounds run two rulers: multiply-adds in registers (the FMA peak) and one read of K and V (the
bandwidth). What they allow at best, the larger of the two times, is in every row as the roofline: in
float32 arithmetic, so that AMX may pass it. A ratio is PyTorch's time / ours. Beside a mask runs the
same call without it ("simd, no mask"): the row of simd says how many times as fast the mask makes it. With --other
the tier simd of a second build takes turns as well. Needs torch and numpy; onnx and onnxruntime if there.
"""
import argparse
import ctypes
import datetime
import json
import math
import os
import pathlib
import platform
import re
import statistics
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--cases", default="", help="regular expression on case names")
parser.add_argument("--rivals", default="", help="regular expression on rival names; simd and torch always run")
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--seconds", type=float, default=6.0, help="most time for one case")
parser.add_argument("--cpu", type=int, help="pin to this core, for one thread")
parser.add_argument("--library", default="", help="path of libattn_cpu_door.so")
parser.add_argument("--other", default="", help="libattn_cpu_door.so of another build")
parser.add_argument("--machine", default="", help="name of the record")
parser.add_argument("--out", default="", help="JSON file; rows of other cases and thread counts in it are kept")
parser.add_argument("--source-hash", default="", help="of the sources the library was made from, where they are not beside this script")
args = parser.parse_args()
CORES = os.cpu_count()  # of the machine, not those that this process may use
if args.cpu is not None:
    os.sched_setaffinity(0, {args.cpu})

# Before numpy: its OpenBLAS picks a slow kernel on processors it does not know.
os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
os.environ["OMP_NUM_THREADS"] = str(args.threads)
import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(args.threads)
torch.manual_seed(1)

DTYPES = {"float32": 1, "float16": 2, "bfloat16": 3, "bool": 4}


class Call(ctypes.Structure):
    _fields_ = ([("tier", ctypes.c_char_p)] + [(n, ctypes.c_int64) for n in "B Hq H L S E Ev".split()] +
                [(n, ctypes.c_int32) for n in "dtype mask_dtype causal threads".split()] +
                [(n, ctypes.c_void_p) for n in "query key value mask".split()] +
                [("mask_stride", ctypes.c_int64 * 4), ("out", ctypes.c_void_p),
                 ("scratch", ctypes.c_void_p), ("scratch_bytes", ctypes.c_int64)])


def find_door():
    here = pathlib.Path(__file__).resolve()
    names = sorted(map(str, here.parents[2].glob("build*/**/libattn_cpu_door.so")))
    if not names:
        sys.exit("libattn_cpu_door.so not found: build the target attn_cpu_door or pass --library")
    return names[-1]


def load_door(name):
    door = ctypes.CDLL(name)
    door.attn_door_fma_gflops.restype = ctypes.c_double
    door.attn_door_isa.restype = ctypes.c_char_p
    door.attn_door_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    return door


door = load_door(args.library or find_door())
other_door = load_door(args.other) if args.other else None


def case(name, B, Hq, H, L, S, E, dtype="float32", causal=False, mask=None, spread=1.0):
    return dict(name=name, B=B, Hq=Hq, H=H, L=L, S=S, E=E, dtype=dtype, causal=causal, mask=mask, spread=spread)


CASES = [
    case("L1024 E64", 1, 8, 8, 1024, 1024, 64),
    case("L1024 E128", 1, 8, 8, 1024, 1024, 128),
    case("L1024 E64 causal", 1, 8, 8, 1024, 1024, 64, causal=True),
    case("L1024 E128 causal", 1, 8, 8, 1024, 1024, 128, causal=True),
    case("L4096 E64", 1, 8, 8, 4096, 4096, 64),
    case("L1000 E64", 1, 8, 8, 1000, 1000, 64),
    case("L1000 E80", 1, 8, 8, 1000, 1000, 80),
    case("L1000 E96", 1, 8, 8, 1000, 1000, 96),
    case("L1000 E100", 1, 8, 8, 1000, 1000, 100),
    case("L1000 E256", 1, 8, 8, 1000, 1000, 256),
    case("seed (4,8,64,64)", 4, 8, 8, 64, 64, 64),
    case("seed (4,8,128,128)", 4, 8, 8, 128, 128, 128),
    case("decode 32 heads S4096", 1, 32, 32, 1, 4096, 128),
    case("decode 32/8 heads S8192", 1, 32, 8, 1, 8192, 128),
    case("mask 30% random E64", 1, 8, 8, 1024, 1024, 64, mask="random"),
    case("mask 30% random E128", 1, 8, 8, 1024, 1024, 128, mask="random"),
    case("mask half the tiles E64", 1, 8, 8, 1024, 1024, 64, mask="blocks"),
    case("L1024 E128 float16", 1, 8, 8, 1024, 1024, 128, dtype="float16"),
    case("L1024 E128 bfloat16", 1, 8, 8, 1024, 1024, 128, dtype="bfloat16"),
    case("decode 32/8 S8192 bfloat16", 1, 32, 8, 1, 8192, 128, dtype="bfloat16"),
    case("denormal weights E64", 1, 8, 8, 1024, 1024, 64, spread=40.0),
]


NO_MASK = "simd, no mask"
OTHER = "simd, other build"


def make_inputs(c):
    dtype = getattr(torch, c["dtype"])
    q = (torch.randn(c["B"], c["Hq"], c["L"], c["E"]) * c["spread"]).to(dtype)
    k = torch.randn(c["B"], c["H"], c["S"], c["E"]).to(dtype)
    v = torch.randn(c["B"], c["H"], c["S"], c["E"]).to(dtype)
    mask = None
    if c["mask"] == "random":  # 30 % masked
        mask = torch.rand(c["L"], c["S"]) >= 0.3
    elif c["mask"] == "blocks":  # a chessboard of 64 x 64 tiles
        i, j = torch.arange(c["L"]) // 64, torch.arange(c["S"]) // 64
        mask = (i[:, None] + j[None, :]) % 2 == 0
    return q, k, v, mask


def our_tier(tier, c, q, k, v, mask, door=door):
    out = torch.empty(c["B"], c["Hq"], c["L"], c["E"], dtype=q.dtype)
    call = Call(tier=tier.encode(), B=c["B"], Hq=c["Hq"], H=c["H"], L=c["L"], S=c["S"], E=c["E"], Ev=c["E"],
                dtype=DTYPES[c["dtype"]], mask_dtype=DTYPES["bool"], causal=int(c["causal"]), threads=args.threads,
                query=q.data_ptr(), key=k.data_ptr(), value=v.data_ptr(), out=out.data_ptr())
    if mask is not None:
        call.mask = mask.data_ptr()
        call.mask_stride[:] = [0, 0, c["S"], 1]
    message = ctypes.create_string_buffer(300)
    needed = ctypes.c_int64()

    def run():
        if door.attn_door_run(ctypes.byref(call), message, 300, None):
            raise RuntimeError(message.value.decode())
        return out
    if door.attn_door_run(ctypes.byref(call), message, 300, ctypes.byref(needed)):
        return None
    run.scratch_bytes = needed.value
    return run


def torch_sdpa(c, q, k, v, mask):
    group = c["Hq"] != c["H"]
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=c["causal"], enable_gqa=group)


def openblas_unfused(c, q, k, v, mask):
    """The L x S matrix, two OpenBLAS products a head; softmax with numpy's vector exp."""
    if c["dtype"] != "float32":
        return None
    Q, K, V = q.numpy(), k.numpy(), v.numpy()
    group, scale = c["Hq"] // c["H"], np.float32(1 / math.sqrt(c["E"]))
    out = np.empty(Q.shape, np.float32)
    hidden = None
    if mask is not None:
        hidden = ~mask.numpy()
    elif c["causal"]:
        hidden = np.triu(np.ones((c["L"], c["S"]), bool), 1)
    score = np.empty((c["L"], c["S"]), np.float32)

    def run():
        for b in range(c["B"]):
            for h in range(c["Hq"]):
                np.matmul(Q[b, h] * scale, K[b, h // group].T, out=score)
                if hidden is not None:
                    score[hidden] = -np.inf
                score.__isub__(score.max(axis=1, keepdims=True))
                np.exp(score, out=score)
                score.__itruediv__(score.sum(axis=1, keepdims=True))
                np.matmul(score, V[b, h // group], out=out[b, h])
        return torch.from_numpy(out)
    return run


def onnxruntime_mha(c, q, k, v, mask):
    """onnxruntime's fused MultiHeadAttention operator: (B, L, H * E) inputs, float32, no mask here."""
    if c["dtype"] != "float32" or mask is not None or c["Hq"] != c["H"]:
        return None
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        return None
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["o"], domain="com.microsoft", num_heads=c["H"],
                            unidirectional=int(c["causal"]))
    value = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "attention", [value(n) for n in "qkv"], [value("o")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        print("onnxruntime:", str(error).splitlines()[0], file=sys.stderr)
        return None
    flat = lambda t: np.ascontiguousarray(t.transpose(1, 2).reshape(c["B"], t.shape[2], -1).numpy())
    feed = {"q": flat(q), "k": flat(k), "v": flat(v)}
    return lambda: torch.from_numpy(session.run(None, feed)[0]).reshape(c["B"], c["L"], c["H"], c["E"]).transpose(1, 2)


def flops_of(c):
    full = 4.0 * c["B"] * c["Hq"] * c["L"] * c["S"] * c["E"]
    return full * (c["L"] + 1) / (2 * c["L"]) if c["causal"] else full


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def measure(c):
    q, k, v, mask = make_inputs(c)
    rivals = {"simd": our_tier("simd", c, q, k, v, mask), "torch": torch_sdpa(c, q, k, v, mask)}
    others = {"eigen": our_tier("eigen", c, q, k, v, mask), "openmp": our_tier("openmp", c, q, k, v, mask),
              "openblas": openblas_unfused(c, q, k, v, mask), "onnxruntime": onnxruntime_mha(c, q, k, v, mask)}
    rivals.update({n: f for n, f in others.items() if f is not None and re.search(args.rivals, n)})
    if flops_of(c) > 3e8 * args.threads:
        rivals.pop("openmp", None)  # scalar code: seconds for what the others do in milliseconds
    if mask is not None:
        rivals[NO_MASK] = our_tier("simd", c, q, k, v, None)
    if other_door:
        rivals[OTHER] = our_tier("simd", c, q, k, v, mask, other_door)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        want = {n: F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=m,
                                                  is_causal=c["causal"], enable_gqa=c["Hq"] != c["H"])
                for n, m in (("", mask), (NO_MASK, None)) if n in ("", *rivals)}
    error = {n: float((f().double() - want.get(n, want[""])).abs().max()) for n, f in rivals.items()}
    for n, e in error.items():
        if not e <= {"float32": 2e-4, "float16": 5e-3, "bfloat16": 5e-2}[c["dtype"]]:
            sys.exit(f"{c['name']}: {n} is wrong by {e}")
    # Small calls are repeated, so that one reading takes about 2 ms or more.
    repeats = {n: max(1, int(2e-3 / max(1e-7, min(timed(f) for _ in range(3))))) for n, f in rivals.items()}
    kv = k.numel() * k.element_size() + v.numel() * v.element_size()
    buffer = torch.empty(kv // 4)
    times = {n: [] for n in rivals}
    peak, read = [], []
    start = time.perf_counter()
    slow = set()
    while len(peak) < args.rounds and (len(peak) < 5 or time.perf_counter() - start < args.seconds):
        peak.append(door.attn_door_fma_gflops(args.threads))
        for n, f in rivals.items():
            if n in slow and len(times[n]) >= 3:
                continue
            seconds = timed(lambda: [f() for _ in range(repeats[n])]) / repeats[n]
            times[n].append(seconds)
            if seconds > 0.5:
                slow.add(n)  # far behind: three readings will do
        if not read:
            buffer.copy_(torch.cat([k.flatten().view(torch.float32), v.flatten().view(torch.float32)]))
        read.append(kv / timed(lambda: door.attn_door_read(buffer.data_ptr(), kv // 4, args.threads)) * 1e-9)
    rows = []
    for n, t in times.items():
        best, median = min(t), statistics.median(t)
        ratios = [a / b for a, b in zip(times["torch"], t)]
        row = dict(case=c["name"], sizes={x: c[x] for x in ("B", "Hq", "H", "L", "S", "E")}, dtype=c["dtype"],
                   causal=c["causal"], mask=c["mask"], threads=args.threads, rival=n, rounds=len(t),
                   seconds_best=best, seconds_median=median, gflops_best=flops_of(c) / best * 1e-9,
                   gflops_median=flops_of(c) / median * 1e-9, torch_over_this_best=min(times["torch"]) / best,
                   torch_over_this_median=statistics.median(ratios), max_error=error[n],
                   fma_peak_best=max(peak), fma_peak_median=statistics.median(peak),
                   share_of_peak_best=flops_of(c) / best * 1e-9 / max(peak),
                   share_of_peak_median=statistics.median(flops_of(c) / s * 1e-9 / p for s, p in zip(t, peak)))
        row.update(read_gbytes_best=max(read), read_gbytes_median=statistics.median(read),
                   roofline_seconds=max(flops_of(c) / max(peak) * 1e-9, kv / max(read) * 1e-9))
        if c["L"] == 1:
            row.update(gbytes_best=kv / best * 1e-9, gbytes_median=kv / median * 1e-9,
                       share_of_read_best=kv / best * 1e-9 / max(read),
                       share_of_read_median=statistics.median(kv / s * 1e-9 / r for s, r in zip(t, read)))
        for beside, key in ((NO_MASK, "no_mask"), (OTHER, "other_build")):
            if n == "simd" and beside in times:
                row[f"{key}_over_this_best"] = min(times[beside]) / best
                row[f"{key}_over_this_median"] = statistics.median(a / b for a, b in zip(times[beside], t))
        if hasattr(rivals[n], "scratch_bytes"):
            row["scratch_bytes"] = rivals[n].scratch_bytes
        rows.append(row)
    return rows


def show(rows):
    print(f"{'case':<27}{'thr':>3} {'rival':<17}{'best ms':>9}{'med ms':>9}{'GFLOP/s':>9}{'med':>8}"
          f"{'torch/x':>9}{'med':>6}{'%peak':>7}{'med':>5}{'GB/s':>7}{'%read':>7}{'error':>9}")
    for r in rows:
        memory = f"{r['gbytes_best']:>7.1f}{100 * r['share_of_read_best']:>7.0f}" if "gbytes_best" in r else " " * 14
        print(f"{r['case']:<27}{r['threads']:>3} {r['rival']:<17}{r['seconds_best'] * 1e3:>9.3f}{r['seconds_median'] * 1e3:>9.3f}"
              f"{r['gflops_best']:>9.1f}{r['gflops_median']:>8.1f}{r['torch_over_this_best']:>9.2f}{r['torch_over_this_median']:>6.2f}"
              f"{100 * r['share_of_peak_best']:>7.0f}{100 * r['share_of_peak_median']:>5.0f}{memory}{r['max_error']:>9.1e}", flush=True)


    for r in rows:
        for beside, key in (("the same without the mask", "no_mask"), ("the other build", "other_build")):
            if f"{key}_over_this_best" in r:
                print(f"  {beside} takes {r[key + '_over_this_best']:.2f} times as long (best), "
                      f"{r[key + '_over_this_median']:.2f} (median of the rounds)", flush=True)


def cpu_name():
    found = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return " ".join(found[1].split()) if found else platform.machine()


def save(rows):
    path = pathlib.Path(args.out)
    record = json.loads(path.read_text()) if path.exists() else {"rows": []}
    key = lambda r: (r["case"], r["threads"], r["rival"])
    new = {key(r) for r in rows}
    record["rows"] = sorted([r for r in record["rows"] if key(r) not in new] + rows, key=lambda r: (r["threads"], [c["name"] for c in CASES].index(r["case"])))
    source = args.source_hash
    if not source:
        from source_hash import source_hash
        source = source_hash()
    for r in rows:
        r["source_hash"] = source
        r["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record.update(command="python3 tests/bench/compare_torch_cpu.py", machine=args.machine or path.stem.replace("cpu_vs_torch_", ""),
                  cpu=cpu_name(), cores=CORES, isa=door.attn_door_isa().decode(),
                  torch=torch.__version__, numpy=np.__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def main():
    all_rows = []
    for c in CASES:
        if not re.search(args.cases, c["name"]):
            continue
        rows = measure(c)
        show(rows)
        all_rows += rows
        if args.out:
            save(rows)
    if len({r["case"] for r in all_rows}) > 1:
        print()
        show([r for r in all_rows if r["rival"] == "simd"])


if __name__ == "__main__":
    main()
