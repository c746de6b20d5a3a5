"""Masked diffusion: the bound against distributions whose entropy is known; data, splits, noise."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.models.heads import Denoiser
from mambalab.settings.task import DiffusionSettings
from mambalab.spec import ModelSpec
from mambalab.tasks import pixels
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tasks.text import ShakespeareTask
from tests.conftest import NO_DROPOUT
from tests.lab import TEXT
from tests.tasks.chains import FIRST, LEVELS, MASK, SETTINGS, Chain, Exact, bound
from tests.tasks.toys import Colour, Fixed, Grey, build


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(pixels._KNOWN, "digits", Grey)
    monkeypatch.setitem(pixels._KNOWN, "cifar10", Colour)
    monkeypatch.setattr(ShakespeareTask, "read", lambda self: (TEXT, {"sha256": "0"}))
    return lambda **changes: build(DiffusionTask, SETTINGS, **changes)


class Random(nn.Module):
    """Other logits for every input, the same ones each time."""

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1]) + 1
        seeds = (tokens * places**3).sum(1).double()[:, None, None]
        grid = torch.arange(tokens.shape[1] * (MASK + 1)).view(1, tokens.shape[1], -1)
        return ((seeds + 1) * (grid + 7.3)).sin() * 3


def test_the_estimate_is_unbiased():
    """The mean over all that may be hidden is the integral over time, for any model."""
    chain = Chain(4)
    task, model, length = chain.task(), Random(), chain.length
    masks = torch.tensor(list(itertools.product([False, True], repeat=length)))
    integral = 0.0
    for mask in masks:
        values = chain.sequences.masked_fill(mask, MASK)
        tokens = torch.cat((torch.full((len(values), 1), FIRST), values), dim=1)
        losses = -model(tokens)[:, 1:, :LEVELS].log_softmax(-1)
        losses = losses.gather(2, chain.sequences[..., None])[..., 0][:, mask].sum(1)
        k = int(mask.sum())
        if k:  # the integral of 1/t * t^k * (1 - t)^(length - k) from 0 to 1
            weight = math.gamma(k) * math.gamma(length - k + 1) / math.gamma(length + 1)
            integral += weight * float((chain.p * losses).sum())
    assert bound(task, model, chain) == pytest.approx(integral, rel=1e-6)
    assert integral > 2 * chain.entropy


def test_the_bound_of_exact_conditionals_is_the_entropy():
    chain = Chain(4)
    assert bound(chain.task(), Exact(chain), chain) == pytest.approx(chain.entropy, rel=1e-6)


def test_what_is_measured_lies_around_the_exact_bound():
    chain = Chain(4)
    task, model = chain.task(val=chain.sequences.to(torch.uint8)), Random()
    even = Chain(4)
    even.p = torch.full_like(chain.p, 1 / len(chain.p))
    exact = bound(task, model, even) / 4
    task.settings = dataclasses.replace(task.settings, eval_samples=40, eval_batch_size=50)
    found = task.evaluate(model, "val")
    assert found == task.evaluate(model, "val")
    assert abs(found["val/loss"] - exact) < 3 * found["val/loss_stderr"]
    assert 0 < found["val/loss_stderr"] < 0.02 * exact
    two = dataclasses.replace(task.settings, eval_samples=2)
    task.settings = two
    assert abs(task.evaluate(model, "val")["val/loss"] - exact) < 0.1 * exact


@pytest.mark.parametrize(("pattern", "layers", "steps"), [("M", 1, 150), ("SF", 2, 250)])
def test_a_trained_model_comes_close_to_the_entropy_from_above(
    build_settings, pattern, layers, steps
):
    chain = Chain(6)
    task = chain.task(train=chain.draw(20_000, seed=1))
    task.settings = dataclasses.replace(task.settings, batch_size=128)
    torch.manual_seed(0)
    more = {"bidirectional": True, "position_embedding": True, "pattern": pattern}
    settings = build_settings(d_model=32, n_layer=layers, d_state=4, tie_embeddings=True, **more)
    model = Denoiser(settings, NO_DROPOUT, task.spec)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for position in range(steps):
        optimiser.zero_grad()
        task.loss(model, task.batch(position)).backward()
        optimiser.step()
        slower.step()
    found = bound(task, model.eval(), chain)
    assert chain.entropy < found < 1.05 * chain.entropy


def test_hidden_values_are_those_that_count(make):
    task = make(classes=True)
    assert task.spec == ModelSpec(17 + 3 + 1, 25, masked=True)
    assert task.spec.mask == 20
    inputs, targets = task.batch(3)
    hidden = inputs[:, 1:] == task.spec.mask
    assert torch.equal(inputs[:, 1:][~hidden], targets[~hidden])
    assert hidden.sum(1).tolist() != 4 * [24]
    source = build(PixelModelTask, SETTINGS, classes=True)
    first, values = source.batch(3)
    assert torch.equal(values, targets)
    assert torch.equal(first[:, 0], inputs[:, 0])
    model = Fixed(17, 21)
    each = -(torch.arange(1, 18).double() / (17 * 9)).log()[targets]
    expected = torch.stack([row[h].mean() for row, h in zip(each, hidden, strict=True)])
    assert float(task.loss(model, (inputs, targets))) == pytest.approx(float(expected.mean()))
    again = make(classes=True)
    assert torch.equal(again.batch(3)[0], inputs)  # what a resumed run gets
    assert not torch.equal(again.batch(4)[0], inputs)


def test_pictures_are_measured_in_the_units_of_pixels(make):
    task = make(eval_batch_size=4)
    model = Fixed(17, 19)
    found = task.evaluate(model, "val")
    assert found == pytest.approx(make(eval_batch_size=6).evaluate(model, "val"), rel=1e-9)
    assert found["val/bits_per_dim"] == pytest.approx(found["val/loss"] / math.log(2))
    assert found["val/nats_per_image"] == pytest.approx(24 * found["val/loss"])
    exact = build(PixelModelTask, SETTINGS).evaluate(Fixed(17, 18), "val")
    assert set(exact) | {"val/loss_stderr"} == set(found)
    assert abs(found["val/loss"] - exact["val/loss"]) < 5 * found["val/loss_stderr"]
    assert task.fingerprint() == build(PixelModelTask, SETTINGS).fingerprint()
    assert task.describe_data().startswith("diffusion of digits, 4 x 6, 17 levels; images: 34")
    assert (task.units_per_batch, task.unit, task.batches_per_epoch) == (4, "images", 34 / 4)
    assert task.loss_unit == "nats per value, upper bound"


def test_every_character_of_a_text_is_measured(make):
    task = make(data="text", seq_len=32, eval_samples=3, eval_batch_size=7)
    kinds = len(set(TEXT))
    assert task.spec == ModelSpec(kinds + 1, 32, masked=True)
    assert task.splits == ("train", "val", "train_sample")
    length = len(TEXT) - int(len(TEXT) * 0.9)
    assert length % 32
    parts = task._parts("val")
    assert torch.cat([part.flatten() for part in parts.values()]).tolist() == (
        task.source.split_tokens("val").tolist()
    )
    assert len(parts) == 2
    even = nn.Module()
    even.forward = lambda tokens: torch.zeros(*tokens.shape, kinds + 1)
    found = task.evaluate(even, "val")
    assert found["val/loss"] == pytest.approx(math.log(kinds))  # the mask takes no share of it
    assert found["val/bits_per_char"] == pytest.approx(math.log2(kinds))
    assert found["val/loss_stderr"] == pytest.approx(0, abs=1e-6)
    inputs, targets = task.batch(0)
    assert inputs.shape == targets.shape == (4, 32)
    assert task.source.tokenizer.decode(targets[0].tolist()) in TEXT[: int(len(TEXT) * 0.9)]
    assert task.unit == "tokens"
    assert task.loss_unit == "nats per character, upper bound"
    assert "diffusion of text, windows of 32, vocabulary of" in task.describe_data()


def test_half_of_an_example_is_hidden_to_look_at(make):
    for task in (make(), make(data="text", seq_len=31)):
        inputs, targets = task.half_hidden("val", 2)
        hidden = inputs[0, -task.length :] == task.spec.mask
        assert int(hidden.sum()) == (task.length + 1) // 2
        assert torch.equal(targets[0], task.shown("val")[2].long())
        assert torch.equal(inputs, task.half_hidden("val", 2)[0])


class Share:
    """One of two processes; they add up what `totals` holds."""

    def __init__(self, rank: int, totals: list[dict]) -> None:
        self.rank, self.totals, self.is_first = rank, totals, rank == 0

    def batches(self, batches, watch):
        yield from batches[self.rank :: 2]

    def sums(self, own):
        self.totals.append(own)
        return {key: sum(one[key] for one in self.totals) for key in own}


def test_two_processes_measure_what_one_does(make):
    task, model, totals = make(), Fixed(17, 19), []
    alone = task.evaluate(model, "val")
    assert task.shares
    for rank in (0, 1):
        task.shared = Share(rank, totals)
        found = task.evaluate(model, "val")
    assert not np.array_equal(totals[0]["nats"], totals[1]["nats"])
    assert found == pytest.approx(alone, rel=1e-9)
    halves = [task.part(task.batch(0), rank, 2) for rank in (0, 1)]
    for whole, one, two in zip(task.batch(0), *halves, strict=True):
        assert torch.equal(torch.cat((one, two)), whole)


def test_tuning_takes_the_splits_of_the_source(make):
    task = make(tune=True)
    assert task.tunes
    assert task.splits == ("train", "val", "train_sample")
    assert make(tune=True, data="text", seq_len=8).tunes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 8}, "task.seq_len=8: that is for task.data=text"),
        ({"data": "text", "classes": True}, "task.classes=true: that is for pictures"),
        ({"data": "text", "size": 8}, "task.size=8: that is for pictures"),
        ({"eval_samples": 1}, "task.eval_samples=1: must be at least 2"),
        ({"colour": True}, "task.colour=true: the pictures of task.data=digits are grey"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        unprepared(**changes)


def unprepared(**changes) -> DiffusionTask:
    chosen: DiffusionSettings = dataclasses.replace(SETTINGS, **changes)
    return DiffusionTask(chosen, seed=0, data_dir=Path("nowhere"), data_fraction=1.0)


def test_the_shape_is_known_before_the_data():
    assert unprepared().known_spec() == ModelSpec(19, 65, masked=True)
    assert unprepared(data="some/folder", classes=True).known_spec() is None
    assert unprepared(data="text").known_spec() is None
