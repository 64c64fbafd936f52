"""Executes every notebook from a clean kernel, in order; fails on an error or a stored output.

./run notebooks                 all of them
./run notebooks 02 --out DIR    those that begin with 02; keeps the executed copies in DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of file names")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    paths = [
        p
        for p in sorted(HERE.glob("*.ipynb"))
        if not options.names or p.name.startswith(tuple(options.names))
    ]
    if not paths:
        print("no notebook has such a name")
        return 1
    bad, begin = [], time.perf_counter()
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if any(c.get("outputs") or c.get("execution_count") for c in notebook.cells):
            bad.append(f"{path.name} is stored with outputs")
        start = time.perf_counter()
        client = NotebookClient(
            notebook,
            timeout=240,
            kernel_name="python3",
            resources={"metadata": {"path": str(HERE)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            bad.append(f"{path.name}: {error}")
        print(f"{path.name:<28} {time.perf_counter() - start:6.1f} s", flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, options.out / path.name)
    print(f"{len(paths)} notebooks, {time.perf_counter() - begin:.1f} s")
    print("\n".join(bad), end="")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
