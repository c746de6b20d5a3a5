import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mambalab.errors import UserError
from mambalab.records.summary import RunSummary
from mambalab.runs.build import build_task
from mambalab.runs.data_place import places, prepared_task
from tests.lab import TEXT, TINY, compose

SHA = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def run(tmp_path, monkeypatch) -> Any:
    """A run that was trained on text.txt in the folder `lab`, and stands there."""
    lab = tmp_path / "lab"
    folder = lab / "outputs/text/mamba/standard-s1"
    folder.mkdir(parents=True)
    (lab / "text.txt").write_text(TEXT)
    monkeypatch.chdir(lab)
    return SimpleNamespace(
        path=Path("outputs/text/mamba/standard-s1"),
        settings=compose("train", TINY),
        summary=RunSummary(data={"path": str(lab / "text.txt"), "sha256": SHA}),
        device=torch.device("cpu"),
    )


def test_data_are_found_where_the_run_found_them(run, tmp_path, monkeypatch):
    run.path = run.path.absolute()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("another of this name")
    assert places(run)[0] == {"path": str(tmp_path / "lab/text.txt")}
    assert prepared_task(run).fingerprint()["sha256"] == SHA


def test_data_that_moved_with_the_run_are_found(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("another of this name")
    (tmp_path / "lab").rename(tmp_path / "moved")
    run.path = Path("moved") / run.path
    found = ["moved/text.txt", "text.txt"]
    assert places(run) == [{"path": str(tmp_path / path)} for path in found]
    assert prepared_task(run).fingerprint()["path"] == str(tmp_path / "moved/text.txt")


def test_the_copy_that_the_run_was_trained_on_is_taken(run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)  # above the run; the first of all has changed
    (tmp_path / "lab" / "text.txt").write_text(TEXT + "more")
    assert prepared_task(run).fingerprint()["path"] == str(tmp_path / "text.txt")
    (tmp_path / "text.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"not those .* was trained on"):
        prepared_task(run)


def test_data_that_are_nowhere_are_named(run, tmp_path):
    (tmp_path / "lab" / "text.txt").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path}/lab/text.txt: not found, .*path=FILE"):
        prepared_task(run)
    run.settings = compose("train", ["task=digits"])
    with pytest.raises(UserError, match=r"path=x: task digits has no task\.path to replace"):
        prepared_task(run, path="x")
    assert places(run) == []


def test_several_texts_that_moved_together_are_found(run, tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    (lab / "more.txt").write_text("more")
    (lab / "val.txt").write_text(TEXT[:500])
    options = ["task.path=[text.txt,more.txt]", "task.val_path=val.txt"]
    run.settings = compose("train", [*TINY, *options])
    task = build_task(run.settings)
    task.prepare()
    run.summary = RunSummary(data=task.fingerprint())
    assert prepared_task(run).fingerprint() == task.fingerprint()
    monkeypatch.chdir(tmp_path)
    lab.rename(tmp_path / "moved")
    run.path = Path("moved") / run.path
    found = prepared_task(run).fingerprint()
    assert found["sha256"] == task.fingerprint()["sha256"]
    assert found["val_path"] == str(tmp_path / "moved/val.txt")
    (tmp_path / "elsewhere").mkdir()
    for name in ("text.txt", "more.txt"):
        (tmp_path / "moved" / name).rename(tmp_path / "elsewhere" / name)
    with pytest.raises(UserError, match=r"not found, which is task\.path="):
        prepared_task(run)


def test_a_data_set_of_the_hub_is_where_it_was(run):
    run.settings = compose("train", [*TINY, "task.path=hf:some/one"])
    assert places(run) == [{"path": "hf:some/one"}]
