from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mambalab.errors import UserError
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task
from mambalab.tasks.sampling import draw


class Squares(Task):
    """The example of the base class's documentation."""

    def prepare(self, device="cpu"):
        self.table = torch.arange(100, device=device) ** 2 % 10
        self.spec = ModelSpec(vocab_size=10, seq_len=16)

    def batch(self, position):
        starts = draw(self.seed, position, count=self.settings.batch_size, bound=80)
        rows = torch.from_numpy(starts)[:, None] + torch.arange(17)
        window = self.table[rows.to(self.table.device)]
        return window[:, :-1], window[:, 1:]

    def loss(self, model, batch):
        inputs, targets = batch
        return F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())

    def measure(self, model, split):
        assert not model.training
        assert not torch.is_grad_enabled()
        whole = self.table[None, :-1], self.table[None, 1:]
        return {f"{split}/loss": self.loss(model, whole).item()}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 10)
        self.frozen = nn.Dropout(0.5).eval()
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens):
        return self.dropout(self.frozen(self.table(tokens)))


@pytest.fixture
def task(settings):
    task = Squares(settings(), seed=0, data_dir=Path("data"), data_fraction=1.0)
    task.prepare()
    return task


def test_four_methods_make_a_task(task):
    model = Model()
    batch = task.batch(3)
    assert torch.equal(batch[0], task.batch(3)[0])
    assert not torch.equal(batch[0], task.batch(4)[0])
    task.loss(model, batch).backward()
    assert model.table.weight.grad is not None
    assert task.name == "text"
    assert task.items_per_batch == 4 * task.spec.seq_len
    assert task.fingerprint() == {}
    assert task.assets() == {}


def test_evaluate_is_deterministic_and_restores_every_mode(task):
    model = Model()
    assert task.evaluate(model, "val") == task.evaluate(model, "val")
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_evaluate_restores_modes_after_a_failure(task):
    model = Model()
    task.table = task.table + 100
    with pytest.raises(IndexError):
        task.evaluate(model, "val")
    assert model.training
    assert torch.is_grad_enabled()


def test_an_unknown_split_is_refused_with_the_known_ones(task):
    with pytest.raises(UserError, match="task text has no split 'test'; it has: train, val"):
        task.evaluate(Model(), "test")


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01, float("nan")])
def test_a_data_fraction_out_of_range_is_refused(settings, fraction):
    with pytest.raises(UserError, match=r"data_fraction=.* above 0 and at most 1"):
        Squares(settings(), seed=0, data_dir=Path("data"), data_fraction=fraction)


@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size"])
def test_settings_out_of_range_are_refused(settings, key):
    with pytest.raises(UserError, match=f"task.{key}=0: must be at least 1"):
        Squares(settings(**{key: 0}), seed=0, data_dir=Path("data"), data_fraction=1.0)
