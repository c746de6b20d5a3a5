"""Groups of the optimisers and the course of the learning rate."""

import dataclasses

import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.rules import check
from mambalab.settings.train import Schedule
from mambalab.train.optim import build_optimizer, learning_rate, step_unless
from tests.lab import compose
from tests.train.toy import MUON, OPTIM


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


def names_in(model: nn.Module, group: dict) -> set[str]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)].rsplit("layers.", 1)[-1].split(".", 1)[-1] for p in group["params"]}


def test_muon_is_for_the_matrices_of_layers(build_model):
    model = build_model(pattern="MA")
    optimizer = build_optimizer(model, MUON)
    muon, decayed, others = optimizer.param_groups
    assert {(g["weight_decay"], g.get("lr_ratio", 1.0)) for g in (muon, decayed, others)} == {
        (0.1, 1.0),
        (0.1, 0.5),
        (0.0, 0.5),
    }
    assert names_in(model, muon) == {
        *("mixer.in_proj.weight", "mixer.x_proj.weight", "mixer.out_proj.weight"),
        *("mlp.fc1.weight", "mlp.fc2.weight"),
    }
    assert names_in(model, decayed) == {
        *("embedding.weight", "weight", "mixer.conv1d.weight", "mixer.dt_proj.weight"),
    }
    count = sum(len(g["params"]) for g in optimizer.param_groups)
    assert count == len(list(model.parameters()))


def test_both_step_and_muon_as_it_does_alone(build_model, tokens):
    models = [build_model(), build_model()]
    both = build_optimizer(models[0], MUON)
    hidden = {id(p) for p in both.param_groups[0]["params"]}
    for model in models:
        model(tokens).float().square().mean().backward()
    both.found_inf = torch.ones(())
    both.step()
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(ours, theirs)
    both.found_inf = torch.zeros(())
    both.step()
    pairs = list(zip(*(m.parameters() for m in models), strict=True))
    matrices = [theirs for ours, theirs in pairs if id(ours) in hidden]
    torch.optim.Muon(
        matrices, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    ).step()
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs) == (id(ours) in hidden)


def test_what_muon_cannot_do_is_one_line():
    with pytest.raises(UserError, match="optim=muon: the model has no linear maps inside"):
        build_optimizer(nn.Linear(2, 2), MUON)
    with pytest.raises(UserError, match="the model has no parameters besides linear maps"):
        build_optimizer(nn.Sequential(nn.Linear(2, 2, bias=False)), MUON)
    with pytest.raises(UserError, match=r"optim\.momentum=0\.9: AdamW has no such thing"):
        check(dataclasses.replace(OPTIM, momentum=0.9), "optim.")
    with pytest.raises(UserError, match=r"optim\.ns_steps=null: Muon needs a value"):
        check(dataclasses.replace(MUON, ns_steps=None), "optim.")


def test_muon_by_its_preset():
    found = compose("train", ["optim=muon", "optim.lr=2e-3"]).optim
    expected = compose("train", ["optim.lr=2e-3"]).optim
    assert dataclasses.replace(MUON, lr=2e-3, adamw_lr_ratio=1.0) == dataclasses.replace(
        found, betas=OPTIM.betas, warmup_steps=OPTIM.warmup_steps
    )
    assert (found.betas, found.warmup_steps) == (expected.betas, expected.warmup_steps)


@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_is_none_whether_fused_or_not(fused):
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)  # unfused: as on MPS
    weight.grad = torch.ones(3)
    step_unless(torch.ones(()), optimizer)
    assert weight.tolist() == [1.0] * 3
    step_unless(torch.zeros(()), optimizer)
    assert (weight < 1).all()
