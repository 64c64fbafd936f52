"""Every property of the judge, on every tier, on problems that hypothesis draws and shrinks."""

from __future__ import annotations

from dataclasses import replace

import attention_ladder as al
import numpy as np
import pytest
from attention_ladder._judge.cases import MASKS, Case
from attention_ladder._judge.function import Function
from attention_ladder._judge.properties import PROPERTIES
from attention_ladder._judge.reference import judge_logsumexp, judge_out, reference
from conftest import EXACT_TIERS
from harness import needs, normal, same_bits, weight_error, widen
from hypothesis import given, settings
from hypothesis import strategies as st

attend = al.scaled_dot_product_attention

# 1, and what lies around the sizes of vectors and tiles.
SIZE = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 129]))
HEAD_DIM = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 24, 32, 40, 64, 72]))


@st.composite
def cases(draw, whole):
    H = draw(st.integers(1, 3))
    case = dict(
        B=draw(st.integers(1, 3)),
        H=H,
        Hq=H * draw(st.integers(1, 3)),
        L=draw(SIZE),
        S=draw(SIZE),
        E=draw(HEAD_DIM),
        Ev=draw(HEAD_DIM),
        seed=draw(st.integers(0, 99)),
    )
    if whole:
        case["mask"] = draw(st.sampled_from(MASKS))
        case["causal"] = case["mask"] == "none" and draw(st.booleans())
        case["scale"] = draw(st.sampled_from([None, 0.3, -1.0, 0.0]))
        case["sharp"] = draw(st.sampled_from([1.0, 8.0]))
    return Case(**case)


def function(tier, dtype):
    def call(*arrays, **options):
        return attend(*arrays, **options, tier=tier)

    return Function(call, f"tier:{tier}", "numpy", dtype, weight_error=weight_error(tier, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda p: p.name)
def test_property(tier, dtype, prop):
    needs(tier, dtype)
    f = function(tier, dtype)
    examples = 40 if prop.whole else 8 if dtype == "float32" else 3

    @settings(max_examples=examples)
    @given(cases(prop.whole))
    def holds(case):
        verdict = prop.check(f, case)
        assert verdict is None or verdict.ok, f"{prop.says}; {case}: {verdict}"

    holds()


# ---- promises about bits, which only our own tiers make ------------------------------------------


def problem(rng, B=2, Hq=4, H=2, L=9, S=70, E=24, Ev=16, dtype="float32"):
    return (
        normal(rng, (B, Hq, L, E), dtype),
        normal(rng, (B, H, S, E), dtype),
        normal(rng, (B, H, S, Ev), dtype),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_element_or_head_alone_has_the_same_bits(tier, dtype, rng):
    q, k, v = problem(rng, dtype=dtype)
    whole = attend(q, k, v, enable_gqa=True, tier=tier)
    for b in range(2):
        one = slice(b, b + 1)
        assert same_bits(attend(q[one], k[one], v[one], enable_gqa=True, tier=tier), whole[one])
        for h in range(4):
            g = slice(h // 2, h // 2 + 1)
            alone = attend(q[one, h : h + 1], k[one, g], v[one, g], tier=tier)
            assert same_bits(alone, whole[one, h : h + 1])


def test_grouped_heads_have_the_bits_of_repeated_ones(tier, rng):
    q, k, v = problem(rng)
    repeated = attend(q, k.repeat(2, 1), v.repeat(2, 1), tier=tier)
    assert same_bits(attend(q, k, v, enable_gqa=True, tier=tier), repeated)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_broadcast_mask_has_the_bits_of_the_expanded_one(tier, kind, rng):
    q, k, v = problem(rng, H=4)
    full = (2, 4, 9, 70)
    for shape in [(70,), (9, 70), (9, 1), (4, 1, 70), (2, 1, 1, 70), (1, 4, 9, 1), (1, 1), ()]:
        mask = rng.random(shape) < 0.7 if kind == "bool" else rng.random(shape).astype(np.float32)
        mask = np.asarray(mask)
        expanded = np.broadcast_to(mask, full).copy()
        assert same_bits(attend(q, k, v, mask, tier=tier), attend(q, k, v, expanded, tier=tier)), (
            shape
        )


def test_a_power_of_two_moves_between_scale_and_query(tier, rng):
    q, k, v = problem(rng, H=4)
    assert same_bits(
        attend(q, k, v, scale=0.5, tier=tier), attend(q * 4, k, v, scale=0.125, tier=tier)
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_does_not_change_the_bits(tier, threads, rng):
    q, k, v = problem(rng, L=70)
    want = attend(q, k, v, enable_gqa=True, tier=tier)
    assert same_bits(attend(q, k, v, enable_gqa=True, tier=tier, threads=threads), want)


def test_a_call_that_met_nan_leaves_nothing_behind(tier, rng):
    q, k, v = problem(rng, H=4)
    want = attend(q, k, v, tier=tier)
    assert np.isnan(attend(q * np.nan, k, v, tier=tier)).all()
    assert same_bits(attend(q, k, v, tier=tier), want)


# ---- logsumexp -----------------------------------------------------------------------------------


@settings(max_examples=20)
@given(case=cases(whole=True))
@pytest.mark.parametrize("name", EXACT_TIERS)
def test_logsumexp_is_within_its_bound(name, case):
    from attention_ladder._judge.cases import draw

    f = function(name, "float32")
    x = draw(case, f)
    _, got = attend(
        f.give(x.query),
        f.give(x.key),
        f.give(x.value),
        f.give(x.mask),
        **case.options,
        tier=name,
        return_logsumexp=True,
    )
    want = reference(x.query, x.key, x.value, x.mask, case.rule, case.scale)
    verdict = judge_logsumexp(got, want, weight_error(name, "float32"))
    assert verdict.ok, f"{case}: {verdict}"


@pytest.mark.parametrize("cut", [1, 8, 33, 69])
def test_two_halves_of_the_keys_merge_by_their_logsumexp(tier, cut, rng):
    q, k, v = problem(rng, H=4)
    halves = [
        attend(q, k[:, :, part], v[:, :, part], tier=tier, return_logsumexp=True)
        for part in (slice(0, cut), slice(cut, None))
    ]
    (one, a), (other, b) = [(widen(out), widen(lse)[..., None]) for out, lse in halves]
    total = np.logaddexp(a, b)
    merged = one * np.exp(a - total) + other * np.exp(b - total)
    want = reference(widen(q), widen(k), widen(v))
    verdict = judge_out(
        merged / 2,
        replace(want, out=want.out / 2),
        weight_error(tier, "float32"),
    )
    assert verdict.ok, verdict


def test_lower_right_is_the_suffix_of_a_longer_call(tier, rng):
    q, k, v = problem(rng, H=4, L=70, S=70)
    whole = attend(q, k, v, is_causal=True, tier=tier)
    last = attend(q[:, :, -5:], k, v, causal="lower_right", tier=tier)
    np.testing.assert_allclose(last, whole[:, :, -5:], rtol=1e-5, atol=1e-6)


def test_a_mask_and_a_causal_rule_both_apply(tier, rng):
    q, k, v = problem(rng, H=4, L=9, S=9)
    mask = rng.random((9, 9)) < 0.7
    got = attend(q, k, v, mask, causal="upper_left", tier=tier)
    assert same_bits(got, attend(q, k, v, mask & np.tril(mask | True), tier=tier)) or np.allclose(
        got, attend(q, k, v, np.tril(mask), tier=tier), rtol=1e-5, atol=1e-6
    )
