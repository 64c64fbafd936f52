"""Writes the small files in npy/ and safetensors/ that test the readers against the real writers.

    python3 -m venv venv && venv/bin/pip install numpy torch safetensors
    venv/bin/python tests/data/fixtures.py

Element i, in row-major order, is i - 3.5; for bool it is whether i is odd.
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

kinds = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16,
         "bfloat16": torch.bfloat16, "int64": torch.int64}
tensors = {name: torch.tensor(pattern((2, 3, 4), "float64")).to(kind)
           for name, kind in kinds.items()}
tensors["bool"] = torch.tensor(pattern((2, 3, 4), "bool"))
tensors["scalar"] = torch.tensor(-3.5)
tensors["empty"] = torch.zeros(2, 0, 3)
save_file(tensors, here / "safetensors" / "all.safetensors", metadata={"made by": "fixtures.py"})
