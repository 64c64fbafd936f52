"""ctest's "gpu record": passed if a record of the GPU tests is green and of these sources, skipped
(ATTN-SKIP) if there is none or the sources have changed since, failed if it is of these sources and
not green."""
import json
import sys

from source_hash import ROOT, source_hash

records = {path.name: json.loads(path.read_text())
           for path in sorted((ROOT / "docs/measured").glob("gpu_tests_*.json"))}
fresh = {name: r for name, r in records.items() if r["source_hash"] == source_hash()}
for name, record in fresh.items():
    print(f"{name}: {record['machine']['gpu']}, {record['date']}, green: {record['green']}")
if not fresh:
    print(f"ATTN-SKIP: no GPU record of these sources ({source_hash()}); "
          f"{len(records)} of others. Run ./run gpu on a machine with a GPU.")
sys.exit(any(not record["green"] for record in fresh.values()))
