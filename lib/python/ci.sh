#!/bin/sh
# The Python module, as a user installs it, and its tests: ./run python [pytest's arguments]
# The notebooks, from clean kernels:                      ./run notebooks
# What both need, and no more:                            lib/python/ci.sh setup
# The tests alone, without the network, which is what ctest calls; skipped where their packages are
# missing:                                                lib/python/ci.sh suite
#
# In .venv, or where ATTN_VENV says. What is there already is not fetched again; torch and the
# packages around it are left out with ATTN_TORCH=0 (their tests are then skipped, and say so).
set -eu
cd "$(dirname "$0")/../.."
what=${1:-python}
if [ $# -gt 0 ]; then shift; fi
python=${ATTN_VENV:-.venv}/bin/python
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OPENBLAS_NUM_THREADS=1 MPLBACKEND=agg
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# The GPU tiers take minutes to compile: only where a GPU is there to run them, or ATTN_CUDA asks.
cuda=${ATTN_CUDA:-$(command -v nvidia-smi >/dev/null 2>&1 && echo AUTO || echo OFF)}

pip() { "$python" -m pip install -q --disable-pip-version-check "$@"; }
build() { pip --no-build-isolation -C "cmake.define.ATTN_CUDA=$cuda" "$@"; }

# The packages that pyproject.toml lists for [build-system] and for some of its extras.
packages() {
    "$python" - "$@" <<'END'
import sys
try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    from pip._vendor import tomli as tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
for package in project["build-system"]["requires"] + project["project"]["dependencies"]:
    print(package)
for extra in sys.argv[1:]:
    print("\n".join(project["project"]["optional-dependencies"][extra]))
END
}

setup() {
    if [ ! -x "$python" ]; then python3 -m venv "${python%/bin/python}"; fi
    extras="test notebooks"
    if [ "${ATTN_TORCH:-1}" = 1 ]; then extras="$extras torch model"; fi
    # shellcheck disable=SC2086  # a list
    packages $extras >"${python%/bin/python}/packages.txt"
    pip ninja -r "${python%/bin/python}/packages.txt"
}

case $what in
    setup) setup ;;
    python)
        setup
        build .
        "$python" -m mypy
        exec "$python" -m pytest -q "$@" ;;
    suite)
        if [ ! -x "$python" ]; then python=python3; fi  # perhaps in an environment of its own
        needed="nanobind, scikit_build_core, numpy, pytest, hypothesis, ml_dtypes, onnx"
        if ! why=$("$python" -c "import $needed" 2>&1); then
            echo "ATTN-SKIP: ./run python installs what the Python tests need; $why"
            exit 0
        fi
        site=build/python-suite
        rm -rf "$site"
        build --no-deps --no-index --target "$site" .
        PYTHONPATH=$site exec "$python" -m pytest -q "$@" ;;
    notebooks)
        setup
        build .
        exec "$python" notebooks/execute.py "$@" ;;
    *)
        echo "usage: lib/python/ci.sh [python | notebooks | setup | suite] [arguments]" >&2
        exit 2 ;;
esac
