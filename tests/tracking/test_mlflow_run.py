import json
import math
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from mambalab.tracking import mlflow_store
from mambalab.tracking.description import labels_of, params_of, without_labels
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.note import Note
from tests.tracking.stores import forget_runs, points_in_folder, points_in_store, query


@pytest.fixture
def run_dir(store, tmp_path) -> Path:
    """A run folder with more points than fit in a batch; some steps lack a time."""
    folder = tmp_path / "toy" / "run"
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, 601):
        rows.append({"step": step, "train/loss": 1 / step, "time/seconds": step / 7})
        rows.append({"step": step, "val/loss": None if step == 3 else math.sqrt(step)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def mirror(run_dir, tmp_path):
    """A function that opens the folder's MLflow run as a new process would."""

    def build(
        params: dict[str, str] | None = None, start_ms: int = 1000, **labels: object
    ) -> MlflowRun:
        uri = mlflow_store.store_uri(None, tmp_path)
        it = MlflowRun(run_dir, uri, output_dir=tmp_path, experiment="toy")
        it.open(params=params or {}, tags={"git_revision": "abc+changes", **labels_of(labels)},
                start_ms=start_ms)  # fmt: skip
        return it

    return build


def test_the_store_gets_what_the_file_holds(mirror, run_dir, store):
    it = mirror()
    assert it.send() == 1800
    assert points_in_store(store) == points_in_folder(run_dir)
    assert it.send() == 0
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 601, "train/loss": 0.5}\n{"step": 602, "train')
    assert it.send() == 1
    assert it.note.points == 1801
    assert ("train/loss", 601, 0.5) in points_in_store(store)


def test_another_process_sends_only_the_difference(mirror, run_dir, store):
    text = (run_dir / "metrics.jsonl").read_text()
    (run_dir / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:100]))
    first = mirror()
    first.send()
    (run_dir / "metrics.jsonl").write_text(text)
    again = mirror(start_ms=999_999)
    assert again.note.run_id == first.note.run_id
    assert again.send() == 1800 - 150
    assert points_in_store(store) == points_in_folder(run_dir)
    assert mirror().send() == 0
    assert points_in_store(store) == points_in_folder(run_dir)


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("sent_before", [0, 100])
def test_a_batch_whose_fate_is_unknown_is_neither_lost_nor_doubled(
    mirror, run_dir, store, arrived, sent_before
):
    path = run_dir / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:sent_before]))
    it = mirror()
    it.send()
    path.write_text("".join(whole))
    before = len(points_in_store(store))
    send, calls = it._client.log_batch, []

    def unreliable(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2 and not arrived:
            raise ConnectionError("request lost")
        send(*args, **kwargs)
        if len(calls) == 2:
            raise ConnectionError("answer lost")

    it._client.log_batch = unreliable
    with pytest.raises(ConnectionError):
        it.send()
    held = len(points_in_store(store))
    assert held == (1800 if arrived else before + 1000)
    assert it.send() == 1800 - held
    assert points_in_store(store) == points_in_folder(run_dir)
    assert it.note.points == 1800


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a number is missing"])
def test_sending_the_same_points_again_makes_the_same_rows(mirror, run_dir, store, whole):
    if whole:
        rows = (run_dir / "metrics.jsonl").read_text()
        (run_dir / "metrics.jsonl").write_text(rows.replace("null", "1.5"))
    elif Version(metadata.version("mlflow")) < Version("3.16"):
        pytest.skip("MLflow takes no NaN twice before 3.16; the mirror asks for what is stored")
    it = mirror()
    it.send()
    it._stored = dict  # as if the store had not said what it holds
    it._certain = False
    assert it.send() == 1800
    assert points_in_store(store) == points_in_folder(run_dir)


def test_points_lie_on_the_runs_own_clock(mirror, store):
    mirror(start_ms=50_000).send()
    rows = query(store, "select key, step, timestamp from metrics where step in (7, 14)")
    expected = {7: 51_000, 14: 52_000}
    assert len(rows) == 6
    assert all(timestamp == expected[step] for _, step, timestamp in rows)


def test_other_values_in_the_store_are_counted(mirror, run_dir):
    mirror().send()
    path = run_dir / "metrics.jsonl"
    path.write_text(path.read_text().replace("1.0,", "1.5,", 1))
    again = mirror()
    assert again.send() == 0
    assert again.conflicts == 1


def test_a_run_is_found_again_if_the_kill_came_before_it_was_noted(mirror, run_dir, store):
    first = mirror()
    note = Note.read(run_dir)
    note.run_id = None
    note.write(run_dir)
    assert mirror().note.run_id == first.note.run_id
    assert len(query(store, "select * from runs")) == 1


def test_a_store_that_was_made_anew_gets_everything_again(mirror, run_dir, store):
    mirror().send()
    forget_runs(store)
    assert mirror().send() == 1800
    assert points_in_store(store) == points_in_folder(run_dir)


def test_a_run_deleted_in_mlflow_comes_back(mirror, run_dir, store):
    first = mirror()
    first.send()
    first._client.delete_run(first.note.run_id)
    assert mirror().send() == 0
    assert query(store, "select lifecycle_stage from runs") == [("active",)]
    Note(uid=first.note.uid).write(run_dir)
    first._client.delete_run(first.note.run_id)
    assert mirror().note.run_id == first.note.run_id
    assert query(store, "select lifecycle_stage from runs") == [("active",)]


def test_parameters_are_set_once_and_what_changes_is_a_tag(mirror):
    first = mirror({"trainer.max_steps": "100", "seed": "1"})
    again = mirror({"trainer.max_steps": "200", "seed": "1", "new": "x"})
    data = again._client.get_run(first.note.run_id).data
    assert data.params == {"trainer.max_steps": "100", "seed": "1", "new": "x"}
    assert data.tags["resumed.trainer.max_steps"] == "200"
    assert data.tags["mlflow.source.git.commit"] == "abc"
    assert data.tags["git_revision"] == "abc+changes"
    assert "resumed.seed" not in data.tags


def test_more_parameters_than_a_request_may_hold(mirror):
    params = {f"p{i}": str(i) for i in range(250)}
    it = mirror(params)
    assert it._client.get_run(it.note.run_id).data.params == params


def test_flattened_settings_fit_into_mlflow():
    flat = params_of(
        {
            "task": {"name": "text", "path": None, "params": {}},
            "betas": [0.9, 0.99],
            "trust": [],
            "odd[key]=": 1,
            "long": "x" * 10_000,
            "tracking": {"uri": "http://me:secret@host:5000/x"},
        }
    )
    long = flat.pop("long")
    assert (len(long), long[-2:]) == (6000, "x…")
    assert flat == {
        "task.name": "text",
        "task.path": "null",
        "task.params": "{}",
        "betas": "[0.9, 0.99]",
        "trust": "[]",
        "odd_key__": "1",
        "tracking.uri": "http://host:5000/x",
    }


def test_files_keep_their_place(mirror, run_dir, tmp_path):
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "loss.png").write_bytes(b"png")
    (run_dir / "config.yaml").write_text("seed: 1")
    it = mirror()
    it.send_file(run_dir / "plots" / "loss.png")
    it.send_file(run_dir / "config.yaml")
    place = tmp_path / "mlartifacts" / "toy" / it.note.run_id / "artifacts"
    found = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
    assert found == ["config.yaml", "plots/loss.png"]


def test_the_note_survives_unknown_entries_and_keeps_its_uid(tmp_path):
    note = Note.read(tmp_path)
    note.write(tmp_path)
    path = tmp_path / "mlflow_run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert Note.read(tmp_path) == note


def test_name_tags_and_note_are_where_mlflow_shows_them(mirror, store):
    def found():
        told = dict(query(store, "select key, value from tags"))
        ((name,),) = query(store, "select name from runs")
        return name, told["mlflow.runName"], told.get("tags"), told.get("mlflow.note.content")

    mirror()
    assert found() == ("toy/run", "toy/run", None, None)
    mirror(name="first try", tags=["a", "b c"], note="fine")
    assert found() == ("first try", "first try", "a, b c", "fine")
    mirror(name=None, tags=None, note=None)  # nothing said: nothing touched
    assert found() == ("first try", "first try", "a, b c", "fine")
    mirror(name="", tags=[], note="")
    assert found() == ("toy/run", "toy/run", "", "")


def test_labels_are_no_parameters_for_those_never_change():
    assert without_labels({"seed": 1, "name": "a", "tags": ["b"], "note": "c"}) == {"seed": 1}
