"""How pictures look is no part of a run, and stays with it."""

import dataclasses

import pytest

from mambalab.config import compose, load_run_config, run_dir, to_yaml, with_labels_of
from mambalab.config.identity import to_plain
from mambalab.errors import UserError
from mambalab.settings.figure import FigureFormat


def test_it_makes_no_other_run():
    plain = compose("train", ["task=shakespeare"])
    other = compose("train", ["task=shakespeare", "figure.width=8.5", "figure.format=pdf,svg"])
    assert run_dir(plain) == run_dir(other)
    assert other.figure.format == [FigureFormat.pdf, FigureFormat.svg]


def test_a_run_of_before_says_nothing_and_one_of_now_is_read_back(tmp_path):
    asked = compose("train", ["task=shakespeare", "figure.font_size=7", "figure.format=[pdf]"])
    (tmp_path / "config.yaml").write_text(to_yaml(asked))
    assert load_run_config(tmp_path, []).figure == asked.figure
    old = {key: value for key, value in to_plain(asked).items() if key != "figure"}
    (tmp_path / "config.yaml").write_text(to_yaml(old))
    read = load_run_config(tmp_path, [])
    assert set(dataclasses.asdict(read.figure).values()) == {None}


def test_the_command_without_it_keeps_it():
    recorded = compose("train", ["task=shakespeare", "figure.width=8", "figure.font=serif"])
    now = with_labels_of(compose("train", ["task=shakespeare", "figure.width=9"]), recorded)
    assert (now.figure.width, now.figure.font) == (9, "serif")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("figure.format=3", "=3: expected png, svg or pdf"),
        ("figure.format=[png,jpg]", "=jpg: expected png, svg or pdf"),
        ("figure.format=[]", "name at least one of png, svg, pdf"),
        ("figure.width=2", "must be at least 4"),
    ],
)
def test_a_wrong_value_is_one_line(word, said):
    with pytest.raises(UserError, match=said):
        compose("train", ["task=shakespeare", word])
