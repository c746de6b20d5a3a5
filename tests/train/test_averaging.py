"""The moving average of the weights: its formula, where it is used, exact resume."""

import copy

import pytest
import torch
from torch import nn

from mambalab.settings.train import Precision
from mambalab.train import checkpoint, chosen
from mambalab.train.averaging import WeightAverage
from mambalab.train.callbacks import Callback
from tests.train.toy import MUON, ToyTask, model, trainer

CPU = torch.device("cpu")


def test_it_is_the_formula():
    net = nn.Linear(2, 2, dtype=torch.float64)  # averaged in its own precision
    average = WeightAverage(net, 0.8)
    expected = net.weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            net.weight.normal_()
        average.update(step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    with average.applied():
        torch.testing.assert_close(net.weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_half_weights_have_a_wide_average_and_come_back_as_they_were():
    net = nn.Linear(4, 4, dtype=torch.bfloat16)
    average = WeightAverage(net, 0.999)
    before = copy.deepcopy(net.state_dict())
    assert average.state_dict()["weight"].dtype == torch.float32
    for step in range(1, 5):
        average.update(step)

    @torch.no_grad()
    def fails():
        with average.applied():
            net.weight.zero_()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_tied_weights_are_averaged_once():
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    assert list(WeightAverage(net, 0.9).state_dict()) == ["a.weight"]


class Seen(Callback):
    """Notes the weights that callbacks see."""

    def __init__(self) -> None:
        self.model, self.seen = None, {}

    def on_evaluated(self, step, metrics):
        self.seen[step] = copy.deepcopy(self.model.state_dict())


def test_validation_best_and_callbacks_have_the_average_and_training_does_not(tmp_path):
    seen = Seen()
    run, lines = trainer(tmp_path / "ema", ema=0.9, callbacks=[seen])
    seen.model = run.model
    result = run.run()
    plain, without = trainer(tmp_path / "plain")
    plain.run()
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, run.model.state_dict()[name]), name
    curves = [[v for _, v in got.rows if "train/loss" in v] for got in (lines, without)]
    assert curves[0] == curves[1]
    best = chosen.choose(tmp_path / "ema")
    weights, facts = chosen.load_judged(best, CPU)
    assert facts["ema"] == 0.9
    assert all(torch.equal(t, seen.seen[best.step][n]) for n, t in weights.items())
    assert not torch.equal(weights["0.weight"], run.model.state_dict()["0.weight"])
    net = model()
    net.load_state_dict(weights)
    assert ToyTask().evaluate(net, "val") == result.best.metrics
    last = chosen.choose(tmp_path / "ema", "last")
    raw, _, _ = checkpoint.load(last, CPU)
    assert torch.equal(raw["0.weight"], run.model.state_dict()["0.weight"])
    assert torch.equal(chosen.load_judged(last, CPU)[0]["0.weight"], seen.seen[20]["0.weight"])


@pytest.mark.parametrize("options", [{}, {"optim": MUON, "grad_accum": 2}, {"fp16": True}])
def test_stop_and_resume_equals_never_stopped(tmp_path, options):
    options = dict(options)
    precision = Precision.fp16 if options.pop("fp16", False) else Precision.fp32
    options |= {"ema": 0.9, "keep": "2", "precision": precision}
    whole, lines = trainer(tmp_path / "whole", **options)
    expected = whole.run()
    first, before = trainer(tmp_path / "cut", stop_after=7, **options)
    first.run()
    second, after = trainer(tmp_path / "cut", **options)
    second.restore(checkpoint.find(tmp_path / "cut", "last"))
    result = second.run()
    assert before.rows + after.rows == lines.rows
    assert result.best == expected.best
    files = [p.relative_to(tmp_path / "whole") for p in tmp_path.glob("whole/*/*/model.*")]
    assert len(files) == 4  # best, last and two of steps
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    states = [
        checkpoint.load(checkpoint.find(tmp_path / d, "last"), CPU)[2] for d in ("whole", "cut")
    ]
    assert states[0]["average"].keys() == dict(whole.model.named_parameters()).keys()
    for name, tensor in states[0]["average"].items():
        assert torch.equal(tensor, states[1]["average"][name]), name
    assert states[0].get("scaler") == states[1].get("scaler")


def test_a_checkpoint_without_the_average_is_none_to_go_on_from(tmp_path):
    run, _ = trainer(tmp_path, stop_after=3)
    run.run()
    again, _ = trainer(tmp_path, ema=0.9)
    with pytest.raises(checkpoint.DamagedError, match="lacks what is needed"):
        again.restore(checkpoint.find(tmp_path, "last"))
