"""`max_relative_error`: how much a tier that rounds to 8 bits may be off."""

from __future__ import annotations

import attention_ladder as al
import numpy as np
import pytest

QUERY, KEY, VALUE = al.generate("key_bias_sharp", B=1, Hq=2, L=128, E=64, seed=3)


def attend(**rules):
    return al.scaled_dot_product_attention(QUERY, KEY, VALUE, **rules)


def off(got):
    exact = attend(tier="literal").astype(np.float64)
    return np.linalg.norm(got - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("tier", ["int8_pv32", "int8"])
def test_a_limit_is_kept_and_none_is_set_unasked(tier):
    assert 1e-3 < off(attend(tier=tier)) < 0.03
    assert np.array_equal(attend(tier=tier, max_relative_error=1e-3), attend(tier="simd"))


def test_a_block_sets_the_limit_of_the_calls_inside():
    rounded, exact = attend(tier="int8"), attend(tier="simd")
    with al.attention(tier="int8", max_relative_error=1e-3):
        assert np.array_equal(attend(), exact)
        assert np.array_equal(attend(max_relative_error=0), rounded)
    assert np.array_equal(attend(tier="int8"), rounded)


def test_the_block_covers_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = [torch.from_numpy(a) for a in (QUERY, KEY, VALUE)]
    with al.attention(tier="int8", max_relative_error=1e-3):
        got = torch.nn.functional.scaled_dot_product_attention(*tensors)
    assert al.stats().ran == {"int8": 1}
    assert off(got.numpy()) < 1e-3


def test_auto_rounds_only_where_it_is_allowed():
    quantized = {t.name for t in al.tiers() if t.quantized}
    for limit in (None, 0, 1e-3):
        assert al.explain(QUERY, KEY, VALUE, max_relative_error=limit).tier not in quantized
    reasons = {c.tier: c.reason for c in al.explain(QUERY, KEY, VALUE).candidates}
    assert "say max_relative_error" in reasons["int8"]


def test_a_negative_limit_is_refused():
    with pytest.raises(al.BadOption, match="max_relative_error is -0.1"):
        attend(max_relative_error=-0.1)
