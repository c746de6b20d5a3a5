"""Sweeps of real processes: failures, kills, resume, signals, MLflow."""

import json
import os
import signal

import pytest

from tests.sweep.conftest import jobs, numbers, sweep
from tests.sweep.processes import processes_of, wait_until

TWO = ("hydra/launcher=local", "hydra.launcher.n_jobs=2")
LONG = ("trainer.max_steps=100000", "trainer.checkpoint_every=1000")
THREE = ("dropout=none", "seed=1,2,3", *TWO, "tracking=jsonl")


def test_a_failed_and_a_killed_job_are_mended_by_the_same_command(lab, tmp_path_factory):
    (lab / "trouble/fail-2").touch()
    (lab / "trouble/kill-3").touch()
    broken = sweep(lab, *THREE)
    assert broken.returncode == 1, broken.stderr
    states = {name: (job["status"], job["reason"]) for name, job in jobs(lab).items()}
    assert states["seed=1"] == ("FINISHED", None)
    assert states["seed=2"] == ("FAILED", "the disk of seed two is full")
    assert states["seed=3"][0] == "FAILED"
    assert "killed by SIGKILL" in states["seed=3"][1]
    assert "] FAILED  seed=2" in broken.stderr
    assert "Traceback" not in broken.stderr + broken.stdout
    assert "the disk of seed two is full" in broken.stdout
    assert "1 of 3 jobs finished, 2 failed" in broken.stdout
    killed = next(lab.glob("outputs/sweeps/*/seed=3/summary.json"))
    assert json.loads(killed.read_text())["status"] == "KILLED"

    for file in (lab / "trouble").iterdir():
        file.unlink()
    again = sweep(lab, "dropout=none", "seed=1,2,3,4", *THREE[2:])
    assert again.returncode == 0, again.stderr
    assert "1 of 4 jobs were finished before" in again.stderr
    assert again.stderr.count(" start ") == 3
    assert {job["status"] for job in jobs(lab).values()} == {"FINISHED"}
    logs = next(lab.glob("outputs/sweeps/*/logs/seed=3.log")).read_text()
    assert "going on from step 5" in logs

    undisturbed = tmp_path_factory.mktemp("undisturbed")
    for name in ("conf", "my_tasks.py", "trouble"):
        (undisturbed / name).symlink_to(lab / name)
    assert sweep(undisturbed, "dropout=none", "seed=3", *THREE[2:]).returncode == 0
    assert len(numbers(lab)) == 4
    assert numbers(lab)["seed=3"] == numbers(undisturbed)["seed=3"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_stopping_a_sweep_leaves_no_process_and_resumable_jobs(lab, begin, number, status):
    (lab / "trouble/wait").touch()
    parent = begin("seed=1,2,3", *TWO, "tracking=jsonl", *LONG)
    wait_until(lambda: len(list(lab.glob("waiting/*"))) == 2)
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=3600)
    wait_until(lambda: not processes_of(lab))
    assert parent.returncode == status, output
    summaries = [json.loads(p.read_text()) for p in lab.glob("outputs/sweeps/*/*/summary.json")]
    assert [s["status"] for s in summaries] == ["KILLED"] * 2
    assert all(s["step"] >= 7 for s in summaries)
    assert len(list(lab.glob("outputs/sweeps/*/*/checkpoints/last-*"))) == 2
    if number != signal.SIGKILL:
        states = [job["status"] for job in jobs(lab).values()]
        assert states.count("KILLED") == 2
        assert "the same command goes on" in output


def test_the_first_failure_can_stop_all(lab):
    (lab / "trouble/fail-1").touch()
    (lab / "elsewhere").mkdir()
    words = ("sweep.on_failure=stop", "tracking=jsonl", f"sweep.dir={lab}/elsewhere/mine")
    done = sweep(lab, "seed=1,2,3", *words)
    assert done.returncode == 1
    states = json.loads((lab / "elsewhere/mine/sweep.json").read_text())["jobs"].values()
    assert [job["status"] for job in states] == ["FAILED", "WAITING", "WAITING"]
    assert "0 of 3 jobs finished, 1 failed" in done.stdout
    assert not (lab / "outputs").exists()


def test_a_sweep_in_use_is_left_alone(lab):
    from mambalab.sweep.folder import SweepFolder

    folder = SweepFolder(lab / "taken")
    with folder.held():
        second = sweep(lab, "seed=1,2", "sweep.dir=taken", "tracking=jsonl")
    assert second.returncode == 1
    assert second.stderr.strip().endswith(
        "taken is in use: another process is running this sweep; wait until it ends, or stop it"
    )


def test_runs_hang_below_their_sweep_in_mlflow(lab):
    from mlflow.tracking import MlflowClient

    done = sweep(lab, "dropout=none,standard", *TWO)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{lab}/outputs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'squares'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if r.data.tags.get("mambalab.kind") == "sweep"]
    children = [r for r in runs if r is not parent]
    assert len(children) == 2
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert parent.data.metrics["jobs_finished"] == 2
    assert parent.data.metrics["best/val_loss"] == min(
        child.data.metrics["best/val_loss"] for child in children
    )
    for run in children:
        name = run.info.run_name  # of the job alone: the sweep stands above it
        told = {(s["step"], k): v for s in numbers(lab)[name] for k, v in s.items() if k != "step"}
        held = {
            (m.step, key): m.value
            for key in run.data.metrics
            if not key.startswith(("best/", "system/"))
            for m in client.get_metric_history(run.info.run_id, key)
        }
        assert held == told
    attached = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "comparison"} <= attached


def test_submitit_runs_jobs_here_too(lab):
    pytest.importorskip("submitit")
    (lab / "trouble/fail-2").touch()
    done = sweep(lab, "seed=1,2", "hydra/launcher=submitit_local", "tracking=jsonl")
    assert done.returncode == 1, done.stderr
    assert jobs(lab)["seed=1"]["status"] == "FINISHED"
    assert jobs(lab)["seed=2"]["reason"] == "the disk of seed two is full"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_submitit_sweep_leaves_no_process(lab, begin, number, status):
    pytest.importorskip("submitit")
    (lab / "trouble/wait").touch()
    words = ("seed=1,2", "hydra/launcher=submitit_local", "tracking=jsonl")
    parent = begin(*words, *LONG, "hydra.launcher.n_jobs=2", start_new_session=True)
    wait_until(lambda: len(list(lab.glob("waiting/*"))) == 2)
    if number == signal.SIGINT:  # as the terminal does it
        os.killpg(parent.pid, number)
    else:
        parent.kill()
    assert parent.wait(3600) == status
    wait_until(lambda: not processes_of(lab))
    summaries = [json.loads(p.read_text()) for p in lab.glob("outputs/sweeps/*/*/summary.json")]
    assert [s["status"] for s in summaries] == ["KILLED"] * 2
    assert all(s["step"] >= 7 for s in summaries)


def test_a_search_goes_on_where_it_was(lab):
    words = (
        "sweep.search=tpe",
        "sweep.prune=false",
        "sweep.params.optim.lr={low: 1e-4, high: 1e-1, log: true}",
        "hydra/launcher=local",
        "tracking=jsonl",
    )
    first = sweep(lab, *words, "sweep.trials=1")
    assert first.returncode == 0, first.stderr
    assert len(jobs(lab)) == 1
    second = sweep(lab, *words, "sweep.trials=2")
    assert second.returncode == 0, second.stderr
    assert second.stderr.count(" start ") == 1
    assert len(jobs(lab)) == 2
    (best,) = lab.glob("outputs/sweeps/*/comparison/best.txt")
    assert best.read_text() in second.stdout
