"""The training loop: limits, exact resume, the guard, what is recorded when."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.train import Schedule
from mambalab.train import checkpoint, runtime
from mambalab.train import limits as limits_module
from mambalab.train.callbacks import Callback
from mambalab.train.nonfinite import NonFiniteError
from mambalab.train.progress import StoppedError
from mambalab.train.state import Clock
from tests.train.toy import LIMITS, MUON, OPTIM, ToyTask, model, trainer


class CrashAt(Callback):
    """Fails after the evaluation of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_evaluated(self, step, metrics):
        if step == self.step:
            raise ZeroDivisionError


def weights_of(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def whole_run(tmp_path, **options):
    run, lines = trainer(tmp_path, **options)
    result = run.run()
    return run, lines, result


def test_records_logs_evaluations_and_checkpoints(tmp_path):
    run, lines, result = whole_run(tmp_path)
    logged = [step for step, values in lines.rows if "train/loss" in values]
    evaluated = [step for step, values in lines.rows if "val/loss" in values]
    assert logged == [3, 6, 9, 12, 15, 18]
    assert evaluated == [5, 10, 15, 20]
    assert result.status == "FINISHED"
    assert result.step == 20
    assert result.best.metrics["val/loss"] == min(
        values["val/loss"] for _, values in lines.rows if "val/loss" in values
    )
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        f"best-{result.best.step:08d}",
        "last-00000020",
    ]
    assert run.task.seen[:20] == list(range(20))


def test_it_learns(tmp_path):
    optim = dataclasses.replace(OPTIM, lr=3e-2, weight_decay=0.0)
    _, lines, result = whole_run(tmp_path, max_steps=300, optim=optim)
    first = next(values["val/loss"] for _, values in lines.rows if "val/loss" in values)
    assert result.best.metrics["val/loss"] < first / 10


def test_the_last_step_is_evaluated_even_off_the_grid(tmp_path):
    _, lines, result = whole_run(tmp_path, max_steps=13)
    assert [s for s, v in lines.rows if "val/loss" in v] == [5, 10, 13]
    assert result.last == lines.rows[-1][1]


@pytest.mark.parametrize(
    ("stop_after", "options"),
    [
        *((step, {"grad_accum": parts}) for step in (1, 4, 5, 7, 19) for parts in (1, 3)),
        *((step, {"optim": MUON, "grad_accum": parts}) for step, parts in ((1, 1), (7, 3))),
    ],
)
def test_stop_and_resume_equals_never_stopped(tmp_path, stop_after, options):
    whole, lines, expected = whole_run(tmp_path / "whole", **options)
    first, before = trainer(tmp_path / "cut", stop_after=stop_after, **options)
    stopped = first.run()
    assert stopped.status == "KILLED"
    assert stopped.step == stop_after
    second, after = trainer(tmp_path / "cut", **options)
    second.restore(checkpoint.find(tmp_path / "cut", "last"))
    result = second.run()
    assert before.rows + after.rows == lines.rows
    assert result.best == expected.best
    assert first.task.seen + second.task.seen == whole.task.seen
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(second)[name]), name


def test_stopped_in_an_evaluation_and_resumed_equals_never_stopped(tmp_path):
    whole, lines, expected = whole_run(tmp_path / "whole")
    before = []
    for asked in (10, 10, 20):  # an evaluation may be stopped twice, the last one, too
        run, part = trainer(tmp_path / "cut")
        if source := checkpoint.find(tmp_path / "cut", "last"):
            run.restore(source)

        def stop(run=run, asked=asked):
            waiting = run.task.on_eval_batch is not None and run.state.step == asked
            return "SIGINT" if waiting else None

        run.stop_requested = stop
        result = run.run()
        assert (result.status, result.step) == ("KILLED", asked)
        assert run.task.on_eval_batch is None
        before += part.rows
    last, part = trainer(tmp_path / "cut")
    last.restore(checkpoint.find(tmp_path / "cut", "last"))
    result = last.run()
    assert last.task.seen == []
    assert before + part.rows == lines.rows
    assert (result.status, result.best) == ("FINISHED", expected.best)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(last)[name]), name


