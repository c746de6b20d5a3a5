"""The test split: measured once, at the end, with the weights that validation chose."""

import json
from pathlib import Path

import pytest

from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.train import signals
from tests.lab import only_run, rows, summary

DIGITS = [
    "task=digits",
    "task.batch_size=16",
    "model.d_model=16",
    "model.n_layer=1",
    "model.d_state=4",
    "optim.warmup_steps=2",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=4",
    "trainer.log_every=2",
    "tracking=jsonl",
    "device=cpu",
]
PROBE = [o for o in DIGITS if not o.startswith("task")] + [
    "task=induction_heads",
    "task.seq_len=8",
    "task.longest=4",
    "task.eval_sequences=20",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*options: str, task=DIGITS) -> Path:
    assert main.main(["train", *task, *options]) == 0
    return only_run(Path.cwd())


def of_the_test(run_dir: Path) -> list[dict]:
    return [row for row in rows(run_dir) if any(k.startswith("test/") for k in row)]


def test_a_finished_run_was_tested_once_with_its_best_weights(capsys):
    run_dir = train("trainer.max_steps=8")
    facts = summary(run_dir)
    (row,) = of_the_test(run_dir)
    assert row["step"] == facts["best"]["step"] == facts["test"]["step"]
    assert facts["test"]["times"] == 1
    assert 0 <= facts["test"]["test/accuracy"] <= 1
    per_class = [k for k in facts["test"] if k.startswith("test/accuracy_of/")]
    assert len(per_class) == 10
    out = capsys.readouterr().out
    assert f"test     test/loss {facts['test']['test/loss']:.4f}, test/accuracy " in out
    assert "accuracy_of" not in out
    table = json.loads((run_dir / "tables/test_confusion.json").read_text())
    counts = table["counts"]
    right = sum(counts[i][i] for i in range(10)) / sum(map(sum, counts))
    assert right == pytest.approx(facts["test"]["test/accuracy"])
    assert (run_dir / "plots/test_confusion.png").read_bytes().startswith(b"\x89PNG")

    assert main.main(["eval", "split=test"]) == 0  # the same weights, the same numbers
    out = capsys.readouterr().out
    assert f"{facts['test']['test/accuracy']:.6f}" in out
    assert "true, predicted" in out


def test_training_further_tests_only_other_weights():
    run_dir = train("trainer.max_steps=8")
    before = (run_dir / "metrics.jsonl").read_bytes()
    train("trainer.max_steps=8")
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    train("trainer.max_steps=24")
    facts = summary(run_dir)
    steps = [row["step"] for row in of_the_test(run_dir)]
    assert facts["best"]["step"] > 8, "it learned more"
    assert steps == [8, facts["best"]["step"]]
    assert facts["test"]["times"] == 2


def test_a_test_result_survives_a_session_that_is_stopped(monkeypatch):
    run_dir = train("trainer.max_steps=8")
    before = summary(run_dir)["test"]
    with monkeypatch.context() as patch:
        patch.setattr(signals.StopSignals, "requested", lambda _: "SIGTERM")
        assert main.main(["train", *DIGITS, "trainer.max_steps=24"]) == 143
    assert summary(run_dir)["test"] == before
    train("trainer.max_steps=24")
    assert summary(run_dir)["test"]["times"] == 2
    assert [row["step"] for row in of_the_test(run_dir)] == [
        before["step"],
        summary(run_dir)["best"]["step"],
    ]


def test_an_error_in_the_final_test_is_the_runs_own(monkeypatch, capsys):
    def broken(*_):
        raise UserError("the test split is gone")

    monkeypatch.setattr("mambalab.tasks.base.Task.evaluate_detailed", broken)
    assert main.main(["train", *DIGITS, "trainer.max_steps=8"]) == 1
    facts = summary(only_run(Path.cwd()))
    assert (facts["status"], facts["reason"]) == ("FAILED", "the test split is gone")
    assert facts["step"] == 8
    assert facts["best"]["step"] == 8


