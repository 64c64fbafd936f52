"""Bad calls: the class, the values in the text, and an untouched output."""

from __future__ import annotations

import attention_ladder as al
import numpy as np
import pytest
from harness import normal

attend = al.scaled_dot_product_attention
RNG = np.random.default_rng(1)
Q, K, V = normal(RNG, (2, 4, 5, 8)), normal(RNG, (2, 4, 7, 8)), normal(RNG, (2, 4, 7, 6))
OUT = (2, 4, 5, 6)


def read_only():
    out = np.empty(OUT, np.float32)
    out.setflags(write=False)
    return out


def misaligned():
    return np.frombuffer(bytearray(4 * Q.size + 1), np.uint8)[1:].view(np.float32).reshape(Q.shape)


# name: (arguments, keywords, class, text)
BAD = {
    "a list": (([[1.0]], K, V), {}, al.BadDtype, "query is a list, but an array with __dlpack__"),
    "None": ((None, K, V), {}, al.BadDtype, "query is a NoneType"),
    "a list as mask": ((Q, K, V, [True] * 7), {}, al.BadDtype, "mask is a list"),
    "rank 1": ((Q[0, 0, 0], K, V), {}, al.BadShape, "at least 2 dimensional.*query.dim: 1"),
    "E differs": ((Q, K[..., :5], V), {}, al.BadShape, "query has E=8 but key has E=5"),
    "S differs": ((Q, K, V[:, :, :6]), {}, al.BadShape, "key has S=7 but value has S=6"),
    "batches differ": (
        (Q, K[[0, 1, 0]], V[[0, 1, 0]]),
        {},
        al.BadShape,
        r"The size of tensor a \(2\) must match the size of tensor b \(3\)",
    ),
    "heads without gqa": (
        (Q, K[:, :2], V[:, :2]),
        {},
        al.BadShape,
        r"The size of tensor a \(4\) must match the size of tensor b \(2\) at "
        "non-singleton dimension 1.*enable_gqa",
    ),
    "heads that do not divide": (
        (Q, K[:, :3], V[:, :3]),
        {"enable_gqa": True},
        al.BadShape,
        "Number of heads in key and value must divide the number of heads",
    ),
    "no key heads": ((Q, K[:, :0], V[:, :0]), {"enable_gqa": True}, al.BadShape, "must divide"),
    "integers": ((Q.astype(int), K, V), {}, al.BadDtype, "query has dtype int64"),
    "complex": ((Q.astype(complex), K, V), {}, al.BadDtype, "query has dtype complex128"),
    "big-endian": ((Q.astype(">f4"), K, V), {}, al.BadDtype, "query is a numpy.ndarray|query has"),
    "dtypes differ": (
        (Q, K.astype(np.float16), V),
        {},
        al.BadDtype,
        "query has dtype float32 but key has float16",
    ),
    "misaligned": ((misaligned(), K, V), {}, al.Error, "query"),
    "integer mask": ((Q, K, V, np.ones((5, 7), int)), {}, al.BadDtype, "mask has dtype int64"),
    "float64 mask": ((Q, K, V, np.ones((5, 7))), {}, al.BadDtype, "mask has dtype float64"),
    "mask too short": (
        (Q, K, V, np.ones((5, 6), bool)),
        {},
        al.BadShape,
        r"mask has shape \(5, 6\), which does not broadcast.*\(2, 4, 5, 7\)",
    ),
    "mask that enlarges": (
        (Q[:1], K[:1], V[:1], np.ones((2, 4, 5, 7), bool)),
        {"out": np.empty((1, *OUT[1:]), np.float32)},
        al.BadShape,
        "does not broadcast",
    ),
    "mask of one axis more": (
        (Q, K, V, np.ones((1, 2, 4, 5, 7), bool)),
        {},
        al.BadShape,
        "mask has",
    ),
    "mask and is_causal": (
        (Q, K, V, np.ones((5, 7), bool)),
        {"is_causal": True},
        al.BadOption,
        "Explicit attn_mask should not be set when is_causal=True",
    ),
    "two causal rules": (
        (Q, K, V),
        {"is_causal": True, "causal": "lower_right"},
        al.BadOption,
        "give one of them",
    ),
    "unknown causal rule": ((Q, K, V), {"causal": "right"}, al.BadOption, "causal is 'right'"),
    "scale nan": ((Q, K, V), {"scale": float("nan")}, al.BadOption, "scale is nan"),
    "scale inf": ((Q, K, V), {"scale": float("inf")}, al.BadOption, "scale is inf"),
    "dropout": ((Q, K, V), {"dropout_p": 0.1}, al.Unsupported, "dropout_p is 0.1"),
    "unknown tier": (
        (Q, K, V),
        {"tier": "fastest"},
        al.BadOption,
        "no tier 'fastest'; there are auto",
    ),
    "negative threads": ((Q, K, V), {"threads": -1}, al.BadOption, "threads is -1"),
    "out of another shape": (
        (Q, K, V),
        {"out": np.empty((2, 4, 5, 8), np.float32)},
        al.BadShape,
        "value has Ev=6 but out has Ev=8",
    ),
    "out of another dtype": (
        (Q, K, V),
        {"out": np.empty(OUT, np.float16)},
        al.BadDtype,
        "query has dtype float32 but out has float16",
    ),
    "out read-only": (
        (Q, K, V),
        {"out": read_only()},
        al.BadDtype,
        "out is a numpy.ndarray, but.*may be written",
    ),
    "out a list": ((Q, K, V), {"out": [0.0]}, al.BadDtype, "out is a list"),
    "out over itself": (
        (Q, K, V),
        {"out": np.lib.stride_tricks.as_strided(np.empty(64, np.float32), OUT, (4, 4, 4, 4))},
        al.BadShape,
        "elements of it overlap",
    ),
    "rank 9": (
        tuple(a.reshape((1,) * 5 + a.shape) for a in (Q, K, V)),
        {},
        al.BadShape,
        "at most 8",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_says_what_is_wrong_and_writes_nothing(name):
    arguments, keywords, error, text = BAD[name]
    if "out" not in keywords:
        keywords = {**keywords, "out": np.full(OUT, 7, np.float32)}
    with pytest.raises(error, match=text) as caught:
        attend(*arguments, **keywords)
    assert isinstance(caught.value, (RuntimeError, al.Error))  # torch's class
    out = keywords["out"]
    if isinstance(out, np.ndarray) and out.dtype == np.float32 and "out" not in BAD[name][1]:
        assert (out == 7).all()


def test_out_over_an_input_is_refused():
    q = Q.copy()
    with pytest.raises(al.BadShape, match="out overlaps query"):
        attend(q, Q, Q, out=q)
    with pytest.raises(al.BadShape, match="out overlaps value"):
        both = np.concatenate([Q, Q], axis=0)
        attend(Q, Q, both[:2], out=both[1:3])


@pytest.mark.parametrize("name", ["sm_scale", "mask", "tensor_layout", "is_causal_", "dropout"])
def test_an_unknown_keyword_is_never_swallowed(name):
    with pytest.raises(TypeError, match=name):
        attend(Q, K, V, **{name: None})


def test_what_follows_enable_gqa_is_by_keyword_only():
    with pytest.raises(TypeError):
        attend(Q, K, V, None, 0.0, False, None, False, "literal")


@pytest.mark.parametrize(
    "error, also",
    [
        (al.BadShape, ValueError),
        (al.BadDtype, TypeError),
        (al.BadOption, ValueError),
        (al.Unsupported, NotImplementedError),
        (al.NoMemory, MemoryError),
    ],
)
def test_errors_are_torchs_class_and_pythons(error, also):
    assert (
        issubclass(error, al.Error) and issubclass(error, RuntimeError) and issubclass(error, also)
    )


def test_a_dlpack_producer_that_fails_is_an_error_not_a_crash():
    class Broken:
        shape, dtype = (2, 4, 5, 8), np.dtype(np.float32)

        def __dlpack__(self, **_):
            raise BufferError("no")

        def __dlpack_device__(self):
            return (1, 0)

    with pytest.raises(al.BadDtype, match="query is a .*Broken"):
        attend(Broken(), K, V)
