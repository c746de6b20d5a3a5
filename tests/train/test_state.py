"""What a checkpoint keeps of a run besides its weights."""

import io
import time

import pytest
import torch

from mambalab.records.summary import Evaluation
from mambalab.train import runtime
from mambalab.train.optim import build_optimizer
from mambalab.train.state import TrainState
from tests.train.toy import OPTIM, model

CPU = torch.device("cpu")
# Of trainer.pt since the first version: checkpoints of any age are read by these names.
KEYS = {
    *("position", "seconds", "optimizer", "random", "loss_sum", "loss_count", "latest_loss"),
    *("best", "last", "evaluated_step", "evaluations_since_best"),
}


def trained(net: torch.nn.Module) -> TrainState:
    """A state after one step of the optimiser and one evaluation."""
    state = TrainState(build_optimizer(net, OPTIM), CPU)
    net(torch.ones(2, 4)).sum().backward()
    state.optimizer.step()
    state.step, state.position, state.loss_count, state.latest_loss = 7, 21, 2, 0.25
    state.loss_sum += 1.5
    state.clock.used = 60.0
    state.best, state.last = Evaluation(5, {"val/loss": 0.5}), {"val/loss": 0.75}
    state.evaluated_step, state.evaluations_since_best = 6, 1
    return state


def test_a_state_comes_back_from_a_file_that_holds_nothing_executable():
    began = time.monotonic()
    state = trained(model())
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    drawn = torch.rand(3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved.keys() == KEYS
    again = TrainState(build_optimizer(model(), OPTIM), CPU)
    again.load_state_dict(saved, step=7)
    assert torch.equal(torch.rand(3), drawn), "the generators go on from there"
    names = ("step", "position", "loss_sum", "loss_count", "latest_loss", "best", "last")
    for name in (*names, "evaluated_step", "evaluations_since_best"):
        assert getattr(again, name) == getattr(state, name), name
    assert 60.0 <= again.clock.used <= 60.0 + time.monotonic() - began
    assert again.clock.timed_steps == 0
    old, new = state.optimizer.state_dict(), again.optimizer.state_dict()
    assert old["param_groups"] == new["param_groups"]
    for index, moments in old["state"].items():
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(new["state"][index][name]))


def test_a_new_state_has_evaluated_nothing():
    state = TrainState(build_optimizer(model(), OPTIM), CPU)
    before = runtime.random_state(CPU)["cpu"]
    saved = state.state_dict()
    assert saved["best"] is None
    state.load_state_dict(saved, step=0)
    assert (state.best, state.last, state.evaluated_step) == (None, {}, -1)
    assert torch.equal(runtime.random_state(CPU)["cpu"], before)


@pytest.mark.parametrize("key", sorted(KEYS))
@pytest.mark.parametrize("value", ["gone", None, "x", [], 10**300], ids=lambda v: str(v)[:9])
def test_a_state_that_training_did_not_write_is_an_error_at_once(key, value):
    state = trained(model())
    saved = state.state_dict()
    saved[key] = value
    if value == "gone":
        del saved[key]
    if (key, value) == ("best", None) or (key, value) == ("best", []):
        state.load_state_dict(saved, step=7)
        return
    whole = {"loss_count", "evaluated_step", "evaluations_since_best", "seconds", "loss_sum"}
    if value == 10**300 and key in whole | {"latest_loss"}:
        return  # a number, if an odd one
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError, RuntimeError)):
        state.load_state_dict(saved, step=7)