class Averages(nn.Module):
    """Counts its calls and keeps a running mean, as batch normalisation does."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.inside = model()

    def forward(self, x):
        return self.inside(self.norm(x))


@pytest.mark.parametrize("asked", [5 * 3 + 1, 5 * 3 + 2, 20 * 3 - 1])
def test_a_step_given_up_half_way_leaves_the_whole_step_before_it(tmp_path, asked):
    def make(name):
        return trainer(tmp_path / name, grad_accum=3, net=Averages())

    torch.manual_seed(1)
    whole, lines = make("whole")
    whole.run()
    torch.manual_seed(1)
    first, before = make("cut")
    first.stop_requested = lambda: "SIGTERM" if len(first.task.seen) >= asked else None
    result = first.run()
    assert (result.status, result.step) == ("KILLED", asked // 3)
    assert all(p.grad is None for p in first.model.parameters())
    assert len(first.task.seen) == asked  # heard before the next batch
    second, after = make("cut")
    second.restore(checkpoint.find(tmp_path / "cut", "last"))
    second.run()
    assert before.rows + after.rows == lines.rows
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(second)[name]), name


@pytest.mark.parametrize("asked", [5, 10, 20])
def test_stopped_after_an_evaluation_what_follows_it_is_done_again(tmp_path, asked):
    class Sample(Callback):
        def __init__(self, run):
            self.run, self.done = run, []

        def on_evaluated(self, step, metrics):
            if stops and step == asked:
                raise StoppedError("SIGTERM")
            self.done.append(step)

    _, lines, expected = whole_run(tmp_path / "whole")
    done, rows = [], []
    for stops in (True, True, False):
        run, part = trainer(tmp_path / "cut")
        if source := checkpoint.find(tmp_path / "cut", "last"):
            run.restore(source)
        run.callbacks = [sample := Sample(run)]
        result = run.run()
        assert result.status == ("KILLED" if stops else "FINISHED")
        done += sample.done
        rows += [row for row in part.rows if row not in rows]
    assert done == [5, 10, 15, 20]
    assert rows == lines.rows
    assert (result.best, result.last) == (expected.best, expected.last)


def test_resume_after_a_crash_repeats_the_lost_steps_exactly(tmp_path):
    _, lines, expected = whole_run(tmp_path / "whole")
    crashed, before = trainer(tmp_path / "cut")
    crashed.callbacks = [CrashAt(15)]
    with pytest.raises(ZeroDivisionError):
        crashed.run()
    source = checkpoint.find(tmp_path / "cut", "last")
    assert source.step == 12
    again, after = trainer(tmp_path / "cut")
    again.restore(source)
    result = again.run()
    assert [row for row in before.rows if row[0] <= 12] + after.rows == lines.rows
    assert result.best == expected.best


def test_gradient_accumulation_sees_every_batch_once(tmp_path):
    run, _, _ = whole_run(tmp_path, grad_accum=4, max_steps=5)
    assert run.task.seen == list(range(20))


@pytest.mark.parametrize(
    ("limits", "steps", "ended_by"),
    [
        ({"max_epochs": 2.0}, 5, "max_epochs"),
        ({"max_epochs": 2.1}, 6, "max_epochs"),  # the step that completes it
        ({"max_epochs": 2.0, "grad_accum": 2}, 3, "max_epochs"),
        ({"max_epochs": 2.0, "max_steps": 4}, 4, "max_steps"),
        ({"max_epochs": 1e-9}, 1, "max_epochs"),
    ],
)
def test_max_epochs_ends_the_run(tmp_path, limits, steps, ended_by):
    run, _ = trainer(tmp_path, **{"max_steps": None, **limits})
    result = run.run()
    assert (result.step, result.ended_by) == (steps, ended_by)
    assert run.pace.progress() == 1


def test_epochs_and_steps_are_each_others_inverse():
    for batches in (7, 1 / 3, 30.4, 1e6 / 3):
        for epochs in (1, 2, 3, 10, 49):
            settings = dataclasses.replace(LIMITS, max_steps=None, max_epochs=epochs, grad_accum=3)
            steps = limits_module.steps(settings, batches)
            done = limits_module.epochs(steps, settings, batches)
            assert done >= epochs * (1 - 1e-9)
            assert limits_module.epochs(steps - 1, settings, batches) < epochs


def test_a_task_without_end_has_no_epochs(tmp_path):
    settings = dataclasses.replace(LIMITS, max_epochs=2)
    with pytest.raises(UserError, match="task draws its examples without end"):
        limits_module.steps(settings, None)
    assert limits_module.epochs(3, settings, None) is None


def test_max_minutes_ends_the_run_and_the_schedule_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "elapsed", lambda self: 0.01 * self.steps)
    run, _ = trainer(tmp_path, max_steps=None, max_minutes=0.01, log_every=1)
    rates = []
    run.recorder.metrics = lambda step, values: rates.append(values.get("train/lr"))
    result = run.run()
    assert "max_minutes" in result.reason
    rates = [rate for rate in rates if rate is not None][3:]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * OPTIM.lr


def test_patience_stops_a_run_that_no_longer_improves(tmp_path):
    optim = dataclasses.replace(OPTIM, lr=0.0, schedule=Schedule.constant)
    _, lines, result = whole_run(tmp_path, optim=optim, patience=2, max_steps=1000)
    assert result.step == 15
    assert "no improvement of val/loss in 2 evaluations" in result.reason
    assert result.best.step == 5
    assert [s for s, v in lines.rows if "val/loss" in v] == [5, 10, 15]


def test_a_step_with_nan_stops_the_run_and_keeps_the_good_checkpoint(tmp_path):
    run, _ = trainer(tmp_path, task=ToyTask(bad_at=10))
    kept = "the checkpoint of step 8 is kept"
    with pytest.raises(NonFiniteError, match=rf"at step 11, first in the output of 0; {kept}; try"):
        run.run()
    assert checkpoint.find(tmp_path, "last").step == 8
    assert all(torch.isfinite(t).all() for t in run.model.state_dict().values())


def test_an_infinite_gradient_names_the_parameter(tmp_path):
    run, _ = trainer(tmp_path)
    run.model[0].weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match=r"step 1, first in the gradient of 0\.weight; try"):
        run.run()


def test_other_data_is_refused_on_resume(tmp_path):
    whole_run(tmp_path, max_steps=4)
    other, _ = trainer(tmp_path, task=ToyTask(name="other"))
    with pytest.raises(UserError, match="the data changed"):
        other.restore(checkpoint.find(tmp_path, "last"))


def test_more_steps_go_on_from_a_finished_run(tmp_path):
    whole_run(tmp_path, max_steps=10)
    longer, lines = trainer(tmp_path, max_steps=20)
    longer.restore(checkpoint.find(tmp_path, "last"))
    longer.run()
    assert [s for s, _ in lines.rows] == [12, 15, 15, 18, 20]


def test_the_model_is_in_training_mode_after_an_evaluation(tmp_path):
    run, _ = trainer(tmp_path)
    modes = []
    run.model.register_forward_hook(lambda m, _i, _o: modes.append(m.training))
    run.run()
    assert modes.count(False) == 4
    assert modes.count(True) == 20


def test_same_seed_same_weights(tmp_path):
    first = weights_of(whole_run(tmp_path / "a")[0])
    second = weights_of(whole_run(tmp_path / "b")[0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], model().state_dict()["0.weight"])


class Scripted(ToyTask):
    """Validation values from a list, one an evaluation, the last for ever."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def evaluate(self, model, split):
        step = self.asked = getattr(self, "asked", 0) + 1
        return {"val/loss": self.values[min(step, len(self.values)) - 1]}


