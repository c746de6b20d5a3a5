"""Tables of results as text."""

from matplotlib.axes import Axes

from mambalab.plots import tables
from tests.records.example_runs import make_run


def test_a_class_without_examples_has_no_share():
    table = {"kind": "confusion", "title": "x", "classes": ["a", "b"], "counts": [[3, 1], [0, 0]]}
    _, first, second = tables.text(table).splitlines()
    assert first.split() == ["a", "3", "1", "0.7500"]
    assert second.split() == ["b", "0", "0", "-"]


def test_a_picture_says_of_which_run_it_is(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: titles.append(text))
    run_dir = make_run(tmp_path / "run", dropout="ssm", seed=3)
    curve = {"kind": "curve", "title": "toy", "x": [8, 16], "y": [1, 0.5], "marked": 8}
    tables.write(run_dir, "test", [curve | {"x_label": "L", "y_label": "accuracy"}])
    assert titles == ["toy · Mamba · SSM dropout · seed 3"]  # the task once
