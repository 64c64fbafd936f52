"""ctest's "gpu record": passed if there are records of these sources, of the GPU tiers' tests and of
the Python module's, and all are green; failed if one of them is not green; else skipped (ATTN-SKIP):
there is none, or the sources have changed since."""
import json
import sys

from source_hash import ROOT, source_hash

missing, green = [], True
for kind in ("gpu_tests", "gpu_python"):
    paths = sorted((ROOT / "docs/measured").glob(f"{kind}_*.json"))
    records = {path.name: json.loads(path.read_text()) for path in paths}
    fresh = {name: r for name, r in records.items() if r["source_hash"] == source_hash()}
    for name, record in fresh.items():
        print(f"{name}: {record['machine']['gpu']}, {record['date']}, green: {record['green']}")
        green = green and record["green"]
    if not fresh:
        missing.append(f"{kind} ({len(records)} of other sources)")
if green and missing:
    print(f"ATTN-SKIP: of these sources ({source_hash()}) there is no record {', no '.join(missing)}. "
          "Run ./run gpu on a machine with a GPU.")
sys.exit(not green)
