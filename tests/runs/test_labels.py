"""Name, tags and note of a run: they make no other run, and may change."""

import pytest

from mambalab.config import run_dir
from mambalab.records.reader import read_run
from tests.lab import TINY, compose, one_line, only_run, summary, train


def test_labels_make_no_other_run(folder):
    bare = compose("train", TINY)
    named = compose("train", [*TINY, "name=First try, 50 %", "tags=a,b c", "note=x, ${y} = z"])
    assert (named.name, named.tags, named.note) == ("First try, 50 %", ["a", "b c"], "x, ${y} = z")
    assert run_dir(named) == run_dir(bare)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("name=" + "x" * 101, "must be a text of at most 100 characters on one line"),
        (r"name=a\nb", "must be a text of at most 100"),
        ("tags=a=b", "made of at most 50 letters, digits, blanks and"),
    ],
)
def test_a_label_of_another_form_is_refused(folder, capsys, word, message):
    assert train(word, "--cfg", "job") == 2
    assert message in one_line(capsys)


def test_a_run_keeps_its_labels_and_takes_new_ones(folder, capsys):
    short = ("trainer.max_steps=2", "trainer.sample_chars=0")
    assert train(*short, "name=draft", "tags=a,b", "note=looks fine") == 0
    where = only_run(folder)
    assert "name     draft" in capsys.readouterr().out

    def labels():
        record = read_run(where)
        return [record.setting(key) for key in ("name", "tags", "note")]

    assert labels() == ["draft", ["a", "b"], "looks fine"]
    assert train(*short) == 0  # finished
    assert labels() == ["draft", ["a", "b"], "looks fine"]
    assert train(*short, "figure.format=png,pdf") == 0  # draws it again, trains nothing
    assert sorted(path.name for path in (where / "plots").iterdir()) == ["loss.pdf", "loss.png"]
    before, then = summary(where), (where / "config.yaml").stat().st_mtime_ns
    assert train(*short, "name=final", "tags=[]") == 0
    assert labels() == ["final", [], "looks fine"]
    assert "its name and tags changed: recorded in" in capsys.readouterr().err
    assert summary(where) == before
    assert (where / "config.yaml").stat().st_mtime_ns == then  # `latest` is no other run now
    assert train(*short, "trainer.max_steps=3") == 0  # goes on
    assert (labels(), summary(where)["step"]) == (["final", [], "looks fine"], 3)
