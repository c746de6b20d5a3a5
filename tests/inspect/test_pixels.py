"""The loss that `mambalab inspect` shows of a picture is that of each pixel, all its channels."""

import numpy as np
import pytest
from PIL import Image

from mambalab.cli import main
from tests.commands.test_inspect import SMALL, data
from tests.lab import one_line, only_run


@pytest.fixture
def photos(folder):
    """A folder of 24 pictures in colour, without classes."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for n in range(24):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(
            folder / f"photos/{n}.png"
        )
    return folder


def trained(*words):
    sizes = ["task.size=4", "task.levels=4", "task.batch_size=4", "task.eval_batch_size=4"]
    words = ["train", "task.data=photos", *sizes, *SMALL, "precision=fp32", *words]
    assert main.main(words) == 0


def bits(found, name):
    return float(dict(found["facts"])[name].split()[0])


@pytest.mark.parametrize(
    "model", [["model=mamba"], ["model=transformer"], ["model.position_embedding=true"]]
)
@pytest.mark.parametrize("colour", [True, False])
def test_each_pixel_has_the_loss_of_its_channels(photos, model, colour, capsys):
    trained("task=pixels", f"task.colour={colour}", *model)
    capsys.readouterr()
    assert main.main(["inspect", "index=1"]) == 0
    found = data(only_run(photos) / "inspect")
    channels = 3 if colour else 1
    assert found["image"]["shape"] == [4, 4, channels]
    assert len(found["loss"]) == len(found["guesses"]) == 16
    assert not found["hidden"]
    told = bits(found, "loss on this picture") * np.log(2) * 16 * channels
    assert sum(found["loss"]) == pytest.approx(told, rel=1e-3)
    assert all(len(guess.split(", ")) == channels for guess in found["guesses"])


@pytest.mark.parametrize("colour", [True, False])
def test_of_a_pixel_that_hidden_channels_count(photos, colour, capsys):
    trained("task=diffusion", f"task.colour={colour}", "model.bidirectional=true")
    capsys.readouterr()
    assert main.main(["inspect", "index=1"]) == 0
    found = data(only_run(photos) / "inspect")
    channels = 3 if colour else 1
    gaps = np.array([label == "_" for label in found["labels"][1:]]).reshape(16, channels)
    assert found["hidden"]
    assert [loss is not None for loss in found["loss"]] == gaps.any(1).tolist()
    told = bits(found, "loss on what is hidden") * np.log(2) * gaps.sum()
    assert sum(filter(None, found["loss"])) == pytest.approx(told, rel=1e-3)
    asked = [[part not in ("", "-") for part in guess.split(", ")] for guess in found["guesses"]]
    assert [pixel if any(pixel) else [False] * channels for pixel in asked] == gaps.tolist()


def test_other_pictures_than_the_runs_are_refused(photos, capsys):
    trained("task=pixels")
    Image.new("RGB", (4, 4)).save(photos / "photos/3.png")
    capsys.readouterr()
    assert main.main(["inspect", "index=1"]) == 1
    assert "are not those" in one_line(capsys)
