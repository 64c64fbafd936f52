"""A hash of the sources that a GPU record speaks of: gpu/ and lib/include/."""
import hashlib
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def source_hash():
    digest = hashlib.sha256()
    for folder in ("gpu", "lib/include"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file():
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
