"""Writes the small files in npy/ and safetensors/ that test the readers against the real writers.

    python3 -m venv venv && venv/bin/pip install numpy torch safetensors
    venv/bin/python tests/data/fixtures.py

Element i, in row-major order, is i - 3.5; for bool it is whether i is odd. npy/problem_*.npy are a
small problem and what numpy makes of it.
"""

import pathlib

import numpy
import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).resolve().parent


def pattern(shape, dtype):
    count = numpy.arange(numpy.prod(shape, dtype=int))
    values = count % 2 == 1 if dtype == "bool" else count - 3.5
    return values.astype(dtype).reshape(shape)


def save(name, array, version=None):
    with open(here / "npy" / f"{name}.npy", "wb") as file:
        numpy.lib.format.write_array(file, array, version)


for folder in ("npy", "safetensors"):
    (here / folder).mkdir(exist_ok=True)

# Taken.
for dtype in ("float64", "float32", "float16", "bool"):
    save(dtype, pattern((2, 3, 4), dtype))
    save(f"{dtype}_fortran", numpy.asfortranarray(pattern((2, 3, 4), dtype)))
for rank in range(9):
    shape = (2, 1, 3, 1, 2, 1, 1, 2)[:rank]
    save(f"rank{rank}", pattern(shape, "float32"))
save("rank8_fortran", numpy.asfortranarray(pattern((2, 1, 3, 1, 2, 1, 1, 2), "float32")))
save("empty", pattern((2, 0, 3), "float32"))
save("version2", pattern((2, 3), "float32"), (2, 0))
save("version3", pattern((2, 3), "float32"), (3, 0))

# Refused.
save("big_endian", pattern((2, 3), ">f4"))
save("int64", pattern((2, 3), "int64"))
save("uint8", pattern((2, 3), "uint8"))
save("complex64", pattern((2, 3), "complex64"))
save("records", numpy.zeros(3, dtype=[("a", "<f4"), ("b", "<f4")]))
save("objects", numpy.array([{"a": 1}, None], dtype=object))
save("rank9", pattern((1,) * 9, "float32"))

# A small problem with every option, and what numpy makes of it: grouped heads, E != Ev, L != S.
random = numpy.random.default_rng(0)
query, key, value = (random.standard_normal(s) for s in [(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 3)])
seen = random.random((2, 1, 5, 7)) < 0.7
seen[1, 0, 3] = False  # a row that may see no key
added = random.standard_normal((4, 1, 7)).astype("float32")


def attend(mask, causal, scale):
    """(out, logsumexp) in float64; `mask` is added to the scores, -inf hides a key."""
    wide = [numpy.repeat(x, 2, axis=1) for x in (key, value)]
    scores = scale * query @ wide[0].swapaxes(-1, -2) + mask
    if causal is not None:
        scores = numpy.where(numpy.tri(5, 7, causal, dtype=bool), scores, -numpy.inf)
    largest = scores.max(-1, keepdims=True)
    weights = numpy.exp(scores - numpy.where(numpy.isfinite(largest), largest, 0))
    total = weights.sum(-1, keepdims=True)
    with numpy.errstate(divide="ignore"):
        logsumexp = numpy.squeeze(numpy.log(total) + largest, -1)
    return weights @ wide[1] / numpy.where(total == 0, 1, total), logsumexp


hidden = numpy.where(seen, 0.0, -numpy.inf)
plain = attend(0.0, None, 8**-0.5)
options = attend(hidden, 0, -0.3)  # bool mask, causal upper-left, scale -0.3
additive = attend(added, 7 - 5, 8**-0.5)  # additive mask, causal lower-right
for name, array in {"query": query, "key": numpy.asfortranarray(key), "value": value, "seen": seen,
                    "added": added, "plain_out": plain[0], "options_out": options[0],
                    "options_logsumexp": options[1], "additive_out": additive[0]}.items():
    save(f"problem_{name}", array)

kinds = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16,
         "bfloat16": torch.bfloat16, "int64": torch.int64}
tensors = {name: torch.tensor(pattern((2, 3, 4), "float64")).to(kind)
           for name, kind in kinds.items()}
tensors["bool"] = torch.tensor(pattern((2, 3, 4), "bool"))
tensors["scalar"] = torch.tensor(-3.5)
tensors["empty"] = torch.zeros(2, 0, 3)
save_file(tensors, here / "safetensors" / "all.safetensors", metadata={"made by": "fixtures.py"})
