"""A reader that takes another job's composition returns what reading all files returns."""

import random

import hydra
import pytest
from omegaconf import OmegaConf

from mambalab.config import raw
from mambalab.config.overrides import prepare
from mambalab.errors import UserError
from mambalab.sweep.plan import plan

pytestmark = pytest.mark.usefixtures("workdir")

# Values of one kind each: groups, numbers, null, lists, texts, interpolations, keys that are new.
CHOICES = {
    "model": ["mamba", "transformer"],
    "dropout": ["none", "ssm"],
    "seed": ["1", "2"],
    "optim.lr": ["1e-3", "0.5", "${optim.weight_decay}"],
    "optim.weight_decay": ["0.1", "0.25"],
    "optim.betas": ["[0.9,0.99]", "[0.5,0.75]"],
    "trainer.max_minutes": ["null", "3"],
    "name": ["null", "a", "'b, c'"],
    "tags": ["null", "[a]", "[a,b]"],
    "task.params": ["{x: 1}", "{y: 2}", "{}"],
    "sweep.trials": ["3", "4"],
}


def plain(found: raw.Raw) -> tuple:
    values = OmegaConf.to_container(found.values, resolve=False)
    return values, found.chosen, found.choices, found.sweep, found.launcher


@pytest.fixture
def composed(monkeypatch):
    """The overrides of every composition that Hydra was asked for."""
    asked, compose = [], hydra.compose

    def note(verb, overrides, **more):
        asked.append(overrides)
        return compose(verb, overrides=overrides, **more)

    monkeypatch.setattr(hydra, "compose", note)
    return asked


@pytest.mark.parametrize("start", range(4))
def test_it_is_what_reading_all_files_gives(start, composed):
    draw = random.Random(start)
    reader = raw.Reader("train")
    keys = ["model", "dropout", *draw.sample([*CHOICES][2:], 5)]
    taken = 0
    for _ in range(16):
        words = [f"{key}={draw.choice(CHOICES[key])}" for key in keys]
        draw.shuffle(words)
        prepared = sorted(prepare("train", ["task=text", *words], multirun=True))
        composed.clear()
        found = plain(reader.read(prepared))
        taken += not composed
        assert found == plain(raw.read("train", prepared)), prepared
    assert taken


def test_a_grid_over_values_is_composed_once(composed):
    assert len(plan(["task=text", "optim.lr=1e-3,2e-3,3e-3", "seed=1,2,3"]).jobs) == 9
    assert len(composed) == 2  # what the sweep is, and its first job
    composed.clear()
    assert len(plan(["task=text", "model=mamba,transformer", "seed=1,2,3"]).jobs) == 6
    assert len(composed) == 3


def test_what_the_sweep_says_of_a_value_follows_it(workdir, composed):
    (workdir / "conf/experiment").mkdir(parents=True)
    lines = "# @package _global_\nsweep:\n  dir: sweeps/${seed}\n"
    (workdir / "conf/experiment/e.yaml").write_text(lines)
    reader = raw.Reader("train")
    for seed in ("1", "2", "1"):
        assert reader.read(["experiment=e", f"seed={seed}"]).sweep["dir"] == f"sweeps/{seed}"
    assert len(composed) == 3


def test_a_value_that_cannot_be_set_is_said_as_ever():
    reader = raw.Reader("train")
    for value in ("1", "2"):
        with pytest.raises(UserError, match=r"^optim\.nothing"):
            reader.read(["task=text", f"optim.nothing={value}"])


def test_compositions_do_not_pile_up(monkeypatch, composed):
    monkeypatch.setattr(raw, "MAX_KEPT", 2)
    reader = raw.Reader("train")
    for model in ("mamba", "transformer", "hybrid", "hybrid", "transformer", "mamba"):
        assert reader.read(["task=text", f"model={model}"]).choices["model"] == model
    models = [words[1].removeprefix("model=") for words in composed]
    assert models == ["mamba", "transformer", "hybrid", "mamba"]
