"""What any language model of ours must satisfy, whatever its layers."""

import pytest
import torch

from mambalab.models.heads import count_parameters

PATTERNS = ["M", "A", "MMA", "SF", "MMSF"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("pieces", [[1] * 24, [24], [5, 1, 18], [23, 1]])
def test_reading_in_pieces_equals_reading_whole(build_model, tokens, pattern, pieces):
    model = build_model(pattern=pattern)
    whole = model(tokens)
    state = model.initial_state(2, 24)
    parts = [model(piece, state=state) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_output_depends_on_a_later_input(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    embedded = []
    model.backbone.embedding.register_forward_hook(
        lambda _m, _i, out: embedded.append(out.requires_grad_()) or None
    )
    logits = model(tokens)
    for position in (0, 7, 22):
        (grad,) = torch.autograd.grad(logits[:, position].sum(), embedded[0], retain_graph=True)
        seen = grad.abs().sum((0, 2)) > 0
        assert seen[: position + 1].all()
        assert not seen[position + 1 :].any()


@pytest.mark.parametrize("d_model", [64, 128, 192, 256, 512])
@pytest.mark.parametrize("d_state", [8, 16])
def test_mamba_and_transformer_have_equally_many_parameters(build_model, d_model, d_state):
    sizes = {"d_model": d_model, "n_layer": 2, "d_state": d_state}
    with torch.device("meta"):
        mamba = count_parameters(build_model(pattern="M", **sizes))
        transformer = count_parameters(build_model(pattern="A", **sizes))
    assert abs(transformer / mamba - 1) <= 0.03


def test_tied_embeddings_are_one_tensor(build_model, tokens):
    model = build_model(tie_embeddings=True)
    assert model.lm_head.weight is model.backbone.embedding.weight
    untied = build_model()
    assert count_parameters(untied) - count_parameters(model) == 17 * 32
    model(tokens).sum().backward()
    assert model.lm_head.weight.grad is not None


def test_pattern_repeats_to_n_layer(build_model):
    model = build_model(pattern="MA", n_layer=5)
    kinds = [type(layer.mixer).__name__ for layer in model.backbone.layers]
    assert kinds == ["Mamba", "Attention", "Mamba", "Attention", "Mamba"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_parameter_learns(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    model(tokens).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_cache_that_is_too_small_says_so(build_model, tokens):
    model = build_model(pattern="A")
    state = model.initial_state(2, 10)
    with pytest.raises(ValueError, match="10 positions, not 24"):
        model(tokens, state=state)


def test_state_size_does_not_grow_for_mamba(build_model):
    mamba, attention = build_model(pattern="M"), build_model(pattern="A")
    assert mamba.initial_state(1, 10).bytes() == mamba.initial_state(1, 1000).bytes()
    assert attention.initial_state(1, 1000).bytes() == 100 * attention.initial_state(1, 10).bytes()