def test_patience_ends_a_killed_run_at_the_same_step(tmp_path):
    """Killed after the best evaluation, which its checkpoint does not know of yet."""
    values = (1.0, 1.1, 1.2, 1.3, 0.5, 0.6)
    limits = {"max_steps": 1000, "patience": 5, "checkpoint_every": 20}
    whole, _ = trainer(tmp_path / "whole", task=Scripted(*values), **limits)
    assert whole.run().step == 50
    crashed, _ = trainer(tmp_path / "cut", task=Scripted(*values), **limits)
    crashed.callbacks = [CrashAt(25)]
    with pytest.raises(ZeroDivisionError):
        crashed.run()
    again, _ = trainer(tmp_path / "cut", task=Scripted(*values[4:]), **limits)
    source = checkpoint.find(tmp_path / "cut", "last")
    assert source.step == 20
    again.restore(source)
    result = again.run()
    assert (result.step, result.best.step) == (50, 25)


def test_a_metric_that_is_no_number_is_not_the_best(tmp_path):
    run, _ = trainer(tmp_path, task=Scripted(float("nan"), 0.3, 0.2), max_steps=15)
    result = run.run()
    assert (result.best.step, result.best.metrics["val/loss"]) == (15, 0.2)
    assert checkpoint.find(tmp_path, "best").step == 15


def test_numbers_drawn_by_numpy_and_python_come_back_too(tmp_path):
    """A model or task of one's own may use them."""

    class Noisy(ToyTask):
        def loss(self, model, batch):
            return super().loss(model, batch) * (1 + random.random() + np.random.rand())  # noqa: NPY002

    runtime.seed_everything(3)
    whole, _ = trainer(tmp_path / "whole", task=Noisy())
    whole.run()
    runtime.seed_everything(3)
    first, _ = trainer(tmp_path / "cut", task=Noisy(), stop_after=7)
    first.run()
    runtime.seed_everything(99)
    second, _ = trainer(tmp_path / "cut", task=Noisy())
    second.restore(checkpoint.find(tmp_path / "cut", "last"))
    second.run()
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(second)[name]), name
