"""Classifiers: what they see, how they pool, and that padding changes nothing."""

import dataclasses

import pytest
import torch

from mambalab.errors import UserError
from mambalab.models.heads import (
    Classifier,
    Denoiser,
    LanguageModel,
    PairClassifier,
    head_class,
    pool,
)
from mambalab.models.mamba import parameter_count, reverse
from mambalab.settings.model import DropoutSettings, Pooling
from mambalab.spec import ModelSpec
from tests.conftest import NO_DROPOUT, SETTINGS

TOKENS = ModelSpec(vocab_size=17, seq_len=24, classes=5)
VECTORS = ModelSpec(vocab_size=0, seq_len=24, input_dim=3, classes=5)
HIDDEN = ModelSpec(vocab_size=17, seq_len=24, masked=True)
PAIRS = ModelSpec(vocab_size=17, seq_len=24, classes=2, pair=True)
MODELS = {
    "mamba": {"pattern": "M"},
    "bidirectional": {"pattern": "M", "bidirectional": True},
    "equal depth": {"pattern": "A"},
    "transformer": {"pattern": "SF", "n_layer": 2, "qk_norm": True},
    "hybrid": {"pattern": "MMA", "bidirectional": True},
}


def build(spec, dropout=NO_DROPOUT, **changes):
    torch.manual_seed(0)
    settings = dataclasses.replace(SETTINGS, **changes)
    model = head_class(spec)(settings, dropout, spec).eval()
    with torch.no_grad():  # large enough that every layer matters
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 3
    return model


