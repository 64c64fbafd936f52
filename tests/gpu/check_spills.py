"""No kernel of the tensor-core tiers may spill registers to memory.

    python tests/gpu/check_spills.py                  # ctest's "gpu spills": the record
    python tests/gpu/check_spills.py --log build.log  # what ptxas said in a build (ATTN_PTXAS=ON)

The record, docs/measured/gpu_ptxas.json, counts while it is of these sources; it is skipped
(ATTN-SKIP) otherwise.
"""
import argparse
import json
import pathlib
import re
import sys

from source_hash import ROOT, source_hash

#: Kernels on the fast path. The second passes run for hidden numbers that are not finite alone.
FAST = re.compile(r"\b(mma_kernel|split_kernel<|merge_kernel|float32_kernel|tiled_float32_kernel|layout_kernel|int8_kernel|"
                  r"int8_fused_kernel|measure_kernel|quantize_kernel)")


def spilling(kernels):
    return [k for k in kernels if FAST.search(k["kernel"])
            and k.get("spill_stores", 0) + k.get("spill_loads", 0) > 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=pathlib.Path, help="output of a build with ATTN_PTXAS=ON")
    args = parser.parse_args()
    if args.log:
        from run_gpu import ptxas_report
        kernels = ptxas_report(args.log.read_text(errors="replace"))
        if not any(FAST.search(k["kernel"]) for k in kernels):
            sys.exit(f"{args.log}: no report of a fast kernel; build anew with ATTN_PTXAS=ON")
    else:
        path = ROOT / "docs/measured/gpu_ptxas.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        if record.get("source_hash") != source_hash():
            print(f"ATTN-SKIP: no ptxas record of these sources ({source_hash()}). "
                  "Run ./run gpu on a machine with a GPU.")
            return
        kernels = record["kernels"]
    bad = spilling(kernels)
    for k in bad:
        print(f"spills {k['spill_stores']} + {k['spill_loads']} bytes, {k['registers']} registers, "
              f"{k['target']}: {k['kernel']}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
