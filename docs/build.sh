#!/bin/sh
# Builds the course site into build/docs/site. Needs the Debian packages
#   doxygen doxygen-awesome-css libjs-mathjax graphviz python3-matplotlib nlohmann-json3-dev
# (`./run docs` installs what is missing). The site needs no network to be looked at.
# usage: docs/build.sh [BUILD]     BUILD: a CMake build folder (default build/release)
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
out=build/docs
# A python3 of one's own may come first on the PATH and lack Debian's matplotlib.
python=/usr/bin/python3
"$python" -c 'import matplotlib' 2>/dev/null || python=python3

if [ "$build" = build/release ]; then
    cmake --preset release -DATTN_DOCS=ON
else
    cmake -S . -B "$build" -DATTN_DOCS=ON
fi
cmake --build "$build" --target docs_facts docs_first exercises
mkdir -p "$out"
"$build/docs/docs_facts" > "$out/facts.json"
"$build/docs/docs_first" > "$out/output_first.txt"
docs/exercises/exercise.sh --verdicts "$build" > "$out/verdicts.json"
"$python" docs/tools/check.py
"$python" docs/tools/site.py --facts "$out/facts.json" --verdicts "$out/verdicts.json" \
    --work "$out/work" --site "$out/site"
"$python" docs/tools/check.py --site "$out/site"
echo "docs: the site is $out/site/index.html"
