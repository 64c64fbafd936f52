"""ctest's "gpu record" (kind gpu_tests: the GPU tiers' tests) and "gpu python record" (kind gpu_python:
the Python module's): passed if there is a record of these sources and it is green, failed if it is not
green; else skipped (ATTN-SKIP): there is none, or the sources have changed since."""
import json
import sys

from source_hash import ROOT, source_hash

kind = sys.argv[1]
paths = sorted((ROOT / "docs/measured").glob(f"{kind}_*.json"))
records = {path.name: json.loads(path.read_text()) for path in paths}
fresh = {name: r for name, r in records.items() if r["source_hash"] == source_hash()}
for name, record in fresh.items():
    print(f"{name}: {record['machine']['gpu']}, {record['date']}, green: {record['green']}")
if not fresh:
    print(f"ATTN-SKIP: no record {kind} of these sources ({source_hash()}), {len(records)} of others. "
          "Run ./run gpu on a machine with a GPU.")
sys.exit(not all(record["green"] for record in fresh.values()))
