"""Which checkpoints stay, which are taken for a run's own, and what the disk may refuse."""

import errno
import json
import os
import shutil

import pytest
import torch

from mambalab.errors import UserError
from mambalab.train import checkpoint, chosen, verify
from tests.train import toy

CPU = torch.device("cpu")
RUN = {"uid": "ours", "settings": "hash"}


def write(folder, step=5, kind="last", keep=2, **facts):
    weights = {"a": torch.arange(6.0)}
    trainer = {"position": step} if kind == "last" else None
    return checkpoint.save(folder, kind, step, weights, facts=facts, trainer=trainer, keep=keep)


def names(folder) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def load(folder, kind="last"):
    return checkpoint.load(checkpoint.find(folder, kind), CPU)


def test_the_newest_and_those_before_it_stay(tmp_path):
    for step in (5, 10, 15, 20):
        write(tmp_path, step)
    assert names(tmp_path) == ["last-00000015", "last-00000020"]
    write(tmp_path, 12, keep=3)  # gone back: what was ahead is not this run's future
    assert names(tmp_path) == ["last-00000012"]
    assert [c.step for c in checkpoint.find_all(tmp_path, "last")] == [12]


def test_a_persons_own_things_stay(tmp_path, caplog):
    folder = write(tmp_path, 5, "best", keep=1).parent
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder / "best-00000005", folder / "best-keep")
    shutil.copytree(folder / "best-00000005", folder / "best-00000005-good")
    shutil.move(folder / "best-00000005", elsewhere)
    (folder / "best-00000005").symlink_to(elsewhere)
    (folder / "best-00000007").symlink_to("nowhere")
    (folder / "best-note.txt").write_text("mine")
    (folder / "best-00000010").write_text("a file of this name")
    before = names(tmp_path)
    assert load(tmp_path, "best")[1] == {}  # through the link
    write(tmp_path, 10, "best", keep=1)
    assert names(tmp_path) == sorted([*before, "best-00000010.old1"])
    assert (folder / "best-00000010.old1").read_text() == "a file of this name"
    assert "best-00000010.old1 now" in caplog.text
    assert len(list(elsewhere.iterdir())) == 2


def test_an_older_one_that_cannot_be_removed_stays_with_one_word(tmp_path, caplog, monkeypatch):
    write(tmp_path, 5)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "_remove", refuse)
    for step in (10, 15):
        write(tmp_path, step, keep=1)
    assert caplog.text.count("last-00000005: Permission denied") == 1
    assert checkpoint.find(tmp_path, "last").step == 15


def test_what_killed_processes_left_is_swept_up(tmp_path):
    folder = write(tmp_path).parent
    for name in (".partial-last-00000010", ".removed-best-00000001", ".partial-mine"):
        (folder / name).mkdir()
    checkpoint.sweep(tmp_path)
    assert names(tmp_path) == [".partial-mine", "last-00000005"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("sha256"),
        lambda m: m.pop("checksum"),
        lambda m: m["facts"].pop("metric"),
        lambda m: m["files"].update({"model.safetensors": 1}),
        lambda m: m["files"].update({"../other": 1}),
        lambda m: m.update(step=6),
        lambda m: m.pop("facts"),
    ],
)
def test_the_manifest_itself_is_covered(tmp_path, change):
    path = write(tmp_path, run=RUN, metric="val/loss") / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.DamagedError, match=r"manifest\.json"):
        load(tmp_path)


def test_a_manifest_of_odd_numbers_is_whole(tmp_path):
    write(tmp_path, value=float("nan"), small=1e-300, text="é\n")
    assert load(tmp_path)[1]["small"] == 1e-300


def test_a_copy_under_another_step_is_told(tmp_path):
    folder = write(tmp_path).parent
    shutil.copytree(folder / "last-00000005", folder / "last-00000099")
    with pytest.raises(checkpoint.DamagedError, match=r"was renamed: it is of step 5"):
        load(tmp_path)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
def test_what_is_no_file_is_not_read(tmp_path, put):
    for name in ("manifest.json", "trainer.pt"):
        path = write(tmp_path) / name
        path.unlink()
        put(path)
        with pytest.raises(checkpoint.DamagedError, match=rf"{name}: it is no file"):
            load(tmp_path)
        shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied; allow it"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "not enough memory"),
    ],
)
@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize("where", ["files.sha256", "load_file"])
def test_what_is_no_damage_has_no_advice_that_deletes(
    tmp_path, monkeypatch, error, words, kind, where
):
    write(tmp_path, kind=kind)

    def fail(*_, **__):
        raise error

    place = verify.files if where == "files.sha256" else checkpoint
    monkeypatch.setattr(place, where.split(".")[-1], fail)
    with pytest.raises(UserError) as caught:
        load(tmp_path, kind)
    message = str(caught.value)
    assert not isinstance(caught.value, checkpoint.DamagedError)
    assert words in message
    assert "the same command goes on" in message
    assert "delete" not in message
    assert "resume=never" not in message


