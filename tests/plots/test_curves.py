import json
import math
import subprocess
import sys

import pytest

from mambalab.errors import UserError
from mambalab.plots import curves, style
from mambalab.plots.curves import loss_picture
from mambalab.plots.style import run_title
from mambalab.records.reader import read_run


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run folder from (step, train loss, val loss or None) rows."""

    def build(rows):
        (tmp_path / "config.yaml").write_text("task: {name: text}\nseed: 3\n")
        with (tmp_path / "metrics.jsonl").open("w") as file:
            for step, train, val in rows:
                line = {"step": step, "train/loss": train}
                file.write(json.dumps(line if val is None else {**line, "val/loss": val}) + "\n")
        return tmp_path

    return build


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the last picture."""
    from matplotlib.figure import Figure

    kept = []
    add_subplot = Figure.add_subplot

    def keep(self, *args, **kwargs):
        kept.append(add_subplot(self, *args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(Figure, "add_subplot", keep)
    return lambda: kept[-1]


def curve(axes, label):
    line = next(line for line in axes.lines if str(line.get_label()).startswith(label))
    return list(line.get_xdata()), list(line.get_ydata())


def test_the_picture_shows_what_was_measured(make_run, drawn):
    rows = [(s, 4 / s, 5 / s + (s > 3) if s % 2 else None) for s in range(1, 8)]
    path = curves.loss_picture(make_run(rows), unit="nats per pixel")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = drawn()
    assert curve(axes, "train") == ([1, 2, 3, 4, 5, 6, 7], [4 / s for s in range(1, 8)])
    assert curve(axes, "validation") == ([1, 3, 5, 7], [5, 5 / 3, 2, 5 / 7 + 1])
    assert curve(axes, "best validation: 1.6667 at step 3") == ([3], [5 / 3])
    assert axes.get_ylabel() == "loss (nats per pixel, log scale)"
    assert axes.get_xlabel() == "step (optimiser updates)"
    assert axes.get_yscale() == "log"
    assert "text" in axes.get_title()
    assert "seed 3" in axes.get_title()


def test_values_that_are_not_finite_leave_gaps(make_run, drawn):
    curves.loss_picture(make_run([(1, 2.0, None), (2, None, None), (3, 1.0, 1.5)]))
    _, train = curve(drawn(), "train")
    assert math.isnan(train[1])
    assert [train[0], train[2]] == [2.0, 1.0]


@pytest.mark.parametrize("low", [-1.0, 0.0, 1.9])
def test_a_logarithm_only_where_it_helps(make_run, drawn, low):
    curves.loss_picture(make_run([(1, 2.0, None), (2, low, None)]))
    assert drawn().get_yscale() == "linear"


def test_long_curves_are_smoothed_without_lag_or_shift():
    line = [100.0 - i for i in range(1000)]
    assert style.smooth(line)[:-10] == pytest.approx(line[:-10])
    zigzag = [(-1.0) ** i for i in range(1000)]
    assert max(abs(v) for v in style.smooth(zigzag)[20:]) < 0.1
    gaps = [1.0, math.nan, 3.0, 1.0]
    assert [math.isnan(v) for v in style.smooth(gaps)] == [False, True, False, False]


def test_a_picture_replaces_the_last_one_and_leaves_nothing_else(make_run):
    rows = [(s, 4 / s, 5 / s) for s in range(1, 201)]
    folder = make_run(rows[:100])
    first = curves.loss_picture(folder).read_bytes()
    make_run(rows)
    assert curves.loss_picture(folder).read_bytes() != first
    assert [p.name for p in (folder / "plots").iterdir()] == ["loss.png"]


def test_nothing_to_draw_is_one_line(make_run):
    with pytest.raises(UserError, match="holds no loss to draw"):
        curves.loss_picture(make_run([(1, None, None)]))


def test_a_folder_that_cannot_be_written_is_one_line(make_run):
    folder = make_run([(1, 2.0, None)])
    (folder / "plots").write_text("a file is in the way")
    with pytest.raises(UserError, match=r"cannot write .*loss\.png"):
        curves.loss_picture(folder)


def test_drawing_needs_neither_torch_nor_pyplot(make_run):
    code = (
        "import sys; from pathlib import Path; from mambalab.plots.curves import loss_picture\n"
        "loss_picture(Path(sys.argv[1]))\n"
        "assert not {'torch', 'matplotlib.pyplot', 'mlflow'} & set(sys.modules)"
    )
    folder = make_run([(1, 2.0, 3.0), (2, 1.0, 2.0)])
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_the_title_begins_with_the_name_as_it_is(make_run):
    folder = make_run([(1, 3.0, 2.0)])
    with (folder / "config.yaml").open("a") as file:
        file.write("name: a $1 {\\ try\n")
    assert run_title(read_run(folder)).startswith("a $1 {\\ try · text")
    assert loss_picture(folder).is_file()
