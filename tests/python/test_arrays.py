"""Arrays at the door: every library, dtype and stride, without a copy, and nothing else touched."""

from __future__ import annotations

import gc
import sys
import threading
import time

import attention_ladder as al
import ml_dtypes
import numpy as np
import pytest
from harness import DTYPES, attend_and_judge, needs, normal, same_bits

attend = al.scaled_dot_product_attention


@pytest.fixture
def qkv(rng):
    return tuple(normal(rng, (2, 3, 5, 8)) for _ in range(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 5, 8), (2, 2, 3, 5, 8)])
def test_every_dtype_and_rank_is_within_the_bound(tier, dtype, shape, rng):
    needs(tier, dtype)
    attend_and_judge(*(normal(rng, shape, dtype) for _ in range(3)), tier=tier)


VIEWS = {
    "reversed heads": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "reversed rows": lambda a: np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1],
    "reversed columns": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "all reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1, ::-1])[
        ::-1, ::-1, ::-1, ::-1
    ],
    "every second column": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "layout (B, L, H, E)": lambda a: np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2),
    "Fortran order": np.asfortranarray,
    "a slice of packed heads": lambda a: np.concatenate([a * 0, a, a * 2], -1)[..., 8:16],
    "an odd offset": lambda a: np.concatenate([a.ravel()[:1], a.ravel()])[1:].reshape(a.shape),
    "read-only": lambda a: [b := a.copy(), b.setflags(write=False)][0],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strides_do_not_change_the_bits(tier, view, dtype, rng):
    q, k, v = (normal(rng, (2, 3, 5, 8), dtype) for _ in range(3))
    want = attend(q, k, v, tier=tier)
    q2, k2, v2 = (VIEWS[view](a) for a in (q, k, v))
    assert all(np.array_equal(a, b) for a, b in zip((q, k, v), (q2, k2, v2)))
    assert same_bits(attend(q2, k2, v2, tier=tier), want)


def test_a_repeated_axis_costs_no_copy(tier, qkv):
    q, k, v = qkv
    one, many = k[:, :1], np.broadcast_to(k[:, :1], k.shape)
    assert same_bits(attend(q, many, v, tier=tier), attend(q, one, v, tier=tier))


@pytest.mark.parametrize("stride", [0, 8, -4, 3331332])
def test_the_stride_of_an_axis_of_size_one_is_never_used(tier, rng, stride):
    q, k, v = (normal(rng, (1, 3, 5, 8)) for _ in range(3))
    odd = [np.lib.stride_tricks.as_strided(a, a.shape, (stride, *a.strides[1:])) for a in (q, k, v)]
    assert same_bits(attend(*odd, tier=tier), attend(q, k, v, tier=tier))


def test_out_is_written_and_the_gaps_around_it_are_not(tier, qkv):
    q, k, v = qkv
    around = np.full((2, 3, 10, 20), np.nan, np.float32)
    out = around[:, :, 1:10:2, 2:18:2]
    returned = attend(q, k, v, out=out, tier=tier)
    assert returned is out
    assert same_bits(out, attend(q, k, v, tier=tier))
    assert np.isnan(around).sum() == around.size - out.size


def test_out_may_run_backwards(tier, qkv):
    out = np.empty((2, 3, 5, 8), np.float32)[:, :, ::-1, ::-1]
    assert same_bits(attend(*qkv, out=out, tier=tier), attend(*qkv, tier=tier))


def test_inputs_are_never_changed(tier, qkv, rng):
    mask = rng.random((5, 5)) < 0.7
    before = [a.copy() for a in (*qkv, mask)]
    attend(*qkv, mask, tier=tier)
    assert all(same_bits(a, b) for a, b in zip(before, (*qkv, mask)))


def test_query_key_and_value_may_be_one_array(tier, rng):
    a = normal(rng, (2, 3, 5, 8))
    assert same_bits(attend(a, a, a, tier=tier), attend(a, a.copy(), a.copy(), tier=tier))


def test_bfloat16_of_ml_dtypes_comes_back_as_bfloat16(rng):
    q = normal(rng, (4, 8), "bfloat16")
    out, logsumexp = attend(q, q, q, return_logsumexp=True)
    assert out.dtype == ml_dtypes.bfloat16 and logsumexp.dtype == np.float32
    own = np.empty((4, 8), ml_dtypes.bfloat16)
    assert attend(q, q, q, out=own) is own and same_bits(own, out)


def test_a_uint16_array_is_not_taken_for_bfloat16(rng):
    q = normal(rng, (4, 8), "bfloat16")
    with pytest.raises(al.BadDtype, match="uint16"):
        attend(q, q, q.view(np.uint16))
    with pytest.raises(al.BadDtype, match="uint16"):
        attend(q, q, q, np.zeros((4, 4), np.uint16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_jax_arrays_go_in_and_come_out(dtype, rng):
    jax = pytest.importorskip("jax")
    q, k, v = (normal(rng, (2, 3, 5, 8), dtype) for _ in range(3))
    out = attend(*(jax.numpy.asarray(a) for a in (q, k, v)))
    assert isinstance(out, jax.Array) and out.dtype == DTYPES[dtype]
    assert same_bits(np.asarray(out), attend(q, k, v))


def test_torch_and_numpy_give_the_same_bits(tier, qkv):
    torch = pytest.importorskip("torch")
    out = attend(*(torch.from_numpy(a) for a in qkv), tier=tier)
    assert isinstance(out, torch.Tensor)
    assert same_bits(out.numpy(), attend(*qkv, tier=tier))


def test_any_object_with_dlpack_is_an_array(qkv):
    class Wrapped:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __dlpack__(self, **arguments):
            return self.array.__dlpack__(**arguments)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    out = attend(*(Wrapped(a) for a in qkv))
    assert isinstance(out, np.ndarray) and same_bits(out, attend(*qkv))


def test_nothing_holds_on_to_the_arrays(qkv):
    out = np.empty_like(qkv[0])
    before = [sys.getrefcount(a) for a in (*qkv, out)]
    for _ in range(50):
        attend(*qkv, out=out)
        with pytest.raises(al.BadShape):
            attend(qkv[0], qkv[1][:, :, :4], qkv[2], out=out)
    gc.collect()
    assert [sys.getrefcount(a) for a in (*qkv, out)] == before


def test_other_threads_run_meanwhile(rng):
    """The interpreter's lock is free while the tier computes: a second thread makes progress."""
    big = normal(rng, (1, 8, 512, 64))
    running, ticks = threading.Event(), 0

    def work():
        running.set()
        attend(big, big, big, tier="literal", threads=1)

    thread = threading.Thread(target=work)
    thread.start()
    running.wait()
    time.sleep(
        0.01
    )  # the call has begun; with the lock held, nothing below would run until its end
    while thread.is_alive():
        ticks += 1
        time.sleep(0.001)
    assert ticks > 10


def test_calls_from_many_threads_do_not_disturb_each_other(tier, rng):
    inputs = [tuple(normal(rng, (2, 3, 40, 16)) for _ in range(3)) for _ in range(8)]
    want = [attend(*a, tier=tier) for a in inputs]
    got = [None] * len(inputs)

    def work(i):
        for _ in range(5):
            got[i] = attend(*inputs[i], tier=tier)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(same_bits(a, b) for a, b in zip(got, want))
