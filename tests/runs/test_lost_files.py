"""A run folder that lost files, or whose newest checkpoint did: nothing of the run is lost."""

import json
import shutil
from pathlib import Path

import pytest

from mambalab.errors import UserError
from mambalab.records.reader import is_run
from mambalab.records.run_folder import RunFolder
from mambalab.runs import load, rebuild, resume, tidy
from mambalab.runs.language_model import language_model
from mambalab.runs.resolve import FinishedRun, resolve
from mambalab.runs.session import TrainingRun
from mambalab.settings.train import Precision
from mambalab.train import checkpoint
from tests.faults.damage import put
from tests.lab import one_line, rows, summary, train
from tests.runs.test_resolve import settings

DEAD = 4_000_000  # above the largest process id


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, and the text it was trained on."""
    place = tmp_path_factory.mktemp("whole")
    from tests.lab import TEXT

    (place / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train("run_dir=run") == 0
    return place


@pytest.fixture
def run_dir(whole, workdir) -> Path:
    """A copy of that run in the working directory."""
    shutil.copytree(whole, workdir, dirs_exist_ok=True)
    return workdir / "run"


def spoil(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "zeros": bytes(99), "cut": path.read_bytes()[:30]}[how])


@pytest.mark.parametrize("how", ["deleted", "empty", "zeros", "cut"])
def test_a_lost_summary_is_put_together_again(run_dir, how, caplog):
    before = RunFolder(run_dir).summary()
    spoil(run_dir / "summary.json", how)
    assert is_run(run_dir)
    found = rebuild.read_summary(RunFolder(run_dir))
    assert "summary.json is lost or damaged: what it said is taken from" in caplog.text
    for name in ("uid", "precision", "data", "step", "best", "metric", "test"):
        assert getattr(found, name) == getattr(before, name), name


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"- a\n", b"42\n", b"\xff\x00", b"seed: x\n", b"sead: 1\n", b"a: &b 1\nc: *b\n"),
        *(b"task: {_target_: mambilab.tasks.text.TextTask}\n", b"data_dir: ${oc.env:HOME}\n"),
        *(bytes(99), b"[" * 3000, b"x" * 1_100_000, "gone", "folder", "link loop", "broken link"),
    ],
    ids=lambda d: d if isinstance(d, str) else ascii(d[:20]),
)
def test_every_damage_of_the_settings_names_the_way_out(workdir, damage):
    path = workdir / "config.yaml"
    put(path, damage) if isinstance(damage, str) else path.write_bytes(damage)
    with pytest.raises(UserError, match=r"config\.yaml.* or start again with resume=never"):
        resume.read_recorded_config(settings(), workdir)


def test_a_run_without_its_summary_ends_as_it_had_ended(run_dir, whole, capsys):
    (run_dir / "summary.json").write_text("{damaged")
    assert train("run_dir=run") == 0
    after, before = summary(run_dir), summary(whole / "run")
    for name in ("status", "ended_by", "step", "best", "last", "uid", "precision"):
        assert after[name] == before[name], name
    assert rows(run_dir) == rows(whole / "run")
    assert (run_dir / "summary.json.old1").read_text() == "{damaged"


@pytest.mark.parametrize("how", ["deleted", "empty", "cut"])
def test_a_lost_spec_is_taken_from_a_checkpoint_and_written_again(run_dir, how, caplog):
    expected = load.read_spec(run_dir)
    spoil(run_dir / "spec.json", how)
    assert load.spec_of(run_dir) == expected
    assert "its content is taken from a checkpoint" in caplog.text
    finished = resolve(settings("run_dir=run"))
    assert isinstance(finished, FinishedRun)
    tidy.finished(finished)
    assert load.read_spec(run_dir) == expected


def test_a_lost_spec_of_an_older_run_is_made_from_its_data(run_dir):
    expected = load.read_spec(run_dir)
    for path in run_dir.glob("checkpoints/*/manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["checksum"], manifest["facts"]["run"], manifest["facts"]["spec"]
        path.write_text(json.dumps(manifest))
    (run_dir / "spec.json").unlink()
    with pytest.raises(UserError, match="`mambalab train` command writes that again"):
        load.spec_of(run_dir)
    finished = resolve(settings("run_dir=run"))
    assert isinstance(finished, FinishedRun)
    tidy.finished(finished)
    assert load.read_spec(run_dir) == expected


def test_the_checkpoint_before_a_damaged_one_gives_the_same_run(run_dir, whole, capsys):
    facts = summary(run_dir)
    (run_dir / "summary.json").write_text(json.dumps({**facts, "status": "KILLED"}))
    (run_dir / "checkpoints/last-00000012/trainer.pt").write_bytes(b"")
    assert train("run_dir=run") == 0
    shown = capsys.readouterr().err
    assert "trainer.pt is cut short: 0 of" in shown
    assert "going on from the checkpoint before it" in shown
    assert "going on from step 8" in shown
    assert "does not reproduce" not in shown
    assert summary(run_dir)["resumed_from"] == 8
    assert rows(run_dir) == rows(whole / "run")
    for kind in ("last", "best"):
        name = f"checkpoints/{kind}-00000012/model.safetensors"
        assert (run_dir / name).read_bytes() == (whole / "run" / name).read_bytes()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", "has 0 of the 8 rows that the checkpoint of step 12 knew: the curve begins at"),
        ("zeros", "has 0 of the 8 rows"),
        ("line", "has 1 of the 8 rows that the checkpoint of step 12 knew: the curve has nothing "),
        ("deleted", "there was no "),
    ],
)
def test_a_curve_that_lost_rows_is_said(run_dir, caplog, how, words):
    path = run_dir / "metrics.jsonl"
    if how == "line":
        path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")
    else:
        spoil(path, how)
    absent = not path.exists()
    session = TrainingRun(resolve(settings("run_dir=run", "trainer.max_steps=20")))
    session._restore()
    session.recorder.start(params={}, tags={}, resume=True)
    tidy.say_what_the_curve_lacks(session.recorder, session.trainer, absent=absent)
    session.recorder.finish("KILLED")
    assert words in caplog.text
    assert "step 12" in caplog.text


def test_a_run_without_checkpoints_says_that_it_begins_again(run_dir, capsys):
    shutil.rmtree(run_dir / "checkpoints")
    assert train("run_dir=run", "trainer.max_steps=13") == 0
    assert "run has no checkpoint to go on from: it begins again" in capsys.readouterr().err


def test_a_text_run_that_lost_its_vocabulary_says_how_to_get_it_back(run_dir):
    (run_dir / "vocabulary.json").unlink()
    with pytest.raises(UserError, match=r"has lost vocabulary.json.*give the run more steps"):
        language_model(
            run="run",
            output_dir=Path(),
            data_dir=Path(),
            device="cpu",
            precision=Precision.auto,
            trust=[],
        )
    assert train("run_dir=run", "trainer.max_steps=13") == 0
    assert (run_dir / "vocabulary.json").exists()


def test_another_runs_checkpoints_are_refused(run_dir, capsys):
    assert train("run_dir=other", "seed=2") == 0
    other = Path("other")
    shutil.rmtree(run_dir / "checkpoints")
    shutil.copytree(other / "checkpoints", run_dir / "checkpoints")
    with pytest.raises(checkpoint.ForeignError, match="best-00000012 is another run's"):
        load.load_run(run_dir, device="cpu", trust=[])
    for name in ("checkpoints", "summary.json"):  # with the other's uid its settings tell
        if name != "checkpoints":
            shutil.copy(other / name, run_dir / name)
        session = TrainingRun(resolve(settings("run_dir=run", "trainer.max_steps=20")))
        with pytest.raises(checkpoint.ForeignError, match="last-00000012 is another run's"):
            session.run()


def test_leftovers_of_dead_processes_go_and_nothing_else(run_dir):
    dead = [f".summary.{DEAD}.json", f".summary.json.{DEAD}", f".config.{DEAD}.yaml"]
    dead += [f"samples/.step-00000006.{DEAD}.txt", f"plots/.loss.{DEAD}.png"]
    kept = [f".notes.{DEAD}.txt", ".summary.1.json", "samples/mine.txt"]
    for name in (*dead, *kept):
        (run_dir / name).write_text("x")
    finished = resolve(settings("run_dir=run"))
    assert isinstance(finished, FinishedRun)
    tidy.finished(finished)
    assert [n for n in dead if (run_dir / n).exists()] == []
    assert [n for n in kept if not (run_dir / n).exists()] == []


def test_a_text_that_changed_after_the_end_is_said(run_dir, caplog):
    finished = resolve(settings("run_dir=run"))
    assert isinstance(finished, FinishedRun)
    text = run_dir.parent / "text.txt"
    finished.summary.data["path"] = str(text)  # the copy's own
    tidy.say_if_data_changed(finished)
    assert not caplog.text
    text.write_text("another text")
    tidy.say_if_data_changed(finished)
    assert "text.txt changed since this run was trained" in caplog.text


class Meddler:
    """Does something to the run folder after the 13th step."""

    def __init__(self, monkeypatch, action) -> None:
        from mambalab.train.loop import Trainer

        step = Trainer._train_step

        def meddle(trainer):
            step(trainer)
            if trainer.state.step == 13:
                action()

        monkeypatch.setattr(Trainer, "_train_step", meddle)


def test_a_folder_renamed_while_running_is_not_made_again(run_dir, monkeypatch, capsys):
    Meddler(monkeypatch, lambda: run_dir.rename("elsewhere"))
    assert train("run_dir=run", "trainer.max_steps=14") == 1
    assert "was renamed or deleted while the run trained" in one_line(capsys)
    assert not run_dir.exists()


def test_small_files_deleted_while_running_are_written_again(run_dir, monkeypatch, capsys):
    gone = [run_dir / n for n in ("config.yaml", "spec.json", "vocabulary.json", "metrics.jsonl")]
    Meddler(monkeypatch, lambda: [path.unlink() for path in gone])
    assert train("run_dir=run", "trainer.max_steps=14") == 0
    shown = capsys.readouterr().err
    assert "config.yaml" in shown
    assert "went while the run trained: written again" in shown
    assert "metrics.jsonl was renamed or deleted while the run trained" in shown
    assert all(path.stat().st_size for path in gone)
    assert [r["step"] for r in rows(run_dir) if "train/loss" in r] == list(range(2, 15, 2))


def test_a_write_that_fails_is_one_line_and_the_run_is_failed(run_dir, monkeypatch, capsys):
    def refuse():
        shutil.rmtree(run_dir / "samples")
        (run_dir / "samples").write_text("in the way")

    Meddler(monkeypatch, refuse)
    assert train("run_dir=run", "trainer.max_steps=14") == 1
    assert "the same command goes on" in one_line(capsys)
    assert "Traceback" not in (run_dir / "train.log").read_text()
    assert summary(run_dir)["status"] == "FAILED"
