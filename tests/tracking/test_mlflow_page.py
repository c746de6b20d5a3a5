"""What people see of a run in MLflow beside its curves."""

import json
import sys
import types
from pathlib import Path

import pytest

from mambalab.tracking import mlflow_names, mlflow_reader, mlflow_store, mlflow_system
from mambalab.tracking.mlflow_best import BestSoFar
from mambalab.tracking.mlflow_page import MARK, joined
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.mlflow_system import SystemMonitor
from mambalab.tracking.mlflow_view import differing, state
from tests.tracking.stores import points_in_folder, points_in_store, query

ROWS = [
    {"step": 10, "train/loss": 2.5, "time/seconds": 1.0, "time/tokens_per_second": 7.0},
    {"step": 10, "val/loss": 2.4, "val/accuracy": 0.5, "val/accuracy_of/cat": 0.1},
    {"step": 20, "val/loss": 2.2, "val/accuracy": 0.5, "val/accuracy_of/cat": 0.2},
    {"step": 30, "val/loss": 2.1, "val/accuracy": 0.4},
    {"step": 40, "val/loss": None, "val/accuracy": None},
]
SHA = "0123456789abcdef" * 4
SUMMARY = {
    "task": "pets",
    "status": "FINISHED",
    "reason": "max_steps=40 reached",
    "command": "mambalab train task=pets 'note=a *b*'",
    "metric": "val/accuracy",
    "maximize": True,
    "data": {"sha256": SHA, "source": "https://pets.test/all", "description": "pets; 9 train"},
    "test": {"step": 20, "times": 1, "test/accuracy": 0.45, "test/accuracy_of/cat": 0.2},
}


@pytest.fixture
def run_dir(store, tmp_path) -> Path:
    folder = tmp_path / "pets" / "run"
    for name in ("plots", "samples"):
        (folder / name).mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "spec.json").write_text(json.dumps({"classes": 3, "seq_len": 8, "input_dim": 4}))
    (folder / "plots" / "loss.png").write_bytes(b"png")
    (folder / "samples" / "step-00000010.txt").write_text("old")
    (folder / "samples" / "step-00000040.txt").write_text("<b>new</b> & *so*\n\n" + "x" * 150)
    return folder


@pytest.fixture
def send(run_dir, tmp_path):
    """A function that sends the folder as a new process would, to its end."""

    def call(**tags: str) -> MlflowRun:
        uri = mlflow_store.store_uri(None, tmp_path)
        it = MlflowRun(run_dir, uri, output_dir=tmp_path, experiment="pets")
        it.open(params={}, tags=tags, start_ms=1000)
        it.advance({}, ("FINISHED", 5000))
        return it

    return call


def stored(store) -> dict[str, str]:
    return dict(query(store, "select key, value from tags"))


def test_the_best_evaluation_is_a_row_of_metrics(send, store, run_dir):
    send()
    send()
    best = query(store, "select key, step, value, timestamp from metrics where key like 'best/%'")
    assert sorted(best) == [
        ("best/step", 0, 20.0, 2000),  # of two equal ones that with the lower loss, as in training
        ("best/val_accuracy", 0, 0.5, 2000),
        ("best/val_loss", 0, 2.2, 2000),
    ]
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "time/seconds": 2.0, "val/loss": 3.0, "val/accuracy": 0.9}\n')
    send()
    shown = dict(query(store, "select key, value from latest_metrics where key like 'best/%'"))
    assert shown == {"best/step": 50.0, "best/val_accuracy": 0.9, "best/val_loss": 3.0}
    assert points_in_store(store) == points_in_folder(run_dir)


def test_a_better_evaluation_at_the_same_time_is_the_one_that_is_shown(send, store, run_dir):
    send()
    rows = [(50, 9.0, 0.6), (60, 1.0, 0.7)]  # times are known of rows of training alone
    for step, loss, accuracy in rows:
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(f'{{"step": {step}, "val/loss": {loss}, "val/accuracy": {accuracy}}}\n')
        send()  # by a process of its own
        shown = dict(query(store, "select key, value from latest_metrics where key like 'best/%'"))
        assert shown == {"best/step": step, "best/val_loss": loss, "best/val_accuracy": accuracy}


def test_without_a_summary_the_best_is_the_lowest_loss(tmp_path):
    it = BestSoFar(tmp_path)
    for row in ROWS:
        it.see(row["step"], {k: v for k, v in row.items() if k != "step"}, 0)
    assert it.found is not None
    assert (it.found.step, it.found.metric) == (30, "val/loss")


