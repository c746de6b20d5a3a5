"""A run that is there already: in use, whole, damaged, or without its curve."""

import pytest

from mambalab.cli import main
from mambalab.records import run_folder
from mambalab.train import checkpoint
from mambalab.train.loop import Trainer
from tests import lab
from tests.lab import one_line, only_run, rows, summary


def train(*options: str) -> int:
    return lab.train("model=transformer", "dropout=none", *options)


def damage(run_dir) -> None:
    """As if another process had replaced the checkpoint while it was read."""
    for path in run_dir.glob("checkpoints/last-*/*"):
        path.unlink()


def test_a_run_in_use_is_named_before_its_checkpoint_is_looked_at(folder, capsys):
    train()
    run_dir = only_run(folder)
    damage(run_dir)
    capsys.readouterr()
    with run_folder.hold(run_dir):
        assert train("trainer.max_steps=20") == 1
    assert "is in use: another process is recording or sending this run" in one_line(capsys)


def test_a_checkpoint_replaced_while_it_is_read(folder, capsys, monkeypatch):
    """The other process took hold of the folder after this one had found it free."""
    train()
    run_dir = only_run(folder)
    load = checkpoint.load

    def replaced(source, device):
        damage(run_dir)
        monkeypatch.setattr(checkpoint, "load", load)
        with run_folder.hold(run_dir):
            return load(source, device)

    monkeypatch.setattr(checkpoint, "load", replaced)
    capsys.readouterr()
    assert train("trainer.max_steps=20") == 1
    assert "cannot read the checkpoint" in one_line(capsys)  # free again: that was not it

    holding = run_folder.hold(run_dir)
    monkeypatch.setattr(checkpoint, "load", lambda *_: holding.__enter__() or load(*_))
    try:
        assert train("trainer.max_steps=20") == 1
        assert "is in use" in one_line(capsys)
    finally:
        holding.__exit__(None, None, None)


def test_a_finished_run_is_reported_whoever_holds_it(folder, capsys):
    train()
    capsys.readouterr()
    with run_folder.hold(only_run(folder)):
        assert train() == 0
    shown = capsys.readouterr()
    assert "finished already: trainer.max_steps=12 reached; give more to go on" in shown.err


@pytest.mark.parametrize(
    ("options", "again", "message"),
    [
        (["trainer.max_minutes=0.001"], ["trainer.max_steps=null"], "max_minutes=0.001 reached"),
        (
            ["trainer.max_epochs=0.01"],
            ["trainer.max_steps=null"],
            "trainer.max_epochs=0.01 reached; give more",
        ),
        ([], ["trainer.max_minutes=1e-6"], "max_steps=12 and trainer.max_minutes=1e-06 reached"),
        (
            ["trainer.patience=1", "optim.lr=1e-12", "trainer.max_steps=60"],
            [],
            "no improvement in trainer.patience=1 evaluations; another trainer.patience=...",
        ),
    ],
)
def test_what_ended_a_run_is_named(folder, capsys, options, again, message):
    train("run_dir=here", *options)
    capsys.readouterr()
    assert train("run_dir=here", *options, *again) == 0
    assert message in capsys.readouterr().err


