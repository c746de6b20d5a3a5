"""A stop is heard within one long batch, and leaves the step before it."""

import pytest
import torch

from mambalab.runs.build import build_model
from mambalab.spec import ModelSpec
from mambalab.train import checkpoint, listening, loop
from mambalab.train.progress import StoppedError
from tests.lab import TINY, compose
from tests.train.test_loop import weights_of
from tests.train.toy import trainer

SPEC = ModelSpec(vocab_size=7, seq_len=16)
TOKENS = torch.arange(32).view(2, 16) % 7


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


class Asked:
    """Asks to stop from the n-th look on; counts the looks."""

    def __init__(self, after=10**9):
        self.after = after
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return "SIGTERM" if self.looks > self.after else None


@pytest.fixture(params=["mamba", "transformer"])
def model(request):
    settings = compose("train", [*TINY, f"model={request.param}"])
    torch.manual_seed(0)
    return build_model(settings, SPEC)


def passes(model, asked):
    """Gradients of one batch, and the looks that forward took."""
    torch.manual_seed(0)
    with listening.listening(model, asked) as before_backward, autocast():
        loss = model(TOKENS).float().square().mean()
        forward = asked.looks
        before_backward(loss)
        loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], forward


def test_it_is_heard_at_every_layer_forwards_and_backwards(model, monkeypatch):
    monkeypatch.setattr(listening, "GRACE_SECONDS", 0.0)
    whole = Asked()
    gradients, forward = passes(model, whole)
    assert forward > 8
    assert whole.looks > forward + 10
    for after in (0, forward // 2, forward, (forward + whole.looks) // 2, whole.looks - 1):
        with pytest.raises(StoppedError, match="SIGTERM"):
            passes(model, Asked(after))
    model.zero_grad()
    monkeypatch.setattr(listening, "GRACE_SECONDS", 3600.0)
    again, _ = passes(model, Asked(0))  # what is short ends whole
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_changes_no_bit(model):
    heard, _ = passes(model, Asked())
    model.zero_grad()
    torch.manual_seed(0)
    with autocast():
        loss = model(TOKENS).float().square().mean()
    loss.backward()
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(heard, plain, strict=True))


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("looks", [2, 5, 9, 12])
def test_a_batch_given_up_leaves_the_whole_step_before_it(tmp_path, monkeypatch, step, looks):
    monkeypatch.setattr(loop, "LONG_SECONDS", 0.0)
    whole, lines = trainer(tmp_path / "whole")
    whole.run()
    monkeypatch.setattr(listening, "GRACE_SECONDS", 0.0)
    first, before = trainer(tmp_path / "cut")
    asked = Asked(looks)
    first.stop_requested = lambda: asked() if first.state.step == step else None
    result = first.run()
    assert (result.status, result.step) == ("KILLED", step)
    assert all(p.grad is None for p in first.model.parameters())
    monkeypatch.undo()
    second, after = trainer(tmp_path / "cut")
    second.restore(checkpoint.find(tmp_path / "cut", "last"))
    second.run()
    assert before.rows + after.rows == lines.rows
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(second)[name]), name


def test_short_steps_and_compiled_models_are_left_alone(tmp_path):
    run, _ = trainer(tmp_path)
    assert run._listens()  # nobody knows how long the first step takes
    run.state.clock.step_took(0.1)
    run.last_step_seconds = 0.1
    assert not run._listens()
    run.last_step_seconds = 2.0
    assert run._listens()
