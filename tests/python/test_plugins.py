"""Where users plug an attention in: transformers' registry, diffusers' processors."""

from __future__ import annotations

import attention_ladder as al
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the plug-ins are not tested")


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    torch.manual_seed(5)
    with torch.no_grad():
        yield


# ---- transformers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plugin():
    pytest.importorskip("transformers", reason="transformers is not installed")
    from attention_ladder.plugins import transformers as plugin

    plugin.register()
    return plugin


SMALL = dict(
    vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=2)


def mistral_with_window():
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=3)


def bert():
    from transformers import BertConfig, BertModel

    return BertModel, BertConfig(**SMALL)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel, GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64
    )


MODELS = {f.__name__: f for f in (llama, mistral_with_window, bert, gpt2)}


def build(make, implementation):
    cls, config = make()
    torch.manual_seed(5)
    config._attn_implementation = implementation
    model = cls(config).eval()
    assert model.config._attn_implementation == implementation
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_models_of_transformers_give_the_same(plugin, name, padding):
    tokens = torch.randint(0, 99, (3, 11))
    mask = torch.ones_like(tokens)
    if padding == "left":
        mask[1, :4] = 0
    elif padding == "right":
        mask[1, 7:] = 0
    ours, eager = build(MODELS[name], plugin.NAME), build(MODELS[name], "eager")
    got, want = ours(tokens, attention_mask=mask)[0], eager(tokens, attention_mask=mask)[0]
    seen = mask.bool()  # rows of padding hold whatever the implementation likes
    torch.testing.assert_close(got[seen], want[seen], atol=2e-6, rtol=1e-4)
    assert al.stats().ran == {"auto": 2} and al.stats().torch == {}


@pytest.mark.parametrize("name", ["llama", "mistral_with_window", "gpt2"])
def test_generating_with_a_cache_gives_the_same_tokens(plugin, name):
    tokens = torch.randint(3, 99, (2, 7))
    options = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    ours = build(MODELS[name], plugin.NAME).generate(tokens, **options)
    assert al.stats().ran["auto"] >= 16 and al.stats().torch == {}
    assert torch.equal(ours, build(MODELS[name], "eager").generate(tokens, **options))


def test_a_causal_model_does_not_see_the_future(plugin):
    """What would be lost without the mask function (registered together with ours)."""
    model = build(llama, plugin.NAME)
    tokens = torch.randint(0, 99, (1, 9))
    changed = tokens.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 99
    a, b = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(a[:, :6], b[:, :6])
    assert not torch.allclose(a[:, 6:], b[:, 6:])


def test_a_tier_is_chosen_around_a_model(plugin):
    model = build(llama, plugin.NAME)
    with al.attention(tier="literal"):
        model(torch.randint(0, 99, (1, 5)))
    assert al.stats().ran == {"literal": 2}


def test_what_it_lacks_is_refused(plugin):
    q = torch.randn(1, 4, 5, 8)
    for name in plugin.REFUSED:
        with pytest.raises(al.Unsupported, match=name):
            plugin.forward(torch.nn.Module(), q, q, q, None, **{name: 3.0})


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_a_position_bias_is_added(plugin, mask):
    q = torch.randn(2, 4, 5, 8)
    bias = torch.randn(1, 4, 5, 5)
    visible = torch.rand(2, 1, 5, 5) < 0.7
    given = {
        "none": None,
        "bool": visible,
        "float": torch.zeros(2, 1, 5, 5).masked_fill(~visible, -1e9),
    }
    out, _ = plugin.forward(torch.nn.Module(), q, q, q, given[mask], position_bias=bias)
    shown = torch.ones(5, 5, dtype=torch.bool).tril() if mask == "none" else visible
    want = torch._C._nn.scaled_dot_product_attention(
        q, q, q, bias.masked_fill(~shown, float("-inf"))
    )
    torch.testing.assert_close(out, want.transpose(1, 2))


# ---- diffusers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["self", "cross", "image", "masked", "normed"])
def test_the_processor_for_diffusers_gives_the_same(case):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    from attention_ladder.plugins.diffusers import LadderAttnProcessor
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    options = {
        "cross": dict(cross_attention_dim=24),
        "image": dict(norm_num_groups=4, residual_connection=True, rescale_output_factor=1.4),
        "normed": dict(qk_norm="layer_norm"),
    }.get(case, {})
    layer = Attention(query_dim=32, heads=4, dim_head=8, **options).eval()
    x = torch.randn(2, 32, 3, 5) if case == "image" else torch.randn(2, 15, 32)
    given = {}
    if case == "cross":
        given["encoder_hidden_states"] = torch.randn(2, 7, 24)
    if case == "masked":
        given["attention_mask"] = torch.zeros(2, 1, 15).masked_fill(
            torch.rand(2, 1, 15) < 0.3, -1e4
        )
    layer.set_processor(AttnProcessor2_0())
    want = layer(x, **given)
    layer.set_processor(LadderAttnProcessor(tier="literal"))
    torch.testing.assert_close(layer(x, **given), want, atol=2e-6, rtol=1e-5)
    assert al.stats().ran == {"literal": 1}


def test_the_processor_refuses_a_tier_that_is_not_there():
    from attention_ladder.plugins.diffusers import LadderAttnProcessor

    with pytest.raises(al.BadOption, match="none"):
        LadderAttnProcessor(tier="none")
