#!/bin/sh
# The Python module, as a user installs it, and its tests: ./run python [pytest's arguments]
# The notebooks, from clean kernels:                      ./run notebooks
#
# In .venv, or where ATTN_VENV says. What is there already is not fetched again; torch and the
# packages around it are left out with ATTN_TORCH=0 (their tests are then skipped, and say so).
set -eu
cd "$(dirname "$0")/../.."
what=${1:-python}
if [ $# -gt 0 ]; then shift; fi
venv=${ATTN_VENV:-.venv}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OPENBLAS_NUM_THREADS=1 MPLBACKEND=agg
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
extras=test,notebooks
if [ "${ATTN_TORCH:-1}" = 1 ]; then extras=$extras,torch,model; fi
"$venv/bin/python" -m pip install -q --disable-pip-version-check "nanobind>=2.10.1" "scikit-build-core>=0.11" ninja
# The GPU tiers take minutes to compile: only where a GPU is there to run them, or ATTN_CUDA asks.
cuda=${ATTN_CUDA:-$(command -v nvidia-smi >/dev/null 2>&1 && echo AUTO || echo OFF)}
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation \
    -C "cmake.define.ATTN_CUDA=$cuda" ".[$extras]"

case $what in
    python)
        "$venv/bin/python" -m mypy
        exec "$venv/bin/python" -m pytest -q "$@" ;;
    notebooks)
        exec "$venv/bin/python" notebooks/execute.py "$@" ;;
    *)
        echo "usage: lib/python/ci.sh [python | notebooks] [arguments]" >&2
        exit 2 ;;
esac
