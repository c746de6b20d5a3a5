"""The working directory that the pages take for granted: a text, and a small trained run."""

import shutil
import sys

import pytest
import torch

from mambalab.cli import main
from tests.docs.pages import PAGES

SMALL = [
    "trainer=smoke",
    "trainer.max_steps=4",
    "tracking=jsonl",
    "model.d_model=16",
    "model.n_layer=2",
    "device=cpu",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with `notes.txt` and a run of four steps in `outputs`; copy it, do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    text = "to be or not to be, that is the question. " * 100
    every = "".join(map(chr, range(32, 127)))  # any prompt that a page shows can be read
    (folder / "notes.txt").write_text(f"{text}\n{every}\n" * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["task=text", "task.path=notes.txt", "task.seq_len=16", "task.batch_size=4"]
        assert main.main(["train", *words, *SMALL]) == 0
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A copy of `trained`, made the working directory; what is imported from it is forgotten."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    own = {block.file.removesuffix(".py") for page in PAGES for block in page.blocks if block.file}
    before = torch.random.get_rng_state()
    yield tmp_path
    torch.random.set_rng_state(before)
    for name in own & set(sys.modules):
        del sys.modules[name]