def test_a_curve_that_was_deleted_begins_where_the_run_goes_on(folder, capsys):
    train()
    run_dir = only_run(folder)
    (run_dir / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert train("trainer.max_steps=20") == 0
    assert "metrics.jsonl: the curve begins at step 12" in capsys.readouterr().err
    assert rows(run_dir)[0]["step"] == 14
    assert train("trainer.max_steps=24") == 0
    assert "the curve begins" not in capsys.readouterr().err


def test_a_finished_run_that_gets_more_steps_says_so_ever_after(folder, monkeypatch):
    constant = ["optim.schedule=constant", "run_dir=constant"]
    train("trainer.max_steps=8")
    train("trainer.max_steps=8", *constant)
    run_dir = only_run(folder)
    assert "lengthened_at" not in summary(run_dir)
    run, seen = Trainer.run, []
    monkeypatch.setattr(Trainer, "run", lambda it: seen.append(summary(run_dir)) or run(it))
    for steps in (10, 12, 12):  # the last of them finds nothing to do
        assert train(f"trainer.max_steps={steps}") == 0
        assert summary(run_dir)["lengthened_at"] == 8
    assert [found["lengthened_at"] for found in seen] == [8, 8]  # while it trains, if it is killed
    train("trainer.max_steps=10", *constant)
    assert "lengthened_at" not in summary(folder / "constant")
    train("trainer.max_steps=6", "resume=never")
    assert "lengthened_at" not in summary(run_dir)


def test_a_short_session_leaves_the_speed_that_was_measured(folder, monkeypatch):
    train("trainer.max_steps=24")
    run_dir = only_run(folder)
    measured = summary(run_dir)["tokens_per_second"]
    assert measured > 0
    train("trainer.max_steps=25")
    assert summary(run_dir)["tokens_per_second"] == measured
    other = run_dir / "summary.json"
    other.write_text(other.read_text().replace('"device": "', '"device": "another '))
    train("trainer.max_steps=26")  # another processor's speed is none of this one's
    assert summary(run_dir)["tokens_per_second"] == 0


def test_a_damaged_run_is_set_aside_as_advised(folder, capsys):
    train("run_dir=here")
    for path in (folder / "here").glob("checkpoints/last-*/trainer.pt"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    capsys.readouterr()
    assert train("run_dir=here", "trainer.max_steps=20") == 1
    assert "resume=never (the damaged run is set aside)" in one_line(capsys)
    assert train("run_dir=here", "trainer.max_steps=20", "resume=never") == 0
    assert summary(folder / "here")["step"] == 20


def test_a_trusted_module_that_does_not_exist(folder, capsys):
    assert main.main(["train", "trust=nosuch", "tracking=none"]) == 1
    assert "trust=nosuch: no such module" in one_line(capsys)
    assert not (folder / "outputs").exists()


def test_a_run_killed_while_its_folder_was_made_begins_again(folder, monkeypatch, capsys):
    """Killed as by `kill -9` after each of the first files."""
    whole = folder / "whole"
    assert train(f"run_dir={whole}") == 0
    expected = rows(whole)

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    early = {
        "mambalab.utils.console.log_to": {".lock", "metrics.jsonl"},
        "mambalab.runs.load.write_spec": {"config.yaml", "train.log"},
        "mambalab.utils.process.identity": {"config.yaml", "vocabulary.json"},
    }
    for place, found in early.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, killed)
            with pytest.raises(Killed):
                train("run_dir=cut")
        cut = folder / "cut"
        assert found <= {path.name for path in cut.iterdir()}, place
        assert not (cut / "summary.json").exists()
    # In the midst of writing a file, too; the second name is that of older versions.
    (cut / "config.yaml").unlink()
    for name in (".config.14824.yaml", ".config.yaml.14824", ".mlflow_run.14824.json"):
        (cut / name).write_text("task:")
    for path in cut.iterdir():
        if path.name not in (".lock", "metrics.jsonl", "train.log") and "14824" not in path.name:
            path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("mambalab.runs.load.write_spec", killed)
        with pytest.raises(Killed):
            train("run_dir=cut")
    capsys.readouterr()
    with run_folder.hold(cut):
        assert train("run_dir=cut") == 1
    assert "is in use" in one_line(capsys)
    assert train("run_dir=cut", "optim.lr=0.5") == 1
    assert "was made with other settings (optim.lr" in one_line(capsys)
    assert train("run_dir=cut") == 0
    assert rows(cut) == expected


@pytest.mark.parametrize("files", [["notes.txt"], [".lock", "notes.txt"], ["metrics.jsonl"]])
def test_a_folder_of_other_things_is_left_alone(folder, capsys, files):
    (folder / "taken").mkdir()
    for name in files:
        (folder / "taken" / name).write_text("something")
    assert train("run_dir=taken") == 1
    assert "taken is not empty and holds no run" in one_line(capsys)
    assert sorted(p.name for p in (folder / "taken").iterdir()) == sorted(files)
