import warnings
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


class TestOldNames:
    """Names of the first version: they work, and say what they are called now."""

    @pytest.fixture
    def build(self, settings):
        """A function from methods to a task of a subclass with them, and what was warned of."""

        def build(**body) -> tuple[Task, list[str]]:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                kind = type("Mine", (Squares,), body)
            task = kind(settings(), seed=0, data_dir=Path("data"), data_fraction=1.0)
            task.prepare()
            return task, [str(one.message) for one in said]

        return build

    def test_a_subclass_that_overrides_an_old_name_is_called(self, build):
        def measure_in_detail(self, model, split):
            with pytest.warns(DeprecationWarning, match="is called measure_detailed now"):
                metrics, tables = super(type(self), self).measure_in_detail(model, split)
            return metrics, [*tables, {"kind": "mine"}]

        model = Model()
        mine, said = build(measure_in_detail=measure_in_detail)
        (line,) = said
        assert line.startswith("Mine.measure_in_detail is called measure_detailed now")
        metrics, tables = mine.evaluate_detailed(model, "val")
        assert tables == [{"kind": "mine"}]
        assert metrics == mine.evaluate(model, "val")
        mine, _ = build(examine=lambda self, model, split: "examined")
        assert mine.evaluate_detailed(model, "val") == "examined"
        mine, _ = build(each=lambda self, batches: reversed(batches))
        assert list(mine.eval_batches([1, 2])) == [2, 1]

    def test_an_old_name_finds_what_has_the_new_one(self, build):
        mine, said = build(measure_detailed=lambda self, model, split: ({}, ["new"]))
        assert said == []
        with pytest.warns(DeprecationWarning, match=r"Mine\.measure_in_detail is called"):
            assert mine.measure_in_detail(Model(), "val") == ({}, ["new"])
        with pytest.warns(DeprecationWarning, match=r"Task\.examine is called evaluate_detailed"):
            assert mine.examine(Model(), "val") == ({}, ["new"])

    def test_each_and_watch(self, task):
        seen = []
        with pytest.warns(DeprecationWarning, match="watch is called on_eval_batch now"):
            task.watch = lambda done, total: seen.append((done, total))
        with pytest.warns(DeprecationWarning, match="each is called eval_batches now"):
            assert list(task.each("ab")) == ["a", "b"]
        with pytest.warns(DeprecationWarning, match="watch is called"):
            assert task.watch is task.on_eval_batch
        assert seen == [(0, 2), (1, 2)]
