"""Times the GPU tiers beside torch's attention backends: one process, random data, interleaved.

    python tests/gpu/bench_torch.py --door build/libattn_door.so --out docs/measured/gpu_bench_x.json

Every rival computes every case `--rounds` times, in a new order each time: what ran just before
decides how warm the caches and the chip are. A figure is the median over rounds of the mean of
several calls between two events. Before it is timed, a result is compared with float64. Inputs are
normal; those smaller than the L2 cache stay in it, for all rivals alike.
"""
import argparse
import json
import math
import statistics
from random import Random

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from door import Door

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def case(group, B, Hq, H, L, S, E, dtype=BF16, causal=False, mask=None, tiers=("cuda_mma",)):
    return dict(group=group, B=B, Hq=Hq, H=H, L=L, S=S, E=E, dtype=dtype, causal=causal, mask=mask,
                tiers=tiers)


def cases(quick):
    lengths = (1024, 4096, 16384) if quick else (512, 1024, 2048, 4096, 8192, 16384)
    for E in (64, 128, 256):
        for L in lengths:
            for causal in (False, True):
                H = 2048 // E
                yield case(f"bf16 E={E}", 16384 // L, H, H, L, L, E, causal=causal)
    both = ("cuda_mma", "cuda_int8")
    for E in (64, 128):
        for L in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384):
            for causal in (False, True):
                H = 2048 // E
                yield case(f"int8 E={E}", 16384 // L, H, H, L, L, E, causal=causal, tiers=both)
    for L in (64, 128, 256, 512, 1024):  # few heads: where the launches count
        for E in (64, 128):
            yield case("int8 small", 4, 8, 8, L, L, E, F16, tiers=both)
            yield case("int8 small", 4, 8, 8, L, L, E, F32, tiers=both)
    for E, H in ((64, 32), (128, 16)):
        for mask in ("bool", "bool shared", "bool causal", "bool window", "additive",
                     "additive shared"):
            yield case("int8 mask", 4, H, H, 4096, 4096, E, mask=mask, tiers=both)
        yield case("int8 mask", 4, H, H, 4096, 4096, E, mask="additive float32", tiers=both)
        yield case("int8 float32", 4, H, H, 4096, 4096, E, F32, tiers=both)
        yield case("int8 grouped", 4, 32, 8, 4096, 4096, E, causal=True, tiers=both)
    yield case("int8 E=256", 4, 8, 8, 4096, 4096, 256, tiers=both)
    for mask in ("bool", "bool shared", "bool causal", "bool window", "additive", "additive shared",
                 "additive float32"):
        yield case("mask", 4, 16, 16, 4096, 4096, 128, mask=mask)
    yield case("mask", 4, 32, 32, 4096, 4096, 64, mask="bool shared")
    yield case("mask", 4, 32, 32, 4096, 4096, 64, mask="additive")
    for E, H in ((64, 16), (128, 16)):
        yield case("float32", 4, H, H, 4096, 4096, E, F32, tiers=("cuda_mma", "cuda_fused"))
        yield case("float32", 4, H, H, 4096, 4096, E, F32, True, tiers=("cuda_mma", "cuda_fused"))
    yield case("decode", 1, 32, 8, 1, 8192, 128)
    yield case("decode", 16, 32, 8, 1, 8192, 128)
    yield case("decode", 1, 32, 8, 1, 131072, 128)
    yield case("decode", 16, 32, 8, 1, 8192, 64)
    yield case("small", 4, 8, 8, 128, 128, 128, tiers=("cuda_mma", "cuda_fused", "cuda_simple"))
    yield case("small", 4, 8, 8, 64, 64, 64, tiers=("cuda_mma", "cuda_fused", "cuda_simple"))
    yield case("small", 4, 8, 8, 128, 128, 128, F32, tiers=("cuda_mma", "cuda_fused", "cuda_simple"))
    if not quick:
        yield case("ladder", 1, 16, 16, 2048, 2048, 64, F32,
                   tiers=("cuda_simple", "cuda_fused", "cuda_mma"))


def make_mask(kind, c):
    B, H, L, S = c["B"], c["Hq"], c["L"], c["S"]
    if kind is None:
        return None
    one = "shared" in kind or kind in ("bool causal", "bool window")
    shape = (1, 1, L, S) if one else (B, H, L, S)
    if kind == "bool causal":
        return torch.ones(shape, dtype=torch.bool, device="cuda").tril()
    if kind == "bool window":
        return torch.ones(shape, dtype=torch.bool, device="cuda").tril().triu(-512)
    if kind.startswith("bool"):
        mask = torch.empty(shape, dtype=torch.bool, device="cuda")
        for b in range(shape[0]):
            mask[b] = torch.rand(shape[1:], device="cuda") < 0.8
        return mask
    return torch.randn(shape, device="cuda", dtype=F32 if "float32" in kind else c["dtype"])


def reference(q, k, v, mask, causal, rows):
    """Some rows of head (0, 0) and of the last head, in float64."""
    result = []
    for b, h in ((0, 0), (q.shape[0] - 1, q.shape[1] - 1)):
        hk = h // (q.shape[1] // k.shape[1])
        score = q[b, h, rows].double() @ k[b, hk].double().T / math.sqrt(q.shape[-1])
        if mask is not None:
            m = mask.expand(q.shape[0], q.shape[1], -1, -1)[b, h, rows]
            score = score.masked_fill(~m, -math.inf) if m.dtype == torch.bool else score + m.double()
        if causal:
            at = torch.arange(k.shape[2], device="cuda")
            score = score.masked_fill(at[None] > rows[:, None], -math.inf)
        result.append(score.softmax(-1) @ v[b, hk].double())
    return torch.stack(result)


def timed(call, count):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / count  # microseconds


def replayed(call, count=20):
    """The same without the host: `count` calls in one CUDA graph. None if it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for _ in range(count):
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    times = []
    for _ in range(10):
        times.append(timed(graph.replay, 1))
    return statistics.median(times) / count


def run_case(door, c, rounds):
    B, Hq, H, L, S, E = (c[x] for x in ("B", "Hq", "H", "L", "S", "E"))
    q = torch.randn(B, Hq, L, E, device="cuda", dtype=c["dtype"])
    k, v = (torch.randn(B, H, S, E, device="cuda", dtype=c["dtype"]) for _ in range(2))
    mask = make_mask(c["mask"], c)
    torch_mask = mask
    other_dtype = mask is not None and mask.dtype == F32 and c["dtype"] != F32
    if other_dtype:
        torch_mask = mask.to(c["dtype"])  # torch's fused backends want query's dtype
    rows = torch.randint(0, L, (16,), device="cuda")
    want = reference(q, k, v, mask, c["causal"], rows)

    def error(out):
        got = torch.stack([out[0, 0, rows], out[-1, -1, rows]]).double()
        return ((got - want).norm() / want.norm()).item()

    rivals, errors, refused = {}, {}, {}
    for tier in c["tiers"]:
        out = torch.full_like(q, math.nan)
        call = door.prepare(tier, q, k, v, out, mask, "upper_left" if c["causal"] else None)
        call()
        errors[tier] = error(out)
        rivals[tier] = call

    def torch_call(backend, mask_now=lambda: torch_mask):
        def call():
            with sdpa_kernel(backend) if backend else torch.no_grad():
                return F.scaled_dot_product_attention(q, k, v, mask_now(), is_causal=c["causal"],
                                                      enable_gqa=Hq != H)
        return call
    calls = {name: torch_call(backend) for name, backend in {**BACKENDS, "default": None}.items()}
    if other_dtype:  # what a caller who has such a mask would do: give it as it is, or convert it
        calls["mask as it is"] = torch_call(None, lambda: mask)
        calls["mask converted"] = torch_call(None, lambda: mask.to(c["dtype"]))
    for name, call in calls.items():
        try:
            import warnings
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                errors[name] = error(call())
            rivals[name] = call
        except RuntimeError as reason:
            refused[name] = str(reason).splitlines()[0]

    flops = 4 * B * Hq * L * S * E / (2 if c["causal"] and L == S else 1)
    guess = max(flops / 300e12, 2 * B * H * S * E * q.element_size() / 4e12, 1e-5)
    if c["dtype"] == F32:
        guess = max(flops / 40e12, 1e-5)
    count = max(2, min(50, int(4e-3 / guess)))
    if "cuda_simple" in rivals and flops > 1e10:
        count = 2
    times = {name: [] for name in rivals}
    for call in rivals.values():
        call()
    order, random = list(rivals), Random(1)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(timed(rivals[name], count))
    median = {name: statistics.median(t) for name, t in times.items()}
    small = {}
    if max(median.values()) < 200:
        small = {"graph_microseconds": {n: r and round(r, 2) for n, r in
                                        ((n, replayed(call)) for n, call in rivals.items())}}
    return dict({key: value for key, value in c.items() if key not in ("dtype", "tiers")},
                dtype=str(c["dtype"]).split(".")[-1], flops=flops,
                microseconds={n: round(t, 2) for n, t in median.items()},
                spread={n: round((max(t) - min(t)) / median[n], 3) for n, t in times.items()},
                tflops={n: round(flops / t / 1e6, 1) for n, t in median.items()},
                error={n: float(f"{e:.3g}") for n, e in errors.items()}, refused=refused, **small)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--door", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="groups of cases whose name begins so")
    args = parser.parse_args()
    torch.manual_seed(1)
    door = Door(args.door)
    rows = []
    for c in cases(args.quick):
        if args.only and not c["group"].startswith(args.only):
            continue
        try:
            row = run_case(door, c, args.rounds)
        except Exception as reason:  # one case must not cost the others; it is in the record
            row = dict(group=c["group"], failed=f"{type(reason).__name__}: {reason}"[:300])
        rows.append(row)
        torch.cuda.empty_cache()
        if "failed" in row:
            print(row)
            continue
        print(f"{row['group']:10s} ({row['B']},{row['Hq']},{row['H']},{row['L']},{row['S']},{row['E']})"
              f"{' c' if row['causal'] else ''} {row['mask'] or ''}: "
              + "  ".join(f"{n} {row['microseconds'][n]:.1f}us {row['tflops'][n]:.0f}TF"
                          f"{'' if row['error'][n] < 8e-3 else ' ERR%.1e' % row['error'][n]}"
                          for n in row["microseconds"]), flush=True)
    json.dump(dict(device=torch.cuda.get_device_name(), torch=torch.__version__,
                   cudnn=torch.backends.cudnn.version(), rounds=args.rounds, cases=rows),
              open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
