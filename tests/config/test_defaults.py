"""What of a run's settings is its own."""

import pytest

from mambalab import config
from mambalab.config.defaults import changed
from tests.lab import compose


def recorded(*words):
    return config.to_plain(compose("train", list(words)))


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["task=digits", "model=transformer", "dropout=none", "optim=muon"], {}),
        (
            ["task=digits", "optim.lr=0.5", "seed=3", "trainer.max_steps=7"],
            {"optim.lr": (0.5, 0.003), "trainer.max_steps": (7, 1500), "seed": (3, 1)},
        ),
        (["name=x", "note=y", "output_dir=z", "data_dir=w", "trainer.keep_last=5"], {}),
    ],
)
def test_what_differs_from_the_chosen_options(words, own):
    assert changed(recorded(*words)) == own


def test_a_run_of_an_older_version_lacks_what_means_as_before():
    old = recorded("task=digits")
    for key in ("name", "tags", "note"):
        del old[key]
    del old["model"]["rotary"], old["optim"]["kind"], old["trainer"]["max_epochs"]
    assert changed(old) == {}


def test_of_an_option_that_is_not_here_every_setting_counts():
    own = recorded("task=digits")
    own["model"] = {"name": "mine", "width": 8}
    assert changed(own) == {"model.name": ("mine", None), "model.width": (8, None)}


@pytest.mark.parametrize("damage", [{"task": {"_target_": [1]}}, {"model": 3}, {"task": None}])
def test_damaged_settings_are_no_reason_to_fail(damage):
    assert changed({**recorded("task=digits"), **damage}) is not None
