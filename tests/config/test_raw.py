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
    "task.params.x": ["1", "[1,2]", "null", "${seed}"],
    "trainer.max_epochs": ["null", "0.5", "3"],
    "data_dir": ["here", "there", "'a${seed}'", "${oc.env:HOME}"],
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


@pytest.mark.parametrize("start", range(5))
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
    composed.clear()
    assert len(plan(["task=text", "trainer.max_epochs=1,2", "task.params.k=1,2,3"]).jobs) == 6
    assert len(composed) == 2


def test_what_the_sweep_says_of_a_value_follows_it(workdir, composed):
    (workdir / "conf/experiment").mkdir(parents=True)
    lines = "# @package _global_\nsweep:\n  dir: sweeps/${seed}\n"
    (workdir / "conf/experiment/e.yaml").write_text(lines)
    reader = raw.Reader("train")
    for seed in ("1", "2", "1"):
        assert reader.read(["experiment=e", f"seed={seed}"]).sweep["dir"] == f"sweeps/{seed}"
    assert len(composed) == 3


OWN = """defaults: [text, _self_]
name: own
params: {a: {x: 1, y: 2}, b: {x: 3, y: 4}, o: "${task.params.${model.name}}", x: "${seed}"}
path: {train: a}
"""


@pytest.mark.parametrize(
    ("varying", "fixed"),
    [
        (["model.name=a", "model.name=b"], ["~task.params.o.x"]),
        (["seed=1", "seed=2"], ["~task.params.x=1"]),
        (["task.path='/x'", "task.path=['/a','/b']"], []),
        (["data_dir='${oc.env:HOME}'", "data_dir='x'"], []),
        (["data_dir='x'", "data_dir='${'", "data_dir='y'"], []),
        (["optim.nothing=1", "optim.nothing=2", "seed=1"], []),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_hydra_decides_by_values(workdir, varying, fixed, turned):
    (workdir / "conf/task").mkdir(parents=True)
    (workdir / "conf/task/own.yaml").write_text(OWN)
    reader = raw.Reader("train")
    for word in reversed(varying) if turned else varying:
        words = ["task=own", word, *fixed]
        found = []
        for way in (reader.read, lambda words: raw.read("train", words)):
            try:
                found.append(plain(way(words)))
            except UserError as error:
                found.append(str(error))
        assert found[0] == found[1], word


def test_the_clock_is_read_for_each_job(workdir):
    reader = raw.Reader("train")
    words = ["task=text", "note=at ${now:%f}", "seed=1"]
    times = set()
    for _ in range(3):
        found = reader.read(words).values
        times.add(OmegaConf.to_container(found, resolve=True)["note"])
    assert len(times) == 3


def test_compositions_do_not_pile_up(monkeypatch, composed):
    monkeypatch.setattr(raw, "MAX_KEPT", 2)
    reader = raw.Reader("train")
    for model in ("mamba", "transformer", "hybrid", "hybrid", "transformer", "mamba"):
        assert reader.read(["task=text", f"model={model}"]).choices["model"] == model
    models = [words[1].removeprefix("model=") for words in composed]
    assert models == ["mamba", "transformer", "hybrid", "mamba"]
