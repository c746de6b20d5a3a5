"""Groups of AdamW and the course of the learning rate."""

import dataclasses

import pytest

from mambalab.settings.train import Schedule
from mambalab.train.optim import build_optimizer, learning_rate
from tests.train.toy import OPTIM


def test_only_matrices_decay(build_model):
    model = build_model(pattern="MA")
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, others = build_optimizer(model, OPTIM).param_groups
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    spared = {names[id(p)].rsplit("layers.", 1)[-1].split(".", 1)[-1] for p in others["params"]}
    assert spared == {
        "norm.weight",
        "norm2.weight",
        "norm_f.weight",
        "mixer.A_log",
        "mixer.D",
        "mixer.conv1d.bias",
        "mixer.dt_proj.bias",
    }
    assert len(decayed["params"]) + len(others["params"]) == len(names)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [
        (Schedule.cosine, 0.55, 0.1),
        (Schedule.exponential, 0.1**0.5, 0.1),
        (Schedule.constant, 1, 1),
    ],
)
def test_schedules(schedule, middle, end):
    settings = dataclasses.replace(OPTIM, schedule=schedule)
    assert learning_rate(settings, 100, 0.0) == pytest.approx(1e-2)
    assert learning_rate(settings, 100, 0.5) == pytest.approx(1e-2 * middle)
    assert learning_rate(settings, 100, 1.0) == pytest.approx(1e-2 * end)
    assert learning_rate(settings, 100, 1.7) == pytest.approx(1e-2 * end)


def test_warm_up_is_linear_and_multiplies_the_schedule():
    settings = dataclasses.replace(OPTIM, warmup_steps=4, schedule=Schedule.constant)
    rates = [learning_rate(settings, step, 0.0) / settings.lr for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    none = dataclasses.replace(settings, warmup_steps=0)
    assert learning_rate(none, 0, 0.0) == settings.lr
