import io
import json
import math
import shutil
import time

import pytest
from PIL import Image

from mambalab.errors import UserError
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import recorder as tracking
from mambalab.tracking import sink, wandb_sink
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import Recorder
from tests.tracking import wandb_files
from tests.tracking.stores import points_in_folder

wandb = pytest.importorskip("wandb", reason="wandb is not installed")

PARAMS = {
    "task": {"name": "toy"},
    "optim": {"lr": 0.5},
    "data_dir": "https://me:secret@host/x",
    "name": "mine",
    "tags": ["draft", "x"],
    "note": "a remark",
}


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Nothing leaves this machine, and no setting of the person's own gets in."""
    for name in ("PROJECT", "ENTITY", "DIR", "NAME", "RUN_GROUP", "API_KEY", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(sink, "PERIOD_SECONDS", 0.05)
    for name in ("STOP_PATIENCE_SECONDS", "MAX_STOP_SECONDS"):  # wandb is imported, too
        monkeypatch.setattr(sink, name, 3600.0)
    yield
    wandb.teardown()


@pytest.fixture
def recorder(tmp_path, said):
    """A function that opens a recorder on a run folder; all are closed at the end."""
    opened = []

    def show(line, extra=None):
        said.append(line)

    def build(run_dir=tmp_path / "toy" / "run", *, resume=False, project=None) -> Recorder:
        settings = TrackingSettings(TrackingKind.wandb, None, project)
        it = Recorder(run_dir, settings, output_dir=tmp_path, announce=show)
        it.start(params=PARAMS, tags={"git_revision": "abc", "name": "x"}, resume=resume)
        opened.append(it)
        return it

    yield build
    for it in opened:
        it.finish("KILLED")


def record(it, steps):
    for step in steps:
        it.metrics(step, {"train/loss": step / 4, "time/seconds": step / 2})
        if step % 10 == 0:
            it.metrics(step, {"val/loss": math.nan if step == 20 else step / 8})


def points(run_dir) -> list[tuple]:
    found = []
    for path in wandb_files.files(run_dir):
        for row in wandb_files.history(path):
            for key, value in row.items():
                if key.startswith(("train/", "val/", "time/")):
                    finite = value if isinstance(value, float | int) and value == value else None
                    found.append((key, row["step"], finite))
    return sorted(found, key=str)


def test_a_run_arrives_whole_and_described_and_goes_on_when_resumed(recorder, tmp_path, said):
    run_dir = tmp_path / "toy" / "run"
    it = recorder()
    record(it, range(1, 31))
    sheet = io.BytesIO()
    Image.new("L", (2, 3)).save(sheet, "PNG")
    files = {"samples/step-00000010.txt": b"<To be>", "tables/test.json": b"{}"}
    files["samples/step-00000020.png"] = sheet.getvalue()
    for name, data in files.items():
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_bytes(data)
        it.artifact(run_dir / name)
    it.finish("KILLED")
    assert points(run_dir) == points_in_folder(run_dir)
    (first,) = wandb_files.files(run_dir)
    (run,) = wandb_files.of_kind(first, "run")
    uid = Note.read(run_dir, "wandb_run.json").uid
    assert (run.run_id, run.project, run.display_name) == (uid, "toy", "mine")
    assert (run.notes, list(run.tags), run.run_group) == ("a remark", ["draft", "x"], "")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optim"] == {"lr": 0.5}
    assert config["data_dir"] == "https://host/x"
    assert config["facts"] == {"git_revision": "abc"}
    assert not {"name", "tags", "note"} & set(config)
    (sample,) = (first.parent / "files" / "media" / "html").glob("samples*.html")
    assert sample.read_text() == "<pre>&lt;To be&gt;</pre>"
    (shown,) = (first.parent / "files" / "media" / "images").glob("samples*.png")
    assert shown.read_bytes() == sheet.getvalue()
    assert (first.parent / "files" / "tables" / "test.json").is_file()
    assert [end.exit_code for end in wandb_files.of_kind(first, "exit")] == [130]

    again = recorder(resume=True, project="team/other")
    record(again, range(21, 41))
    (run_dir / "summary.json").write_text('{"status": "FINISHED", "test": {"test/loss": 1.5}}')
    again.finish("FINISHED")
    assert points(run_dir) == points_in_folder(run_dir)
    _, second = wandb_files.files(run_dir)
    (run,) = wandb_files.of_kind(second, "run")
    assert (run.run_id, run.entity, run.project, run.resume) == (uid, "team", "other", True)
    steps = [row["_step"] for path in (first, second) for row in wandb_files.history(path)]
    assert steps == list(range(44))
    told = {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for update in wandb_files.of_kind(second, "summary")
        for item in update.update
    }
    assert told["run/status"] == "FINISHED"
    assert [end.exit_code for end in wandb_files.of_kind(second, "exit")] == [0]
    assert said == []
    assert "secret" not in "".join(
        file.read_bytes().decode(errors="replace") for file in run_dir.rglob("*") if file.is_file()
    )
    assert wandb_sink.sync_command(run_dir) == f"wandb sync {first.parent} {second.parent}"
    (first.parent / f"{first.name}.synced").touch()
    assert wandb_sink.sync_command(run_dir) == f"wandb sync {second.parent}"


def test_a_copy_of_a_folder_in_a_sweep_is_a_run_of_its_own_in_the_group(recorder, tmp_path, said):
    original, copy = tmp_path / "toy" / "run", tmp_path / "sweeps" / "lr" / "lr=1"
    original.mkdir(parents=True)
    Note.new(name="wandb_run.json").write(original)
    (original / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    shutil.copytree(original, copy)
    (copy.parent / "sweep.json").write_text("{}")
    it = recorder(copy, resume=True)
    record(it, [2])
    it.finish("FINISHED")
    (path,) = wandb_files.files(copy)
    (run,) = wandb_files.of_kind(path, "run")
    assert run.run_group == "lr"
    assert run.run_id != Note.read(original, "wandb_run.json").uid
    assert points(copy) == points_in_folder(copy)
    assert said == [f"{copy} is a copy of {original}: a wandb run of its own"]


@pytest.mark.parametrize("hangs", [False, True])
def test_wandb_that_fails_or_hangs_costs_one_line_and_nothing_else(
    recorder, tmp_path, said, monkeypatch, hangs
):
    begun = []

    def fail(**_):
        begun.append(True)
        while hangs and not ended:
            time.sleep(0.01)
        raise wandb.errors.CommError("no route to https://me:secret@host\nand more")

    ended = []
    monkeypatch.setattr(wandb, "init", fail)
    if hangs:
        monkeypatch.setattr(sink, "LOCAL_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(sink, "LAST_PAUSE_SECONDS", 0.01)
    it = recorder()
    record(it, range(1, 31))
    until = time.monotonic() + 300
    while not begun and time.monotonic() < until:
        time.sleep(0.01)
    assert begun
    it.finish("FINISHED")
    ended.append(True)
    run_dir = tmp_path / "toy" / "run"
    assert len(points_in_folder(run_dir)) == 63
    reason = "it does not answer" if hangs else "no route to https://host"
    assert said == [
        f"Weights & Biases: {reason}; training goes on, the metrics stay in the run folder; send "
        f"them later with `mambalab sync {run_dir} to=wandb`"
    ]
    note = Note.read(run_dir, "wandb_run.json")
    assert (note.state, note.problem) == ("behind", reason)


class Online:
    """A run of wandb's server that has the first rows already."""

    offline = disabled = False
    url, entity, project, id = "https://host/team/toy/runs/x", "team", "toy", "x"

    def __init__(self, step):
        self.step, self.rows, self.summary = step, [], {}

    def define_metric(self, *_, **__):
        pass

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self, code):
        pass


@pytest.mark.parametrize(("had", "old", "new"), [(3, 4, 2), (5, 5, 0), (9, 5, 1)])
def test_a_resumed_run_sends_what_the_server_lacks(recorder, tmp_path, monkeypatch, had, old, new):
    """It may lack rows of a session that was killed, or have more than a folder from a backup."""
    run_dir, run = tmp_path / "toy" / "run", Online(had)
    run_dir.mkdir(parents=True)
    rows = [json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in range(old)]
    (run_dir / "metrics.jsonl").write_text("".join(rows))
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    it = recorder(resume=True)
    for step in range(old, old + new):
        it.metrics(step, {"train/loss": 1.0})
    it.finish("FINISHED")
    first = max(had, old)
    lacking = [(step, step) for step in range(had, old)]
    assert [(step, row["step"]) for step, row in run.rows] == [
        *lacking,
        *((first + i, old + i) for i in range(new)),
    ]
    assert Note.read(run_dir, "wandb_run.json").uri == run.url


def test_nobody_logged_in_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "login", lambda **options: options.get("prompt", True))
    wandb.teardown()
    with pytest.raises(UserError, match=r"nobody is logged in.*`wandb login`.*WANDB_MODE=offline"):
        tracking.check(TrackingSettings(TrackingKind.wandb, None, None), output_dir=tmp_path)


def test_a_server_is_an_address(tmp_path):
    settings = TrackingSettings(TrackingKind.wandb, "postgresql://me:secret@host/db", None)
    with pytest.raises(UserError, match=r"^tracking.uri=postgresql://host/db: "):
        tracking.check(settings, output_dir=tmp_path)
