import math
import subprocess
import sys

import pytest
import scipy.stats

from mambalab.compare import pictures
from mambalab.compare.bands import band
from mambalab.compare.comparison import compare
from mambalab.plots.style import COLOURS, MARKERS, STYLES, drawable, quantity
from mambalab.records.reader import read_run
from tests.records.example_runs import make_group, make_run


def ignore(key: str) -> bool:
    return key in ("seed", "device")


@pytest.fixture
def comparison(tmp_path):
    """A function from a number of groups to their comparison, with three seeds each."""

    def build(count: int):
        return compare(
            [
                record
                for i in range(count)
                for record in make_group(
                    tmp_path / f"{i}", [1.5 + i, 1.6 + i, 1.7 + i], rise=0.25, optim__lr=i
                )
            ],
            ignore=ignore,
        )

    return build


def lines_of(axes):
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def test_a_band_is_the_interval_of_the_mean_at_common_steps():
    found = band([[(1, 1.0), (2, 2.0), (3, 5.0)], [(1, 2.0), (3, 7.0), (4, 0.0)], []])
    assert (found.steps, found.mean) == ([1, 3], [1.5, 6.0])
    for mean, low, high, values in zip(
        found.mean, found.low, found.high, ([1, 2], [5, 7]), strict=True
    ):
        expected = scipy.stats.t.interval(0.95, 1, mean, scipy.stats.sem(values))
        assert (low, high) == pytest.approx(expected)
    assert band([[(1, 1.0), (2, None)]]).steps == [1]
    assert band([[(1, 1.0)]]).half_width == []
    assert band([[(1, 1.0)], [(2, 1.0)]]).steps == []
    assert band([[], []]).steps == []


def test_curves_of_unequal_batches_are_drawn_over_the_tokens(comparison):
    found = comparison(2)
    figure = pictures.curves(found, "val/loss")
    assert figure.axes[0].get_xlabel() == "step (optimiser updates)"
    steps = [x for x, _ in lines_of(figure.axes[0]).values()]
    for record in found.groups[1].group.records:
        object.__setattr__(record.summary, "tokens_per_step", 128)  # the others see 64
    figure = pictures.curves(found, "val/loss")
    assert figure.axes[0].get_xlabel() == "tokens seen in training"
    tokens = [x for x, _ in lines_of(figure.axes[0]).values()]
    assert tokens == [[64 * s for s in steps[0]], [128 * s for s in steps[1]]]


def test_curves_show_means_and_bands(comparison):
    found = comparison(2)
    figure = pictures.curves(found, "val/loss")
    (axes,) = figure.axes
    drawn = lines_of(axes)
    steps, values = drawn["learning rate 0 (baseline)"]
    assert steps == [10, 20, 30, 40]
    assert values == pytest.approx([3.6, 2.6, 1.6, 1.85])
    assert len(axes.collections) == 2
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    half = scipy.stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (edges.min(), edges.max()) == pytest.approx((1.6 - half, 3.6 + half))
    assert axes.get_xlabel() == "step (optimiser updates)"
    assert axes.get_ylabel() == "validation loss (nats)"
    assert figure.get_suptitle() == "toy: validation loss, mean and 95 % band, n = 3 seeds"
    legend = figure.legends[0].get_texts()
    assert [t.get_text() for t in legend] == ["learning rate 0 (baseline)", "learning rate 1"]


def test_no_two_groups_look_alike(comparison):
    (axes,) = pictures.curves(comparison(len(COLOURS)), "val/loss").axes
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == len(COLOURS)
    assert len({line.get_marker() for line in axes.lines}) == len(MARKERS)
    assert len({line.get_linestyle() for line in axes.lines}) == len(STYLES)


def test_more_groups_than_colours_get_a_panel_each(comparison):
    figure = pictures.curves(comparison(12), "val/loss")
    assert len(figure.axes) == 12
    for i, axes in enumerate(figure.axes):
        assert axes.get_title().startswith(f"learning rate {i}")
        assert list(axes.lines[-1].get_ydata()) == pytest.approx(
            [3.6 + i, 2.6 + i, 1.6 + i, 1.85 + i]
        )
        assert len(axes.lines) == 13  # the others behind it
    assert figure.get_suptitle().endswith("grey: the other groups")


def test_a_single_seed_has_no_band_and_no_box(tmp_path):
    found = compare(make_group(tmp_path, [1.0]), ignore=ignore)
    (axes,) = pictures.curves(found, "val/loss").axes
    assert len(axes.collections) == 0
    (axes,) = pictures.best(found).axes
    assert (len(axes.patches), len(axes.lines)) == (0, 1)


