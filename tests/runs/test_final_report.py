"""What is printed when a run is over."""

import json

import pytest

from mambalab.config import compose
from mambalab.records.run_folder import RunFolder
from mambalab.runs import final_report

SUMMARY = {
    "status": "FINISHED",
    "reason": "max_steps=9 reached",
    "step": 9,
    "seconds": 2.0,
    "tokens_per_second": 0.0,
    "best": None,
    "last": {},
}


@pytest.fixture
def show(tmp_path, capsys):
    """A function that shows a run with a changed summary and a note of MLflow, as lines."""

    def build(note=None, options=(), **changes):
        (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, **changes}))
        if note is not None:
            (tmp_path / "mlflow_run.json").write_text(json.dumps(note))
        folder = RunFolder(tmp_path)
        settings = compose("train", ["tracking=mlflow", *options])
        final_report.show(settings, folder, folder.summary())
        return capsys.readouterr().out.splitlines()

    return build


def test_metrics_fit_the_terminal_and_a_path_is_not_broken(show, tmp_path, monkeypatch):
    monkeypatch.setattr("mambalab.utils.console.columns", lambda stream: 40)
    last = {"val/loss": 1.0, "val/bits_per_char": 2.0, "val/bits_per_byte": 3.0}
    lines = show(last=last)
    at = lines.index("last     val/loss 1.0000,")
    assert lines[at + 1 : at + 3] == [f"{'':9}val/bits_per_char 2.0000,",
                                      f"{'':9}val/bits_per_byte 3.0000"]  # fmt: skip
    assert f"folder   {tmp_path}" in lines


def test_mlflow_is_named_only_if_the_run_is_there(show):
    assert not any(line.startswith("mlflow") for line in show())
    assert not any(line.startswith("mlflow") for line in show({"uid": "u", "run_id": None}))
    assert show({"uid": "u", "run_id": "r"})[-1] == "mlflow   mambalab ui"
    assert show(options=["output_dir=/o"])[-1] == "mlflow   mambalab ui output_dir=/o"
    assert show(options=["tracking.uri=http://me:pw@h:1"])[-1] == "mlflow   http://h:1"
    assert not any(line.startswith("mlflow") for line in show(options=["tracking=jsonl"]))


def test_other_trackers_say_where_to_look(show, tmp_path):
    board, wandb = ["tracking=tensorboard", f"output_dir={tmp_path.parent}"], ["tracking=wandb"]
    assert not any("tensorboard" in line for line in show(options=board))
    (tmp_path / "tensorboard").mkdir()
    assert show(options=board)[-1] == f"look     tensorboard --logdir {tmp_path.parent}"
    assert show(options=board[:1])[-1] == f"look     tensorboard --logdir {tmp_path}"
    assert not any(line.startswith("wandb") for line in show(options=wandb))
    note = {"uid": "u", "uri": None}
    (tmp_path / "wandb_run.json").write_text(json.dumps(note))
    kept = tmp_path / "wandb" / "offline-run-20260101_000000-u"
    kept.mkdir(parents=True)
    assert show(options=wandb)[-1] == f"wandb    wandb sync {kept}"
    (tmp_path / "wandb_run.json").write_text(json.dumps({**note, "uri": "https://host/u"}))
    assert show(options=wandb)[-1] == "wandb    https://host/u"


def test_one_step_is_one(show):
    assert "trained  1 step in 2s" in show(step=1)
    assert "trained  9 steps in 2s" in show()


def test_a_stopped_run_says_how_it_goes_on(show):
    assert show(status="KILLED")[-1] == "next     the same command goes on from step 9"
    assert not any("goes on" in line for line in show())


def test_a_run_stopped_in_its_test_says_what_is_left(show):
    last = show(status="KILLED", left="test")[-1]
    assert last == "next     the same command measures the test, from its beginning"


def test_speed_is_in_whole_examples_where_people_count_these(show):
    fast = {"tokens_per_second": 800.0, "tokens_per_step": 6400}
    assert "speed    800 tokens/s" in show(**fast)
    images = ["task=digits", "task.batch_size=50", "trainer.grad_accum=2"]
    assert "speed    12 images/s, 800 tokens/s" in show(options=images, **fast)
    assert "speed    800 tokens/s" in show(options=images, tokens_per_second=800.0)
    filled = ["task=diffusion", "task.batch_size=100"]
    assert "speed    12 images/s, 800 tokens/s" in show(options=filled, **fast)
    assert "speed    800 tokens/s" in show(options=[*filled, "task.data=text"], **fast)