def test_bytes_that_are_right_are_not_called_damaged(tmp_path, monkeypatch):
    write(tmp_path)

    def fail(*_, **__):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match="those that were written, so is there memory") as caught:
        load(tmp_path)
    assert not isinstance(caught.value, checkpoint.DamagedError)


def test_a_folder_without_rights_is_not_a_run_without_checkpoints(tmp_path, monkeypatch):
    folder = write(tmp_path).parent

    def refuse(path):
        assert path == folder
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(folder), "iterdir", refuse)
    with pytest.raises(UserError, match=r"checkpoints: Permission denied"):
        checkpoint.find(tmp_path, "last")


def test_torch_tells_what_the_disk_said():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        checkpoint._save_trainer({"a": torch.zeros(1000), "step": 1}, full)


def full_disk(monkeypatch, times: int) -> None:
    """Let the next writes of trainer.pt fail as on a full disk."""
    left = [times]
    write_file = checkpoint._WatchedFile.write

    def refuse(self, data):
        if left[0]:
            left[0] -= 1
            self.error = OSError(errno.ENOSPC, "No space left on device")
            raise self.error
        return write_file(self, data)

    monkeypatch.setattr(checkpoint._WatchedFile, "write", refuse)


def test_a_full_disk_leaves_one_line_and_no_half_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 5)
    full_disk(monkeypatch, 99)
    with pytest.raises(UserError, match=r"last-00000010: No space left on device; make room"):
        write(tmp_path, 10)
    assert names(tmp_path) == ["last-00000005"]


def test_a_full_disk_takes_the_older_checkpoint_before_it_stops_the_run(
    tmp_path, monkeypatch, caplog
):
    for step in (5, 10):
        write(tmp_path, step)
    full_disk(monkeypatch, 1)
    write(tmp_path, 15)
    assert names(tmp_path) == ["last-00000010", "last-00000015"]
    assert "the disk is full" in caplog.text


def trained(run_dir, **identity) -> toy.Trainer:
    trainer, _ = toy.trainer(run_dir, max_steps=8)
    trainer.keeper.run_identity = identity
    trainer.keeper.facts["run"] = identity
    trainer.run()
    return trainer