def test_classes_of_any_name_are_tested_and_drawn():
    names = ["$_$", "..", "x" * 300, "a b"]
    rows_ = [f"{name}\tone {n}\ttwo" for n in range(20) for name in names]
    Path("odd.tsv").write_text("\n".join(rows_) + "\n")
    words = [o for o in DIGITS if not o.startswith("task")]
    words += ["task=pairs", "task.path=odd.tsv", "task.max_bytes=20", "trainer.max_steps=2"]
    assert main.main(["train", *words]) == 0
    assert len(summary(only_run(Path.cwd()))["test"]) >= 4


def test_a_test_that_is_stopped_is_measured_by_the_same_command(monkeypatch, capsys):
    options = [*PROBE, "trainer.max_steps=8", "task.eval_batch_size=5"]
    measured = []
    with monkeypatch.context() as patch:

        def requested(asked):
            measured.append(asked)
            return "SIGINT" if len(measured) == 8 + 2 * 4 + 5 + 1 else None

        # Eight steps, two evaluations of four batches, and the sixth batch of the test.
        patch.setattr(signals.StopSignals, "requested", requested)
        assert main.main(["train", *options]) == 130
    run_dir = only_run(Path.cwd())
    facts = summary(run_dir)
    assert (facts["status"], facts["ended_by"], facts["step"]) == ("KILLED", "SIGINT", 8)
    assert facts["reason"] == "stopped by SIGINT in the final test, training is complete"
    assert facts["left"] == "test"
    assert "test" not in facts
    assert of_the_test(run_dir) == []
    before = rows(run_dir)
    assert main.main(["train", *options]) == 0
    (row,) = of_the_test(run_dir)
    assert rows(run_dir) == [*before, row]
    facts = summary(run_dir)
    assert (facts["status"], facts["test"]["times"]) == ("FINISHED", 1)
    assert "left" not in facts


def test_a_run_that_was_stopped_is_not_tested(monkeypatch):
    monkeypatch.setattr(signals.StopSignals, "requested", lambda _: "SIGTERM")
    assert main.main(["train", *DIGITS, "trainer.max_steps=8"]) == 143
    run_dir = only_run(Path.cwd())
    assert of_the_test(run_dir) == []
    assert not (run_dir / "tables").exists()


def test_accuracy_and_then_loss_choose_the_checkpoint():
    run_dir = train("trainer.max_steps=16")
    found = [
        (row["val/accuracy"], -row["val/loss"], row["step"])
        for row in rows(run_dir)
        if "val/loss" in row
    ]
    assert max(found)[2] == summary(run_dir)["best"]["step"]


def test_a_curve_over_lengths_is_kept_and_drawn(capsys):
    run_dir = train("trainer.max_steps=4", task=PROBE)
    facts = summary(run_dir)["test"]
    at = [facts[f"test/accuracy_at/{n}"] for n in (16, 32)]
    assert facts["test/accuracy"] == min(at)
    table = json.loads((run_dir / "tables/test_curve.json").read_text())
    assert (table["x"], table["y"][1:], table["marked"]) == ([8, 16, 32], at, 8)
    assert (run_dir / "plots/test_curve.png").exists()


def test_stopped_and_resumed_images_equal_never_stopped(monkeypatch):
    """Augmentation and the order of the images come back exactly."""
    options = ["task.augment.crop=1", "task.augment.rotation=20", "task.augment.erasing=0.5"]
    options = [*DIGITS, "trainer.max_steps=12", *options]
    assert main.main(["train", *options, "run_dir=whole"]) == 0
    asked = iter([None] * 6 + ["SIGTERM"])  # before each step, and in the evaluation of step 4
    with monkeypatch.context() as patch:
        patch.setattr(signals.StopSignals, "requested", lambda _: next(asked))
        assert main.main(["train", *options, "run_dir=parts"]) == 143
    assert summary(Path("parts"))["step"] == 5
    assert main.main(["train", *options, "run_dir=parts"]) == 0
    assert rows(Path("parts")) == rows(Path("whole"))
