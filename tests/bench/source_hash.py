#!/usr/bin/env python3
"""Which code was measured: a hash of the sources, kept in every record.

    python3 tests/bench/source_hash.py            all of lib/ cpu/ gpu/
    python3 tests/bench/source_hash.py cpu/simd   what begins with cpu/simd

Records of other measurements import source_hash and tier_hash from here, so that all agree.
"""
import hashlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The command, the bindings and the recorded speeds can change without changing what was measured.
NOT_MEASURED = ("lib/cli/", "lib/python/", "lib/speeds.def")


def source_hash(*prefixes: str) -> str:
    """First 16 hex digits of the SHA-256 of all files whose path begins with one of `prefixes`."""
    digest = hashlib.sha256()
    found = False
    for folder in ("cpu", "gpu", "lib"):
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            hidden = "__pycache__" in name or path.name.startswith(".")
            if not path.is_file() or hidden or name.startswith(NOT_MEASURED):
                continue
            if not name.startswith(prefixes or ("",)):
                continue
            found = True
            content = path.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    if not found:
        raise FileNotFoundError(f"no source begins with {prefixes}")
    return digest.hexdigest()[:16]


def tier_hash(tier: str) -> str:
    """Hash of the files of one tier alone: cpu/<tier>.* and cpu/<tier>_*, or the same in gpu/."""
    existing = [f"{folder}/{tier}{end}" for folder in ("cpu", "gpu") for end in (".", "_")]
    return source_hash(*existing)


if __name__ == "__main__":
    print(source_hash(*sys.argv[1:]))