@pytest.mark.parametrize("theirs", [{"uid": "other"}, {"settings": "other"}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, theirs):
    trained(tmp_path, **{**RUN, **theirs})
    again, _ = toy.trainer(tmp_path, max_steps=12)
    again.keeper.run_identity = RUN
    with pytest.raises(checkpoint.ForeignError, match="is another run's: move it away"):
        again.restore(checkpoint.find(tmp_path, "last"))


def test_older_checkpoints_do_not_name_their_run(tmp_path):
    trainer, _ = toy.trainer(tmp_path, max_steps=8)
    trainer.run()
    again, _ = toy.trainer(tmp_path, max_steps=12)
    again.keeper.run_identity = RUN
    again.restore(checkpoint.find(tmp_path, "last"))
    assert again.state.step == 8


def test_a_checkpoint_keeps_how_long_the_curve_was(tmp_path):
    trained(tmp_path, **RUN)
    facts = load(tmp_path)[1]
    assert facts["history"] == {"rows": 3, "bytes": 0}  # steps 3, 5 and 6
    assert facts["run"] == RUN


@pytest.mark.parametrize("key", ["position", "optimizer", "random", "best", "loss_sum"])
def test_a_state_without_a_key_is_damage(tmp_path, key):
    trainer, _ = toy.trainer(tmp_path)
    state = trainer.state.state_dict()
    del state[key]
    facts = {"fingerprint": {"sha256": "toy"}}
    checkpoint.save(tmp_path, "last", 3, trainer.model.state_dict(), facts=facts, trainer=state)
    with pytest.raises(checkpoint.DamagedError, match="lacks what is needed to go on"):
        trainer.restore(checkpoint.find(tmp_path, "last"))


def test_a_damaged_best_that_comes_again_is_no_obstacle(tmp_path, caplog):
    whole, lines = toy.trainer(tmp_path / "whole")
    whole.run()
    cut, before = toy.trainer(tmp_path / "cut", stop_after=9)
    cut.run()
    state = (tmp_path / "cut/checkpoints/last-00000009").rename(tmp_path / "kept")
    further, _ = toy.trainer(tmp_path / "cut", max_steps=10)
    shutil.copytree(state, tmp_path / "cut/checkpoints/last-00000009")
    further.restore(checkpoint.find(tmp_path / "cut", "last"))
    further._train_step()
    further._evaluate()  # killed after the best of step 10 was written
    (tmp_path / "cut/checkpoints/best-00000010/model.safetensors").write_bytes(b"")
    again, after = toy.trainer(tmp_path / "cut")
    again.restore(checkpoint.find(tmp_path / "cut", "last"))
    assert "best-00000010" in caplog.text
    again.run()
    assert before.rows + after.rows == lines.rows


@pytest.mark.parametrize(
    ("keep", "kept"), [("best", []), ("all", [4, 8, 12, 16, 20]), ("2", [16, 20]), ("9", None)]
)
def test_weights_of_steps_stay_as_asked(tmp_path, keep, kept):
    kept = [4, 8, 12, 16, 20] if kept is None else kept
    run, _ = toy.trainer(tmp_path, keep=keep, max_steps=21)
    result = run.run()
    found = [name for name in names(tmp_path) if name.startswith("step")]
    assert found == [f"step-{step:08d}" for step in kept]
    others = [f"best-{result.best.step:08d}", "last-00000021"]
    assert [name for name in names(tmp_path) if name not in found] == others
    for step in kept:
        weights, facts, trainer = checkpoint.load(chosen.choose(tmp_path, f"step_{step}"), CPU)
        assert trainer == {}
        assert facts["precision"] == "fp32"
        assert set(weights) == set(run.model.state_dict())


def test_the_last_checkpoint_comes_first_and_a_kill_in_between_is_made_up_for(
    tmp_path, monkeypatch
):
    save = checkpoint.save

    def killed(folder, kind, step, *args, **kwargs):
        if kind == "step" and step == 8:
            raise KeyboardInterrupt
        return save(folder, kind, step, *args, **kwargs)

    monkeypatch.setattr(checkpoint, "save", killed)
    run, _ = toy.trainer(tmp_path, keep="all")
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert checkpoint.find(tmp_path, "last").step == 8
    assert checkpoint.find(tmp_path, "step").step == 4
    monkeypatch.undo()
    again, _ = toy.trainer(tmp_path, keep="all", max_steps=9)
    again.restore(checkpoint.find(tmp_path, "last"))
    at_8 = {name: t.clone() for name, t in again.model.state_dict().items()}
    again.run()
    weights, _ = chosen.load_judged(chosen.choose(tmp_path, "step_8"), CPU)
    assert all(torch.equal(t, at_8[name]) for name, t in weights.items())


def test_a_full_disk_takes_no_weights_that_were_asked_for(tmp_path, monkeypatch):
    for step in (5, 10, 15):
        write(tmp_path, step, "step", keep=99)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(UserError, match=r"step-00000020: No space left on device"):
        write(tmp_path, 20, "step", keep=99)
    assert names(tmp_path) == ["step-00000005", "step-00000010", "step-00000015"]


def test_a_checkpoint_is_found_by_its_name_and_errors_list_what_is_there(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        chosen.choose(tmp_path)
    write(tmp_path, 20)
    assert chosen.choose(tmp_path).kind == "last"  # nothing was evaluated
    for step in range(10, 21):
        write(tmp_path, step, "step", keep=99)
    for step in (12, 300):
        write(tmp_path, step, "best", keep=99)
    assert chosen.choose(tmp_path).path.name == "best-00000300"
    assert chosen.choose(tmp_path, "last").path.name == "last-00000020"
    for word in ("step_12", "step-12", "12", "step12"):
        assert chosen.choose(tmp_path, word).path.name == "best-00000012"
    assert chosen.choose(tmp_path, "step_20").path.name == "step-00000020"
    with pytest.raises(UserError) as caught:
        chosen.choose(tmp_path, "step_7")
    assert str(caught.value) == (
        f"checkpoint=step_7: not among those of {tmp_path}, best (step 300), last (step 20), "
        "step_10, step_11, step_12, step_13, step_14, step_15, step_16, step_17, step_18, "
        "step_19, step_20, step_300 (trainer.keep=all keeps one of every trainer.checkpoint_every "
        "steps)"
    )
