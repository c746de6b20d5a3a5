"""What a fine-tuned run began with, when it goes on: changed, gone, or another in the cache."""

import shutil
from pathlib import Path

from huggingface_hub import constants

from tests.data.hub_server import cache
from tests.lab import one_line, summary
from tests.pretrained.test_tokens import bpe
from tests.runs.test_fine_tune import tune


def test_a_checkpoint_that_changed_is_not_gone_on_from(checkpoint, capsys):
    checkpoint()
    assert tune("run_dir=run") == 0
    noted = summary(Path("run"))["checkpoint"]
    assert noted["path"] == str(Path("ck").absolute())
    assert len(noted["sha256"]) == 64
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    shutil.copytree("ck", "kept")
    checkpoint(seed=1)
    capsys.readouterr()
    for steps in (12, 14):
        assert tune("run_dir=run", f"trainer.max_steps={steps}") == 1
        assert "the checkpoint ck changed since run began" in one_line(capsys)
    shutil.rmtree("ck")
    shutil.copytree("kept", "ck")
    bpe(Path("ck/tokenizer.json"), rows=280)
    assert tune("run_dir=run", "trainer.max_steps=14") == 1
    assert "the tokenizer ck/tokenizer.json changed since run began" in one_line(capsys)
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
    assert tune("run_dir=run", "resume=never", "trainer.max_steps=2") == 0
    Path("ck/model.safetensors").unlink()
    assert tune("run_dir=run", "trainer.max_steps=4") == 0
    assert "ck is gone; the run has what it took from there" in capsys.readouterr().err
    assert summary(Path("run"))["checkpoint"]["sha256"] == noted["sha256"]


def test_another_revision_in_the_cache_of_the_hub_is_no_obstacle(
    checkpoint, capsys, monkeypatch, folder
):
    """Only a named folder and the copy in data_dir can change; in the cache, a revision is gone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "model.pretrained=owner/mamba"
    gone = "data/pretrained/owner/mamba is gone; the run has what it took from there"

    def revision(number: int) -> Path:
        made = checkpoint(seed=number)
        bpe(made / "tokenizer.json", rows=300 - number)
        files = {path.name: path.read_bytes() for path in made.iterdir()}
        return cache(folder / "hub", "owner/mamba", "model", files, str(number) * 40)

    def go_on(steps: int) -> str:
        capsys.readouterr()
        assert tune("run_dir=run", name, f"trainer.max_steps={steps}") == 0
        return capsys.readouterr().err

    first = revision(0)
    go_on(1)
    noted = summary(Path("run"))["checkpoint"]
    assert noted["path"] == str(first)
    second = revision(1)
    main_revision = first.parents[1] / "refs/main"
    main_revision.parent.mkdir()
    main_revision.write_text(second.name)
    assert "is gone" not in go_on(2)
    shutil.rmtree(first)
    assert gone in go_on(3)
    shutil.copytree(second, "data/pretrained/owner/mamba")
    assert tune("run_dir=run", name, "trainer.max_steps=4") == 1
    assert "owner/mamba changed since run began" in one_line(capsys)
    shutil.rmtree("data/pretrained")
    assert gone in go_on(4)
    assert summary(Path("run"))["checkpoint"] == noted


def test_another_tokenizer_in_the_cache_of_the_hub_is_no_obstacle(
    checkpoint, capsys, monkeypatch, folder
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checkpoint()
    words = ("run_dir=run", "task.tokenizer=owner/tokens")
    kept = Path("data/tokenizers/owner/tokens/tokenizer.json")
    bpe(kept)
    assert tune(*words, "trainer.max_steps=1") == 0
    bpe(folder / "other/tokenizer.json", rows=280)
    files = {"tokenizer.json": Path("other/tokenizer.json").read_bytes()}
    cache(folder / "hub", "owner/tokens", "model", files)
    kept.unlink()
    assert tune(*words, "trainer.max_steps=2") == 0
    shutil.copy("other/tokenizer.json", kept)
    capsys.readouterr()
    assert tune(*words, "trainer.max_steps=3") == 1
    assert "owner/tokens/tokenizer.json changed since run began" in one_line(capsys)
