"""Folders that are moved, copied or restored, and dead runs: whose MLflow run is whose."""

import json
import shutil
import time
from pathlib import Path

import pytest

from mambalab.tracking import mlflow_store
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.note import Note
from mambalab.utils import process
from tests.tracking.stores import points_in_store, query

DEAD = 2**22 + 1


def rows(steps) -> str:
    return "".join(json.dumps({"step": step, "train/loss": 1 / step}) + "\n" for step in steps)


@pytest.fixture
def run_dir(store, tmp_path) -> Path:
    folder = tmp_path / "toy" / "run"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(rows(range(1, 11)))
    return folder


@pytest.fixture
def send(store, tmp_path):
    """A function that sends a folder as a new process would."""

    def build(folder: Path, start_ms: int = 1000) -> MlflowRun:
        uri = mlflow_store.store_uri(None, tmp_path)
        it = MlflowRun(folder, uri, output_dir=tmp_path, experiment="toy")
        it.open(params={}, tags={}, start_ms=start_ms)
        it.send()
        return it

    return build


def test_a_renamed_folder_finds_its_run(send, run_dir, store):
    first = send(run_dir)
    moved = run_dir.rename(run_dir.with_name("other"))
    again = send(moved)
    assert again.note.run_id == first.note.run_id
    assert again.copy_of is None
    assert len(points_in_store(store)) == 10


def test_a_folder_moved_to_another_disk_finds_its_run(send, run_dir, tmp_path):
    first = send(run_dir)
    shutil.copytree(run_dir, tmp_path / "disk")  # as mv does it: another inode
    shutil.rmtree(run_dir)
    assert send(tmp_path / "disk").note.run_id == first.note.run_id


def test_a_copy_becomes_a_run_of_its_own_and_both_go_on(send, run_dir, store, tmp_path):
    first = send(run_dir)
    copied = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    (copied / "metrics.jsonl").write_text(rows(range(1, 15)))
    (run_dir / "metrics.jsonl").write_text(rows(range(1, 13)))
    other = send(copied)
    assert other.copy_of == run_dir
    assert other.note.uid != first.note.uid
    for folder, count in ((copied, 14), (run_dir, 12), (copied, 14)):
        it = send(folder)
        assert len(points_in_store(store, it.note.run_id)) == count
    assert query(store, "select count(*) from runs") == [(2,)]


def test_a_copy_whose_original_was_renamed_is_told_apart_by_the_store(send, run_dir, tmp_path):
    first = send(run_dir)
    copied = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    moved = run_dir.rename(tmp_path / "moved")
    notes = [send(copied).note, send(moved).note, send(copied).note, send(moved).note]
    assert notes[0].run_id == first.note.run_id  # a note alone cannot tell it from a move
    assert notes[1].run_id not in (None, notes[0].run_id)
    assert [n.run_id for n in notes[2:]] == [n.run_id for n in notes[:2]]


def test_a_symbolic_link_to_a_folder_is_that_folder(send, run_dir, tmp_path):
    first = send(run_dir)
    (tmp_path / "link").symlink_to(run_dir)
    assert send(tmp_path / "link").note.run_id == first.note.run_id
    assert send(run_dir).note.run_id == first.note.run_id


def test_no_row_twice_when_a_backup_comes_back(send, run_dir, store, tmp_path):
    first = send(run_dir)
    backup = Path(shutil.copytree(run_dir, tmp_path / "backup"))
    (run_dir / "metrics.jsonl").write_text(rows(range(1, 21)))
    first.send()
    shutil.rmtree(run_dir)
    shutil.copytree(backup, run_dir)
    again = send(run_dir)
    assert again.note.run_id == first.note.run_id
    for last in (14, 18, 23):  # the run goes on and comes by the same steps
        (run_dir / "metrics.jsonl").write_text(rows(range(1, last + 1)))
        again.start_ms += 5000  # other time stamps, as a new session has them
        again.send()
    stored = points_in_store(store)
    assert len(stored) == len(set(stored)) == 23
    assert again.conflicts == 0


def test_a_note_of_an_older_version_is_taken_over(send, run_dir):
    first = send(run_dir)
    path = run_dir / "mlflow_run.json"
    data = json.loads(path.read_text())
    del data["folder"]
    path.write_text(json.dumps(data))
    assert Note.read(run_dir).folder is None
    assert send(run_dir).note.run_id == first.note.run_id
    assert json.loads(path.read_text())["folder"] == str(run_dir)


@pytest.mark.parametrize(
    ("name", "status", "expected", "tagged"),
    [
        ("summary.json", "FINISHED", "FINISHED", True),
        ("summary.json", "FINISHED", "FINISHED", False),
        ("summary.json", "FAILED", "FAILED", True),
        ("summary.json", "RUNNING", "KILLED", True),
        ("summary.json", None, "KILLED", False),
        ("sweep.json", "FINISHED", "FINISHED", True),
    ],
)
def test_a_dead_run_ended_as_its_folder_says(send, run_dir, store, name, status, expected, tagged):
    it = send(run_dir)
    it.set_running()
    if status is not None:
        (run_dir / name).write_text(json.dumps({"status": status}))
    it._client.set_tag(it.note.run_id, mlflow_store.PID, str(DEAD))
    if not tagged:  # an older version's: its name is its path below output_dir
        it._client.delete_tag(it.note.run_id, mlflow_store.FOLDER)
    assert process.identity()["pid"] != DEAD
    assert it.close_dead_runs() == 1
    assert query(store, "select status from runs") == [(expected,)]
    tags = it._client.get_run(it.note.run_id).data.tags
    assert tags[mlflow_store.STATUS] == expected


def test_a_run_never_ends_before_it_began(send, run_dir, store, tmp_path):
    ahead = round(1000 * time.time()) + 3_600_000  # the clock was set back by an hour since
    it = send(run_dir, start_ms=ahead)
    it.set_running()
    it.end("FINISHED", ahead - 5)
    assert query(store, "select end_time - start_time from runs") == [(0,)]
    it.set_running()
    it._client.set_tag(it.note.run_id, mlflow_store.PID, str(DEAD))
    it.close_dead_runs()
    assert query(store, "select end_time >= start_time from runs") == [(1,)]
