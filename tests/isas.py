#!/usr/bin/env python3
"""Instruction sets that files of cpu/ are compiled for, and which of them this processor has.

    tests/isas.py            # those it has, a line each
    tests/isas.py --lacking  # the others
"""
import pathlib
import sys

#: As they stand in the names of objects, and their flags of /proc/cpuinfo. Of those that a file has, the
#: first that the processor knows is run (lib/src/isa.cpp).
COPIES = {"amx": "amx_bf16", "avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni", "avx512": "avx512bw",
          "avx2": "avx2", "baseline": ""}


def flags() -> set[str]:
    """Flags of this processor; the empty one always."""
    return {"", *pathlib.Path("/proc/cpuinfo").read_text().split()}


if __name__ == "__main__":
    known, wanted = flags(), "--lacking" not in sys.argv
    print(*[isa for isa, flag in COPIES.items() if (flag in known) == wanted], sep="\n")