def example(spec, batch=4, length=24):
    make = torch.Generator().manual_seed(1)
    shape = (batch, 2, length) if spec.pair else (batch, length)
    if spec.input_dim:
        return torch.randn(*shape, spec.input_dim, generator=make)
    return torch.randint(1, spec.vocab_size, shape, generator=make)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("spec", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_a_padded_batch_equals_its_sequences_one_by_one(name, pooling, spec):
    model = build(spec, pooling=pooling, **MODELS[name])
    inputs = example(spec)
    lengths = torch.tensor([24, 1, 7, 23])
    alone = [model(inputs[i : i + 1, :n]) for i, n in enumerate(lengths)]
    padded = inputs.clone()
    for row, n in zip(padded, lengths, strict=True):
        row[n:] = 0
    for filled in (inputs, padded):  # whatever lies in the padding
        torch.testing.assert_close(model(filled, lengths), torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_padding_gets_no_gradient(name):
    model = build(VECTORS, **MODELS[name])
    inputs = example(VECTORS).requires_grad_()
    lengths = torch.tensor([24, 1, 7, 23])
    (grad,) = torch.autograd.grad(model(inputs, lengths).square().sum(), inputs)
    for row, n in zip(grad, lengths, strict=True):
        assert not row[n:].any()
        assert row[:n].abs().sum(-1).gt(0).all()


@pytest.mark.parametrize("name", MODELS)
def test_pairs_equal_their_documents_one_by_one(name):
    model = build(PAIRS, **MODELS[name])
    inputs, lengths = example(PAIRS), torch.tensor([[24, 3], [1, 24], [5, 5], [24, 24]])
    found = model(inputs, lengths)
    for i, (first, second) in enumerate(lengths):
        long = max(first, second)
        one = model(inputs[i : i + 1, :, :long], lengths[i : i + 1])
        torch.testing.assert_close(one, found[i : i + 1], rtol=1e-5, atol=1e-5)
    unpadded = model(inputs[3:])
    torch.testing.assert_close(unpadded, found[3:], rtol=1e-5, atol=1e-5)
    assert (model(inputs.flip(1), lengths.flip(1)) - found).abs().max() > 1e-3, "order matters"


def test_who_sees_what():
    """By the gradient of a step's features with respect to the inputs."""
    for name, sees_ahead in (("mamba", False), ("bidirectional", True), ("transformer", True)):
        model = build(VECTORS, **MODELS[name])
        inputs = example(VECTORS, batch=1).requires_grad_()
        features = model.backbone(inputs)
        (grad,) = torch.autograd.grad(features[0, 5].square().sum(), inputs)
        reached = grad[0].abs().sum(-1) > 0
        assert reached[:6].all()
        assert reached[6:].any() == sees_ahead, name


def test_reverse_is_its_own_inverse_and_leaves_padding_alone():
    x = torch.arange(24.0).view(2, 6, 2)
    lengths = torch.tensor([4, 6])
    turned = reverse(x, lengths)
    assert torch.equal(turned[0, :4], x[0, :4].flip(0))
    assert torch.equal(turned[0, 4:], x[0, 4:])
    assert torch.equal(turned[1], x[1].flip(0))
    assert torch.equal(reverse(turned, lengths), x)
    assert torch.equal(reverse(x, None), x.flip(1))


def test_pooling_by_hand():
    x = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    three = torch.tensor([3])
    for pooling, whole, part in ((Pooling.mean, 4.5, 3.0), (Pooling.last, 9.0, 3.0)):
        assert pool(x, None, pooling).item() == whole
        assert pool(x, three, pooling).item() == part
    assert pool(x, None, Pooling.max).item() == 9.0
    assert pool(x, three, Pooling.max).item() == 5.0


def test_the_task_chooses_the_head():
    assert head_class(ModelSpec(vocab_size=5, seq_len=3)) is LanguageModel
    assert head_class(HIDDEN) is Denoiser
    assert head_class(TOKENS) is Classifier
    assert head_class(PAIRS) is PairClassifier


def test_learned_positions_tell_steps_apart():
    inputs = torch.ones(1, 24, 3)
    plain = build(VECTORS, pattern="A").backbone(inputs)
    torch.testing.assert_close(plain[0, 0], plain[0, 20])
    model = build(VECTORS, pattern="A", position_embedding=True)
    placed = model.backbone(inputs)
    assert (placed[0, 0] - placed[0, 20]).abs().max() > 1e-2
    shorter = model.backbone(inputs[:, :7])
    assert shorter.shape == (1, 7, SETTINGS.d_model)


@pytest.mark.parametrize(("key", "pattern"), [("bidirectional", "M"), ("position_embedding", "A")])
def test_next_token_prediction_refuses_what_it_cannot_use(key, pattern):
    spec = ModelSpec(vocab_size=5, seq_len=3)
    settings = dataclasses.replace(SETTINGS, pattern=pattern, **{key: True})
    with pytest.raises(UserError, match=rf"model\.{key}=true: "):
        LanguageModel(settings, NO_DROPOUT, spec)


@pytest.mark.parametrize("name", ["bidirectional", "equal depth", "transformer", "hybrid"])
def test_a_hidden_token_is_told_from_both_sides(name):
    model = build(HIDDEN, tie_embeddings=True, **MODELS[name])
    assert model.lm_head.weight is model.backbone.embedding.weight
    tokens = example(HIDDEN, batch=1)
    tokens[0, 9] = HIDDEN.mask
    before = model(tokens)[0, 9]
    assert before.shape == (17,)
    for place in (0, 23):
        other = tokens.clone()
        other[0, place] = (tokens[0, place] + 1) % 16
        assert (model(other)[0, 9] - before).abs().max() > 1e-4, place


def test_one_way_is_not_enough_to_fill_in():
    with pytest.raises(UserError, match=r"model\.bidirectional=false: .* reads one way only; use"):
        build(HIDDEN, pattern="M")
    build(HIDDEN, pattern="MA")  # whose attention sees everything


@pytest.mark.parametrize("pattern", ["A", "SF"])
def test_a_denoiser_without_mamba_is_as_large_as_one_that_reads_both_ways(pattern):
    options = {"d_model": 64, "n_layer": 2}
    mamba = build(HIDDEN, pattern="M", bidirectional=True, **options)
    other = build(HIDDEN, pattern=pattern, **options)
    counts = [sum(p.numel() for p in m.parameters()) for m in (mamba, other)]
    assert abs(counts[1] / counts[0] - 1) < 0.03


@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameters_are_counted_right_and_matched(bidirectional):
    settings = dataclasses.replace(SETTINGS, d_model=128, bidirectional=bidirectional)
    mamba = Classifier(settings, NO_DROPOUT, VECTORS)
    counted = sum(p.numel() for p in mamba.backbone.layers[0].mixer.parameters())
    assert counted == parameter_count(settings)
    other = Classifier(dataclasses.replace(settings, pattern="A"), NO_DROPOUT, VECTORS)
    counts = [sum(p.numel() for p in m.parameters()) for m in (mamba, other)]
    assert abs(counts[1] / counts[0] - 1) < 0.03


def test_both_directions_learn_and_drop():
    dropout = DropoutSettings(name="ssm", p=0.0, ssm_p=0.5, reset_A=True)
    model = build(VECTORS, dropout, pattern="M", bidirectional=True).train()
    inputs = example(VECTORS)
    torch.manual_seed(0)
    first = model(inputs)
    assert not torch.equal(first, model(inputs)), "dropout is random"
    first.square().sum().backward()
    reverse_ssm = model.backbone.layers[0].mixer.reverse
    assert reverse_ssm.dropout.p == 0.5
    for name, parameter in reverse_ssm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
