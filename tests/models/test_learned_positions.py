"""Learned positions of language models: what is read in pieces is read as at once."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mambalab.errors import UserError
from mambalab.generation.cpu_decode import fused
from mambalab.generation.decoding import generate, stepper
from mambalab.generation.graph_decode import recorded
from mambalab.generation.sampling import Sampling
from mambalab.inspect import examples
from mambalab.models.heads import LanguageModel
from mambalab.models.state import ModelState
from mambalab.pretrained import export
from mambalab.pretrained.layout import Layout
from mambalab.spec import ModelSpec
from tests.conftest import NO_DROPOUT, SETTINGS, SPEC

FIXED = dataclasses.replace(SPEC, fixed=True)
PATTERNS = ["M", "A", "MA", "SF"]


def build(pattern: str, spec: ModelSpec = FIXED) -> LanguageModel:
    """A model whose positions change much, in evaluation mode."""
    torch.manual_seed(3)
    settings = dataclasses.replace(SETTINGS, pattern=pattern, n_layer=2, position_embedding=True)
    model = LanguageModel(settings, NO_DROPOUT, spec).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.normal_()
        model.backbone.positions.normal_()
    return model


@pytest.fixture
def tokens():
    torch.manual_seed(5)
    return torch.randint(17, (3, 24))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 11, 7]])
def test_pieces_are_read_as_at_once(pattern, pieces, tokens):
    model = build(pattern).double()
    whole, state = model(tokens), model.initial_state(3, 24)
    found = torch.cat([model(piece, state) for piece in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(found, whole, atol=1e-9, rtol=1e-9)
    assert state.read == [24, 24, 24]
    later = ModelState(model.initial_state(3, 24).layers, [5, 5, 5])  # only the place differs
    assert (model(tokens[:, :1], later) - whole[:, :1]).abs().max() > 1e-2


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("decoder", [stepper, fused, None])
@pytest.mark.parametrize("bf16", [False, True])
@torch.inference_mode()
def test_sequences_that_have_read_unequally_much_go_on_together(pattern, decoder, bf16, tokens):
    model, state = build(pattern), None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        state = model.initial_state(3, 24)
        for row, length in enumerate((3, 9, 1)):
            alone = model.initial_state(1, 24)
            model(tokens[row : row + 1, :length], alone)
            state.put(row, alone)
        assert state.read == [3, 9, 1]
        step = decoder(model, state, 3) if decoder else None
        for count in range(4):
            ahead = torch.stack([tokens[row, n + count] for row, n in enumerate((3, 9, 1))])
            logits = step(ahead) if step else model.last_logits(ahead[:, None], state)
            for row, length in enumerate((3, 9, 1)):
                until = tokens[row : row + 1, : length + count + 1]
                expected = model(until)[0, -1]
                close = {"atol": 0.15, "rtol": 0.05} if bf16 else {"atol": 2e-4, "rtol": 2e-4}
                torch.testing.assert_close(logits[row].float(), expected.float(), **close)
        assert state.read == [7, 13, 5]
        state.rewind(1, 10)
        assert state.read == [7, 10, 5]
        kept = state.detach()
        model.last_logits(ahead[:, None], state)
        assert kept.read == [7, 10, 5]
        assert state.read == [8, 11, 6]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_generation_equals_reading_everything_again(pattern, tokens):
    model = build(pattern)
    prompts = [tokens[0, :1], tokens[1, :7], tokens[2, :4]]
    found = torch.stack(
        list(generate(model, prompts, max_new_tokens=17, rules=Sampling(temperature=0.0))), 1
    )
    for prompt, written in zip(prompts, found, strict=True):
        with torch.inference_mode():
            for n in range(17):
                logits = model(torch.cat((prompt, written[:n]))[None])[0, -1]
                best = logits.topk(2).values
                assert logits[written[n]] > best[0] - 1e-3  # rounding may turn a tie


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_more_steps_than_positions(pattern, tokens):
    model = build(pattern)
    assert model.context_limit == 24
    with pytest.raises(ValueError, match="learnt 24 positions, not 25"):
        model(torch.cat((tokens, tokens[:, :1]), 1))
    with torch.inference_mode():
        state = model.initial_state(3, 30)
        model(tokens, state)
        step = fused(model, state, 3)
        for read in (step, lambda one: model(one[:, None], state)):
            with pytest.raises(ValueError, match="learnt 24 positions, not 25"):
                read(tokens[:, 0])


@pytest.mark.parametrize("pattern", ["A", "MA"])
@torch.inference_mode()
def test_a_call_that_fails_counts_nothing(pattern, tokens):
    model = build(pattern)
    state = model.initial_state(3, 4)
    model(tokens[:, :4], state)
    step = fused(model, state, 3)
    for read in (step, lambda one: model(one[:, None], state)):
        with pytest.raises(ValueError, match="cache holds 4 positions"):
            read(tokens[:, 4])
        assert state.read == [4, 4, 4]


def test_a_state_that_does_not_count_is_refused(tokens):
    model, counted = build("M"), build("M").initial_state(3, 24)
    state = ModelState(counted.layers)
    for wrong in (lambda: model(tokens, state), lambda: counted.put(0, state)):
        with pytest.raises(
            ValueError, match=r"with initial_state, or as ModelState\(layers, read\)"
        ):
            wrong()
    with torch.inference_mode():
        model(tokens[:, :5], counted)
        again = ModelState(counted.layers, [5, 5, 5])
        torch.testing.assert_close(model(tokens[:, 5:9], again), model(tokens[:, :9])[:, 5:])


@pytest.mark.parametrize("pattern", ["M", "A", "F"])
@pytest.mark.parametrize("length", [8, 20])
def test_a_pass_that_is_run_again_does_not_count_twice(pattern, length, tokens):
    model = build(pattern)
    state = model.initial_state(3, 24)
    found = checkpoint(lambda part: model(part, state), tokens[:, :length], use_reentrant=False)
    with pytest.raises(RuntimeError, match="activation checkpointing runs a layer again"):
        found.sum().backward()

    def whole(part):
        return model(part, model.initial_state(3, 24))

    checkpoint(whole, tokens, use_reentrant=False).square().sum().backward()
    grad = model.backbone.positions.grad
    model.zero_grad()
    model(tokens).square().sum().backward()
    torch.testing.assert_close(grad, model.backbone.positions.grad, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_recorded_step_goes_on_through_the_positions(tokens):
    model = build("M")
    states = [model.initial_state(3, 24) for _ in range(2)]
    for row, length in enumerate((3, 9, 1)):
        alone = model.initial_state(1, 24)
        model(tokens[row : row + 1, :length], alone)
        for state in states:
            state.put(row, alone)
    state, other = states
    step = recorded(model, state, 3, lambda step: step)
    for count in range(15):
        expected = model.last_logits(tokens[:, count, None], other)
        assert torch.equal(step(tokens[:, count]), expected)
        assert state.read == other.read == [4 + count, 10 + count, 2 + count]
    with pytest.raises(ValueError, match="learnt 24 positions, not 25"):
        step(tokens[:, 0])
    again = recorded(model, ModelState(state.layers), 3, lambda step: step)
    with pytest.raises(ValueError, match="does not say how much was read"):
        again(tokens[:, 0])


def test_what_knows_no_positions_says_so(tokens):
    settings = dataclasses.replace(SETTINGS, position_embedding=True)
    for layout in Layout:
        why = export.obstacle(build("M"), settings, layout)
        assert why == "has learned positions, which neither layout knows"
    given = SimpleNamespace(sequence=SimpleNamespace(labels=["a"] * 25, second=None))
    examples.check_length(given, None, attention=False)
    with pytest.raises(UserError, match="has 25 tokens, but this model was trained on 24"):
        examples.check_length(given, 24, attention=False)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo reads it
def test_compiled_pieces_have_their_positions(tokens):
    torch.compiler.reset()
    model = build("MA")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    state = model.initial_state(3, 24)
    found = torch.cat([compiled(piece, state) for piece in tokens[:, :10].split(5, 1)], 1)
    torch.testing.assert_close(found, model(tokens[:, :10]), atol=1e-4, rtol=1e-4)
    grads = torch.autograd.grad(found.square().sum(), [model.backbone.positions])[0]
    expected = model(tokens[:, :10]).square().sum()
    (wanted,) = torch.autograd.grad(expected, [model.backbone.positions])
    torch.testing.assert_close(grads, wanted, atol=1e-3, rtol=1e-3)
    assert wanted[:10].any(1).all()
    assert not wanted[10:].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
@torch.no_grad()
def test_a_captured_graph_goes_on_through_the_positions(tokens):
    model, tokens = build("M").cuda(), tokens.cuda()
    state, other = model.initial_state(3, 24), model.initial_state(3, 24)
    step = recorded(model, state, 3)
    assert step is not None
    for count in range(24):
        expected = model.last_logits(tokens[:, count, None], other)
        torch.testing.assert_close(step(tokens[:, count]), expected, atol=1e-3, rtol=1e-3)