def test_charts_of_time_come_last_and_old_runs_keep_their_names(send, store, run_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_names, "in_store", lambda name: name)  # an older version
        it = send()
    keys = {key for (key,) in query(store, "select distinct key from metrics")}
    assert "time/seconds" in keys
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "time/seconds": 2.0}\n')
    send()
    assert points_in_store(store) == points_in_folder(run_dir)
    assert {key for (key,) in query(store, "select distinct key from metrics")} == keys

    it._client.delete_run(it.note.run_id)
    (run_dir / "mlflow_run.json").unlink()
    it = send()
    live = {key for (key,) in query(store, "select key from latest_metrics where run_uuid = "
                                           f"'{it.note.run_id}'")}  # fmt: skip
    assert {"system/seconds", "system/tokens_per_second"} <= live
    assert not any(key.startswith("time/") for key in live)
    it.send_system(SystemMonitor().look())
    (record,) = mlflow_reader.read("pets", None, store.parent)
    assert record.curves["time/seconds"] == [(10, 1.0), (50, 2.0)]
    assert not any(name.startswith(("best/", "system/")) for name in record.curves)


def test_the_description_says_what_was_done_and_how_well(send, store):
    it = send(**{"mlflow.note.content": "Are cats *harder*?"})
    theirs, _, ours = stored(store)["mlflow.note.content"].partition(MARK)
    assert theirs == "Are cats *harder*?\n\n"
    best, command, data, picture, sample, _ = ours.strip().split("\n\n", 5)
    assert best.split("  \n") == [
        "Best: val/accuracy **0.5000**, val/loss **2.2000** at step 20",
        "Test: test/accuracy **0.4500**, weights of step 20",
        "FINISHED: max&#95;steps=40 reached",
    ]
    assert command == "`mambalab train task=pets 'note=a *b*'`"
    assert data == "pets; 9 train"
    address = f"get-artifact?path=plots%2Floss.png&run_uuid={it.note.run_id}"
    assert picture == f"![loss]({address})"
    assert sample == "Sample at step 40:"
    text = ours.split("<pre><code>")[1].split("</code></pre>")[0]
    assert text == f"&lt;b&gt;new&lt;/b&gt; &amp; *so*\n\n{'x' * 100}\n{'x' * 50}"


def test_the_description_shows_the_last_sheet_of_pictures(send, store, run_dir):
    for step in (20, 40):
        (run_dir / "samples" / f"step-000000{step}.png").write_bytes(b"png")
    it = send()
    told = stored(store)["mlflow.note.content"]
    address = f"get-artifact?path=samples%2Fstep-00000040.png&run_uuid={it.note.run_id}"
    assert f"![step-00000040]({address})" in told
    assert "step-00000020" not in told


def test_what_a_person_writes_in_mlflow_stays(send, store, run_dir):
    it = send()
    ours = stored(store)["mlflow.note.content"]
    assert ours.startswith(MARK)
    it._client.set_tag(it.note.run_id, "mlflow.note.content", f"I like it.\n\n{ours}")
    (run_dir / "plots" / "loss.png").unlink()
    send()
    told = stored(store)["mlflow.note.content"]
    assert told.startswith(f"I like it.\n\n{MARK}")
    assert "![loss]" not in told
    send(**{"mlflow.note.content": "given anew"})
    assert stored(store)["mlflow.note.content"] == told.replace("I like it.", "given anew")
    it._client.set_tag(it.note.run_id, "mlflow.note.content", "all of it is mine")
    send()
    assert stored(store)["mlflow.note.content"].startswith(f"all of it is mine\n\n{MARK}")


def test_a_description_has_a_mark_only_if_mambalab_wrote_in_it():
    assert joined("note", "") == "note"
    assert joined("", "ours") == f"{MARK}\n\nours"


def test_a_long_note_stays_whole(send, store):
    note = "n" * 4700
    send(**{"mlflow.note.content": note})
    told = stored(store)["mlflow.note.content"]
    assert told.startswith(f"{note}\n\n{MARK}\n\nBest: ")
    assert len(told) <= 5000
    assert "<pre>" not in told


def test_the_data_set_is_logged_once(send, store):
    send()
    send()
    ((name, digest, kind, source, profile),) = query(
        store,
        "select name, digest, dataset_source_type, dataset_source, dataset_profile from datasets",
    )
    assert (name, digest, kind) == ("pets", SHA[:36], "http")
    assert json.loads(source) == {"url": "https://pets.test/all", "sha256": SHA,
                                  "source": "https://pets.test/all"}  # fmt: skip
    assert json.loads(profile) == {"splits": "pets; 9 train", "classes": 3, "steps": 8}
    assert len(query(store, "select * from inputs")) == 1
    assert query(store, "select value from input_tags") == [("training",)]


def test_tags_for_machines_are_hidden_and_old_ones_still_read(send, store, run_dir):
    it = send()
    visible = {key for key in stored(store) if not key.startswith("mlflow.")}
    assert visible == {"mambalab.host", "mambalab.folder"}
    for new, old in mlflow_names.OLD_TAGS.items():  # as an older version left them
        tags = it._client.get_run(it.note.run_id).data.tags
        if new in tags:
            it._client.set_tag(it.note.run_id, old, tags[new])
            it._client.delete_tag(it.note.run_id, new)
    note = json.loads((run_dir / "mlflow_run.json").read_text())
    (run_dir / "mlflow_run.json").write_text(json.dumps({"uid": note["uid"]}))
    again = send()
    assert again.note.run_id == it.note.run_id
    assert {key for key in stored(store) if not key.startswith("mlflow.")} == visible


