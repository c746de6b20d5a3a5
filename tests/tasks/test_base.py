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
from mambalab.utils.renamed import current


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
    assert task.describe_data() == "text, vocabulary of 10, sequences of 16 steps"
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

    def test_a_mixin_and_a_class_in_between_are_called(self, settings):
        with pytest.warns(DeprecationWarning, match=r"Extra\.measure_in_detail is called"):
            Between, Leaf, Extra = between()
        for kind, tables in ((Between, ["extra"]), (Leaf, ["extra", "leaf"])):
            task = prepared(kind, settings)
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                assert task.evaluate_detailed(Model(), "val")[1] == tables
        # A mixin that comes after the task is overridden by it, as ever.
        after = prepared(type("After", (Squares, Extra), {}), settings)
        assert after.evaluate_detailed(Model(), "val")[1] == []

    @pytest.mark.parametrize("old", ["measure_in_detail", "examine"])
    def test_one_set_on_the_instance_is_called(self, task, old):
        with pytest.warns(DeprecationWarning, match=f"Task.{old} is called"):
            given = getattr(task, old)

        def mine(model, split):
            metrics, tables = given(model, split)
            return metrics, [*tables, "mine"]

        setattr(task, old, mine)
        new = {"measure_in_detail": "measure_detailed", "examine": "evaluate_detailed"}[old]
        with pytest.warns(DeprecationWarning, match=f"Squares.{old} is called {new} now"):
            found = current(task, "evaluate_detailed", "examine")(Model(), "val")
        assert found[1] == ["mine"]
        assert getattr(task, old) is mine

    @pytest.mark.filterwarnings("ignore:.* the old name goes:DeprecationWarning")
    @pytest.mark.parametrize("own", [{}, {"measure_detailed": lambda self, model, split: 1}])
    def test_one_set_on_a_class_afterwards_is_called(self, build, settings, monkeypatch, own):
        task, _ = build(**own)
        model = Model()
        before = task.evaluate_detailed(model, "val")
        with monkeypatch.context() as patch:
            patch.setattr(type(task), "measure_in_detail", lambda self, model, split: "late")
            with pytest.warns(DeprecationWarning, match=r"Mine\.measure_in_detail is called"):
                assert task.evaluate_detailed(Model(), "val") == "late"
            below = prepared(type("Below", (type(task),), {}), settings)
            with pytest.warns(DeprecationWarning, match=r"Mine\.measure_in_detail is called"):
                assert below.evaluate_detailed(Model(), "val") == "late"
        assert task.evaluate_detailed(model, "val") == before
        monkeypatch.setattr(Task, "examine", lambda self, model, split: "patched")
        with pytest.warns(DeprecationWarning, match=r"Task\.examine is called"):
            assert current(task, "evaluate_detailed", "examine")(Model(), "val") == "patched"

    def test_each_is_called_by_the_measurements_of_ours(self, settings):
        seen = []

        class Counting:
            def each(self, batches):
                seen.append(len(batches))
                with pytest.warns(DeprecationWarning, match="each is called eval_batches now"):
                    old = super().each
                yield from old(batches)

        with pytest.warns(DeprecationWarning, match=r"Counting\.each is called eval_batches now"):

            class Mine(Counting, Squares):
                pass

        assert list(prepared(Mine, settings).eval_batches("ab")) == ["a", "b"]
        task = prepared(Squares, settings)
        task.each = lambda batches: seen.append("mine") or iter(batches)
        with pytest.warns(DeprecationWarning, match=r"Squares\.each is called eval_batches now"):
            assert list(current(task, "eval_batches", "each")("ab")) == ["a", "b"]
        assert seen == [2, "mine"]

    @pytest.mark.parametrize("value", [None, lambda self, done, total: None])
    def test_a_watch_redeclared_in_a_subclass_is_set_and_read(self, build, value):
        task, said = build(watch=value)
        assert said[0].startswith("Mine.watch is called on_eval_batch now")
        seen = []
        task.on_eval_batch = watch = lambda done, total: seen.append((done, total))
        with pytest.warns(DeprecationWarning, match=r"Mine\.watch is called on_eval_batch now"):
            assert task.watch is watch
        assert list(task.eval_batches("a")) == ["a"]
        with pytest.warns(DeprecationWarning, match=r"Mine\.watch is called"):
            task.watch = None
        assert list(task.eval_batches("a")) == ["a"]
        assert (task.on_eval_batch, seen) == (None, [(0, 1)])

    def test_a_class_with_both_names_is_called_by_the_new_one(self, build, settings):
        def old(self, model, split):
            return self.measure_detailed(model, split)

        body = {"measure_in_detail": old, "measure_detailed": lambda self, model, split: "new"}
        task, said = build(**body)
        assert said == []
        assert task.evaluate_detailed(Model(), "val") == "new"
        mixed = type("Mixed", (type("Shim", (), body), Squares), {})
        assert prepared(mixed, settings).evaluate_detailed(Model(), "val") == "new"

    def test_who_uses_the_new_names_is_told_nothing(self, task):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            type("New", (Squares,), {"eval_batches": Squares.eval_batches, "on_eval_batch": None})
            task.on_eval_batch = None
            assert list(current(task, "eval_batches", "each")("a")) == ["a"]
            current(task, "evaluate_detailed", "examine")(Model(), "val")


def between():
    """A class with a mixin of the old name, one below it with the new name, and the mixin."""

    class Extra:
        def measure_in_detail(self, model, split):
            metrics, tables = super().measure_in_detail(model, split)
            return metrics, [*tables, "extra"]

    class Between(Extra, Squares):
        pass

    class Leaf(Between):
        def measure_detailed(self, model, split):
            metrics, tables = super().measure_detailed(model, split)
            return metrics, [*tables, "leaf"]

    return Between, Leaf, Extra


def prepared(kind, settings):
    task = kind(settings(), seed=0, data_dir=Path("data"), data_fraction=1.0)
    task.prepare()
    return task
