"""What is recorded is what the model computes with."""

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.inspect.trace import AttentionTrace, ScanTrace, attention_weights, record, state_norms
from mambalab.models import mamba
from mambalab.models.attention import Attention
from mambalab.models.heads import Classifier, PairClassifier
from mambalab.ops.reference import selective_scan_reference, softplus
from mambalab.spec import ModelSpec
from tests.conftest import NO_DROPOUT


@pytest.fixture
def received(monkeypatch):
    """What the model hands to `selective_scan`, call by call: delta, A."""
    calls = []
    original = mamba.selective_scan

    def listen(u, delta, A, *args, **options):
        bias = options["delta_bias"]
        calls.append((softplus(delta if bias is None else delta + bias)[0], A))
        return original(u, delta, A, *args, **options)

    monkeypatch.setattr(mamba, "selective_scan", listen)
    return calls


def train_a_little(model):
    """Move every parameter, so that nothing is as it was initialised."""
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    return model


def test_delta_and_A_are_what_the_scan_receives(build_model, tokens, received):
    model = train_a_little(build_model())
    output, layers = record(model, tokens[:1])
    assert [layer.name for layer in layers] == [f"layer {n}, Mamba" for n in (1, 2, 3)]
    for layer, (delta, A) in zip(layers, received, strict=True):
        np.testing.assert_allclose(layer.delta, delta, rtol=1e-5)
        np.testing.assert_allclose(layer.A, A, rtol=1e-6)
        assert abs(layer.A_log_shift).max() > 0.1
    torch.testing.assert_close(output, model(tokens[:1]))


@pytest.mark.parametrize("kind", ["hook", "no bias", "another layer"])
def test_delta_of_a_changed_dt_proj_is_what_the_scan_receives(build_model, tokens, received, kind):
    model = train_a_little(build_model(n_layer=1))
    (block,) = model.backbone.layers
    before = record(model, tokens[:1])[1][0].delta
    if kind == "hook":
        block.mixer.dt_proj.register_forward_hook(lambda *args: 2 * args[-1])
    elif kind == "no bias":
        block.mixer.dt_proj.bias = None
    else:  # as an adapter or a quantised layer: no `weight`
        block.mixer.dt_proj = nn.Sequential(block.mixer.dt_proj, nn.Softsign())
    (layer,) = record(model, tokens[:1])[1]
    np.testing.assert_allclose(layer.delta, received[-1][0], rtol=1e-5)
    assert abs(layer.delta - before).max() > 0.1


def test_both_directions_are_in_the_order_of_the_sequence(build_settings, received):
    spec = ModelSpec(0, 10, input_dim=3, classes=4)
    model = Classifier(build_settings(bidirectional=True, n_layer=2), NO_DROPOUT, spec).eval()
    _, layers = record(model, torch.randn(1, 10, 3))
    assert [(layer.layer, layer.backward) for layer in layers] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    for layer, (delta, _) in zip(layers, received, strict=True):
        expected = delta.flip(0) if layer.backward else delta
        np.testing.assert_allclose(layer.delta, expected, rtol=1e-5)
    first = layers[1].norm  # the direction that begins at the end has seen most at the start
    assert first[-1].sum() < first[0].sum()


@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_a_pair_is_traced_as_two_sequences_without_padding(build_settings, pattern):
    spec = ModelSpec(17, 9, classes=2, pair=True)
    settings = build_settings(bidirectional=True, n_layer=2, pattern=pattern)
    model = train_a_little(PairClassifier(settings, NO_DROPOUT, spec)).eval()
    tokens, lengths = torch.randint(17, (1, 2, 9)), torch.tensor([[9, 5]])
    output, layers = record(model, tokens, lengths)
    torch.testing.assert_close(output, model(tokens, lengths))
    _, alone = record(model, tokens[:, :, :5])  # the second text without its padding
    for whole, part in zip(layers, alone, strict=True):
        if isinstance(whole, ScanTrace):
            assert whole.delta.shape[0] == whole.norm.shape[0] == 14
            np.testing.assert_allclose(whole.delta[9:], part.delta[5:], rtol=1e-4)
            np.testing.assert_allclose(whole.norm[9:], part.norm[5:], rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_allclose(whole.weights.sum(-1), 1, rtol=1e-5)
            assert not whole.weights[:, :9, 9:].any()
            assert not whole.weights[:, 9:, :9].any()
            np.testing.assert_allclose(whole.weights[:, 9:, 9:], part.weights[:, 5:, 5:], rtol=1e-4)


def test_only_the_layers_asked_for(build_model, tokens):
    _, layers = record(build_model(pattern="MMA"), tokens[:1], layers=[3, 1])
    assert [layer.layer for layer in layers] == [1, 3]
    with pytest.raises(UserError, match=r"layers=\[2, 4\]: this model has the layers 1 to 3"):
        record(build_model(), tokens[:1], layers=[2, 4])


def test_a_new_model_has_not_moved(build_model, tokens):
    _, layers = record(build_model(), tokens[:1])
    assert all(abs(layer.A_log_shift).max() == 0 for layer in layers)


def test_norms_are_those_of_the_reference_states():
    torch.manual_seed(0)
    u, delta = torch.randn(2, 1, 7, 4, dtype=torch.float64).unbind(0)
    delta, A = delta.abs(), -torch.rand(4, 3, dtype=torch.float64)
    B, C = torch.randn(2, 1, 7, 3, dtype=torch.float64).unbind(0)
    norms = state_norms(u, delta, A, B, C, backend="torch")
    for t in range(7):
        now = slice(0, t + 1)
        _, state = selective_scan_reference(u[:, now], delta[:, now], A, B[:, now], C[:, now])
        torch.testing.assert_close(norms[:, t], state.norm(dim=-1))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_weights_give_what_fused_attention_gave(build_settings, causal):
    torch.manual_seed(0)
    attention = Attention(build_settings(d_model=32, n_head=4), causal)
    heard = []
    attention.out_proj.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    hidden = torch.randn(2, 9, 32)
    attention(hidden)  # out_proj receives scaled_dot_product_attention's output
    qkv = attention.in_proj(hidden)
    weights = attention_weights(attention, qkv)
    value = qkv.view(2, 9, 3, 4, 8)[:, :, 2].transpose(1, 2)
    torch.testing.assert_close((weights @ value).transpose(1, 2).flatten(2), heard[0])
    assert (weights.triu(1) == 0).all() == causal


def test_hybrids_show_each_layer_by_its_kind(build_model, tokens):
    _, layers = record(build_model(pattern="MMA"), tokens[:1])
    assert [type(layer) for layer in layers] == [ScanTrace, ScanTrace, AttentionTrace]
    assert layers[2].weights.shape == (1, 24, 24)
    np.testing.assert_allclose(layers[2].weights.sum(-1), 1, rtol=1e-5)


def test_no_hook_stays(build_model, tokens):
    model = build_model(pattern="MA")
    record(model, tokens[:1])
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_our_layers():
    with pytest.raises(UserError, match="Linear has no Mamba or Attention layer"):
        record(nn.Linear(3, 3).eval(), torch.zeros(1, 3))
