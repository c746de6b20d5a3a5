"""enwik8, text8 and WikiText with their published splits; small ones stand in for them."""

import dataclasses
import hashlib
from typing import Any

import pytest

from mambalab.data import catalog
from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.runs.build import build_task
from tests.lab import compose

TEXT = "".join(f"<page>{n} thé wiki</page>\n" for n in range(40)).encode()
NAMES = ["enwik8", "text8", "wikitext2", "wikitext103"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data_dir with a short enwik8; what is published is as short."""
    real = CATALOG["enwik8"]
    digest = hashlib.sha256(TEXT).hexdigest()
    file = dataclasses.replace(real.files[0], content_sha256=digest, content_size=len(TEXT))
    parts = (len(TEXT) - 200, 100, 100)
    entry = dataclasses.replace(real, files=(file,), parts=parts)
    monkeypatch.setitem(catalog.CATALOG, "enwik8", entry)
    (tmp_path / "enwik8").mkdir()
    (tmp_path / "enwik8" / "enwik8").write_bytes(TEXT)
    return tmp_path


def build(name, folder, *options) -> Any:
    settings = compose("train", [f"task={name}", f"data_dir={folder}", *options])
    return build_task(settings)


def test_splits_are_the_published_bytes(small):
    task = build("enwik8", small, "task.seq_len=16")
    task.prepare()
    assert task.splits == ("train", "val", "test", "train_sample")
    assert task.spec.vocab_size == 256
    held = {name: bytes(task._data[name].tolist()) for name in ("train", "val", "test")}
    assert b"".join(held.values()) == TEXT
    assert [len(held[name]) for name in ("val", "test")] == [100, 100]
    found = task.fingerprint()
    assert found["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert found["path"] == str(small / "enwik8" / "enwik8")
    tuned = build("enwik8", small, "task.seq_len=16", "task.tune=true", "task.name=mine")
    tuned.prepare()
    assert tuned.splits == ("train", "val", "train_sample")
    assert bytes(tuned._data["train"].tolist() + tuned._data["val"].tolist()) == held["train"]


@pytest.mark.parametrize(
    "option", ["task.path=x", "task.val_path=x", "task.test_path=x", "task.files=x"]
)
def test_another_text_is_refused(small, option):
    key = option.partition("=")[0].replace(".", r"\.")
    with pytest.raises(UserError, match=rf"{key}=x: task=enwik8 has its own text and splits"):
        build("enwik8", small, option).prepare()


@pytest.mark.parametrize("name", NAMES)
def test_options_fit_and_absence_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot fetch") as error:
        build(name, tmp_path).prepare()
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path / name) in message
    assert "train offline: task=text" in message