def test_a_sweep_shows_its_best_job_and_the_comparison(store, tmp_path):
    folder = tmp_path / "sweep"
    (folder / "comparison").mkdir(parents=True)
    jobs = {
        name: {"best": {"metric": "val/loss", "value": value, "step": 5, "maximize": False}}
        for name, value in (("a=1", 2.0), ("a=2", 1.5), ("a=3", 1.7))
    }
    sweep = {"jobs": {**jobs, "a=4": {"best": None}}, "command": ["a=1,2,3,4"]}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    (folder / "metrics.jsonl").write_text('{"step": 1, "jobs/finished": 3.0}\n')
    (folder / "comparison" / "comparison.md").write_text(
        "# Comparison\n\n![curves.png](curves.png)\n\n![no](https://elsewhere.test/x.png)\n"
    )
    uri = mlflow_store.store_uri(None, tmp_path)
    it = MlflowRun(folder, uri, output_dir=tmp_path, experiment="text")
    it.open(params={}, tags={}, start_ms=1)
    it.advance({}, ("FINISHED", 2))
    shown = dict(query(store, "select key, value from latest_metrics"))
    assert shown == {"best/val_loss": 1.5, "best/step": 5.0, "jobs_finished": 3.0}
    told = stored(store)["mlflow.note.content"]
    assert "Best: val/loss **1.5000** at step 5, by `a=2`" in told
    assert "`mambalab train -m a=1,2,3,4`" in told
    address = f"get-artifact?path=comparison%2Fcurves.png&run_uuid={it.note.run_id}"
    assert f"![curves.png]({address})" in told


def test_the_machines_load(monkeypatch):
    it = SystemMonitor()
    assert it.due()
    found = it.look()
    assert not it.due()
    assert found["system/process_cpu_percentage"] >= 0
    if sys.platform == "linux":
        assert 0 < found["system/system_memory_usage_percentage"] < 100
        used = found["system/process_memory_megabytes"]
        assert 10 < used < found["system/system_memory_usage_megabytes"]
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        current_device=lambda: 1,
        memory_reserved=lambda number: 5e9,
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(mlflow_system, "_PROC", Path("/nowhere"))  # as on another system
    found = SystemMonitor().look()
    assert found.keys() == {"system/process_cpu_percentage", "system/gpu_1_memory_usage_megabytes"}
    assert found["system/gpu_1_memory_usage_megabytes"] == 5000.0


def test_columns_are_what_the_runs_differ_in():
    common = {"task.name": "text", "dropout.name": "ssm", "dropout.p": "0.1"}
    runs = [
        {**common, "optim.lr": "1", "run_dir": "a", "seed": "1", "model._target_": "x"},
        {**common, "optim.lr": "2", "run_dir": "b", "seed": "2", "model._target_": "y"},
        {**common, "dropout.name": "none", "dropout.p": "0.0", "optim.lr": "2", "seed": "2"},
    ]
    # dropout.p says no more than dropout.name does
    assert differing(runs) == ["dropout.name", "seed", "optim.lr"]
    runs.append({**common, "dropout.p": "0.3"})
    assert "dropout.p" in differing(runs)
    assert differing(runs[:1]) == []


def test_charts_begin_with_val_and_train():
    def run(*metrics: str, digest: str = "a", **tags: str):
        dataset = types.SimpleNamespace(dataset=types.SimpleNamespace(digest=digest))
        inputs = types.SimpleNamespace(dataset_inputs=[dataset])
        data = types.SimpleNamespace(
            metrics=dict.fromkeys(metrics, 1.0),
            params={},
            tags={key.replace("_", "."): value for key, value in tags.items()},
        )
        return types.SimpleNamespace(data=data, inputs=inputs)

    alone = run("best/val_loss", "mine/x", "system/seconds", "test/loss", "train/loss", "val/loss")
    found = state([alone])
    sections = [section["name"] for section in found["compareRunSections"]]
    assert sections == ["val", "train", "best", "test", "mine"]
    assert found["selectedColumns"] == ["metrics.`best/val_loss`"]
    judged = [f"best/{name}" for name in ("step", "val_accuracy", "val_accuracy_of/1", "val_loss")]
    two = state([alone, run(*judged, digest="b")])["selectedColumns"]
    assert two[0] == "attributes.`Dataset`"  # a wide column, shown where data differ
    assert two[1:4] == [f"metrics.`best/{k}`" for k in ("val_accuracy", "val_loss", "step")]
    job = run("train/loss", mlflow_parentRunId="x")
    sweep = run("best/val_loss", "jobs_finished", mambalab_kind="sweep")
    assert "compareRunSections" not in state([sweep, job])