def test_seeds_evaluated_at_other_steps_are_drawn_one_by_one(tmp_path):
    for seed, first in ((1, 10), (2, 15)):
        lines = [{"step": first + 10 * i, "val/loss": 2.0 - i / 10} for i in range(4)]
        make_run(tmp_path / str(seed), lines=lines, seed=seed, summary={"ended_by": "max_minutes"})
    found = compare([read_run(tmp_path / s) for s in "12"], ignore=ignore)
    (axes,) = pictures.curves(found, "val/loss").axes
    drawn = [list(line.get_xdata()) for line in axes.lines]
    assert drawn[1:] == [[10, 20, 30, 40], [15, 25, 35, 45]]


def test_seeds_are_points_with_their_mean_and_its_interval(comparison):
    figure = pictures.best(comparison(2))
    (axes,) = figure.axes
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in points] == [[1.5, 1.6, 1.7], [2.5, 2.6, 2.7]]
    half = 4.302653 * 0.1 / 3**0.5  # Student's t of three values with a deviation of 0.1
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bars[0] == pytest.approx((1.6 - half, 1.6 + half))
    assert list(axes.lines[0].get_xdata()) == pytest.approx([1.6, 1.6])
    assert figure.get_suptitle() == (
        "toy: best value of each seed, mean with 95 % interval, n = 3 seeds"
    )
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["learning rate 0 (baseline)", "learning rate 1"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best at the top


def test_one_seed_has_no_interval(tmp_path):
    (axes,) = pictures.best(compare(make_group(tmp_path, [1.5]), ignore=ignore)).axes
    assert list(axes.patches) == []


def test_pictures_name_groups_as_people_do(tmp_path):
    records = [
        *make_group(tmp_path / "a", [1.0]),
        *make_group(tmp_path / "b", [2.0], optim__lr=1),
        *make_group(tmp_path / "c", [3.0], dropout="ssm"),
    ]
    found = compare(records, ignore=ignore)
    (axes,) = pictures.best(found).axes
    shown = [t.get_text() for t in axes.get_yticklabels()]
    assert shown == [
        "no dropout, learning rate 0.001 (baseline)",
        "no dropout, learning rate 1",
        "SSM dropout, learning rate 0.001",
    ]
    assert [group.label for group in found.groups][1] == "dropout=none optim.lr=1"  # to type


def test_overfitting_shows_both_losses_and_the_best_point(comparison):
    figure = pictures.overfitting(comparison(2))
    first = figure.axes[0]
    drawn = lines_of(first)
    assert drawn["training"] == ([10, 20, 30, 40], [1.0] * 4)
    assert drawn["validation, 95 % band"][1] == pytest.approx([3.6, 2.6, 1.6, 1.85])
    assert drawn["best"][0] == [30]
    title = "learning rate 0 (baseline)\nlast - best validation: +0.2500 ± 0.0000"
    assert first.get_title() == title


def test_accuracies_have_a_picture_of_their_own(tmp_path):
    lines = [{"step": s, "val/loss": 1.0, "val/accuracy": s / 40} for s in (10, 20, 30)]
    summary = {"metric": "val/accuracy", "maximize": True}
    run = read_run(make_run(tmp_path / "run", lines=lines, summary=summary))
    found = compare([run], ignore=ignore)
    paths = pictures.draw(found, tmp_path)
    names = ["curves", "curves_accuracy", "best", "overfitting"]
    assert [p.name for p in paths] == [f"{n}.{k}" for n in names for k in ("png", "svg")]
    assert all(p.read_bytes()[1:4] == b"PNG" for p in paths if p.suffix == ".png")
    assert all(b"<svg" in p.read_bytes() for p in paths if p.suffix == ".svg")
    (axes,) = pictures.curves(found, "val/accuracy").axes
    assert axes.get_ylabel() == "validation accuracy (% right)"
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"


def test_runs_without_any_curve_have_a_box_only(tmp_path):
    best = {"step": 20, "val/loss": 1.5}
    run = make_run(tmp_path / "run", lines=[], summary={"best": best, "last": best})
    (run / "metrics.jsonl").unlink()
    paths = pictures.draw(compare([read_run(run)], ignore=ignore), tmp_path)
    assert [p.name for p in paths] == ["best.png", "best.svg"]


def test_names_that_the_font_or_the_legend_would_not_show(monkeypatch):
    monkeypatch.setattr("mambalab.plots.fonts._installed", tuple)  # nor any other font
    assert drawable("漢 d=0.1") == "? d=0.1"
    assert drawable("_x=1") == " _x=1"
    assert quantity("val/\x1b") == quantity("val/?")


def test_drawing_needs_neither_torch_nor_pyplot(tmp_path):
    make_group(tmp_path, [1.0, 1.1])
    code = (
        "import sys; from pathlib import Path; from mambalab.compare import select\n"
        "from mambalab.compare.files import write\n"
        "write(select.compare_folders([sys.argv[1]]), Path(sys.argv[1], 'out'))\n"
        "assert not {'torch', 'matplotlib.pyplot', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
