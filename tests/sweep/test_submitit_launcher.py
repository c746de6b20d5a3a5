import json
import os
import pickle
import signal
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from mambalab.errors import UserError
from mambalab.sweep import submitit_launcher
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import plan
from mambalab.sweep.submitit_launcher import ClusterLauncher, in_queue
from mambalab.utils.files import read_json
from tests.sweep import slurm
from tests.sweep.conftest import jobs, sweep
from tests.sweep.fakes import job
from tests.sweep.processes import processes_of, wait_until

SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "tracking=jsonl")
LONG = ("trainer.max_steps=100000", "trainer.checkpoint_every=1000")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """SLURM's commands, on PATH."""
    folder = slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def states(tools: Path) -> dict[str, str]:
    return {p.name[6:]: p.read_text().strip() for p in tools.glob("state-*")}


def test_jobs_go_as_one_array_and_failures_alone(lab, tools):
    (lab / "trouble/fail-2").touch()
    (lab / "random.py").write_text("raise SystemExit('not the random of Python')")
    words = ("seed=1,2", *SLURM, "hydra.launcher.partition=gpu", "hydra.launcher.n_jobs=2",
             "hydra.launcher.additional_parameters.reservation=mine")  # fmt: skip
    first = sweep(lab, *words)
    assert first.returncode == 1, first.stderr
    assert "[1/2] start   seed=1  (job 1_0)" in first.stderr
    assert "[2/2] FAILED  seed=2" in first.stderr
    assert jobs(lab)["seed=2"]["reason"] == "the disk of seed two is full"
    text = (tools / "sent-1").read_text()
    for line in ("--array=0-1%2", "--partition=gpu", "--cpus-per-task=4", "--time=1440",
                 "--reservation=mine", "--signal=USR2@90"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    (lab / "trouble/fail-2").unlink()
    second = sweep(lab, *words)
    assert second.returncode == 0, second.stderr
    assert "[1/1] start   seed=2  (job 2)" in second.stderr


@pytest.mark.parametrize("accounting", [True, False])
def test_a_second_command_finds_the_jobs_of_a_killed_one(lab, tools, begin, accounting):
    if not accounting:
        (tools / "no-accounting").touch()
    (lab / "trouble/wait").touch()
    (lab / "trouble/hold").touch()
    words = ("seed=1,2", *SLURM)
    first = begin(*words)
    wait_until(lambda: len(list(lab.glob("waiting/*"))) == 2)
    first.kill()
    first.wait()
    second = begin(*words)
    (written,) = lab.glob("outputs/sweeps/*/sweep.json")
    wait_until(lambda: read_json(written)["pid"] == second.pid)
    wait_until(lambda: {j["status"] for j in jobs(lab).values()} == {"RUNNING"})
    assert second.poll() is None
    (lab / "trouble/hold").unlink()
    output, _ = second.communicate(timeout=3600)
    assert second.returncode == 0, output
    assert "start   seed=2  (job 1_1)" in output
    assert "sacct" not in output
    assert (tools / "number").read_text() == "1\n"


def test_a_stopped_sweep_cancels_its_jobs_which_save(lab, tools, begin):
    (lab / "trouble/wait").touch()
    parent = begin("seed=1,2", *SLURM, *LONG)
    wait_until(lambda: len(list(lab.glob("waiting/*"))) == 2)
    parent.send_signal(signal.SIGTERM)
    output, _ = parent.communicate(timeout=3600)
    assert parent.returncode == 143, output
    assert set(states(tools).values()) == {"CANCELLED by 0"}
    wait_until(lambda: not processes_of(lab))
    summaries = [json.loads(p.read_text()) for p in lab.glob("outputs/sweeps/*/*/summary.json")]
    assert [s["status"] for s in summaries] == ["KILLED"] * 2
    assert all(s["step"] >= 7 for s in summaries)


def test_a_job_whose_time_is_over_saves_and_is_queued_again(lab, tools, begin):
    (lab / "trouble/wait").touch()
    parent = begin("seed=1", *SLURM, *LONG, "resume=never")
    log = lab / "outputs/sweeps"
    wait_until(lambda: list(lab.glob("waiting/*")))
    group = int((tools / "group-1").read_text())
    os.killpg(group, signal.SIGUSR2)
    wait_until(lambda: any("going on from step" in p.read_text() for p in log.glob("*/logs/*")))
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    output, _ = parent.communicate(timeout=3600)
    assert parent.returncode == 130, output
    assert output.count("start ") == 1
    wait_until(lambda: not processes_of(lab))


# -- without processes ---------------------------------------------------------------------------


class Sent:
    """A job as submitit sees it."""

    def __init__(self, state="RUNNING"):
        self.job_id, self.state, self.cancelled = "5", state, 0

    def done(self, force_check=False):
        return False

    def cancel(self, check=True):
        self.cancelled += 1


@pytest.fixture
def launcher(workdir, tools):
    words = ["task=text", "hydra/launcher=submitit_slurm"]
    return ClusterLauncher(SweepFolder(workdir / "sweep"), plan(words).launcher, None, {})


def test_a_job_that_nobody_knows_any_more_has_ended(launcher, tools, monkeypatch):
    monkeypatch.setattr(submitit_launcher, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(submitit_launcher, "QUEUE_SECONDS", 0.0)
    it = submitit_launcher.SubmittedJob(job(launcher.sweep, "a"), Sent("UNKNOWN"), launcher, None)
    (tools / "state-5").write_text("PENDING")
    assert it.poll() == (False, None)
    (tools / "state-5").write_text("COMPLETED")
    assert it.poll() == (True, None)


@pytest.mark.parametrize(
    ("status", "state", "asked", "over"),
    [
        (143, "PENDING", False, False),
        (143, "COMPLETED", False, True),  # cancelled by somebody
        (143, "PENDING", True, True),  # by the sweep
        (
            None,
            "RUNNING",
            False,
            False,
        ),  # its next start has begun, the first one's result is there
        (0, "RUNNING", False, True),
    ],
)
def test_a_job_that_slurm_queues_again_has_not_ended(
    launcher, tools, monkeypatch, status, state, asked, over
):
    monkeypatch.setattr(submitit_launcher, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(submitit_launcher.SubmittedJob, "_cancel", lambda _: None)
    monkeypatch.setattr(Sent, "done", lambda *_: True)
    it = submitit_launcher.SubmittedJob(job(launcher.sweep, "a"), Sent(), launcher, None)
    if status is not None:
        answer = launcher.sweep.answer_file("a")
        answer.parent.mkdir(parents=True)
        answer.write_text(json.dumps({"status": status, "reason": None}))
    (tools / "state-5").write_text(state)
    if asked:
        it.stop(signal.SIGTERM)
    assert it.poll() == (over, None)


@pytest.mark.parametrize(("restarts", "resume"), [(None, "never"), ("0", "never"), ("1", "auto")])
def test_a_job_that_slurm_starts_again_goes_on(workdir, monkeypatch, restarts, resume):
    monkeypatch.setattr(submitit_launcher, "COMMAND", ["true"])
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    (workdir / "order.json").write_text(json.dumps({"config": {"resume": "never"}}))
    it = submitit_launcher.NodeJob(workdir / "order.json", workdir / "logs/log", {})
    assert it() == 0
    assert it._process is not None
    assert it._process.stdin is not None
    it._process.stdin.close()
    assert read_json(workdir / "order.json")["config"]["resume"] == resume


def test_a_killed_job_ends_whatever_the_cluster_says(launcher, monkeypatch):
    monkeypatch.setattr(submitit_launcher, "POLL_SECONDS", 0.0)
    it = submitit_launcher.SubmittedJob(job(launcher.sweep, "a"), Sent(), launcher, None)
    it.stop(signal.SIGINT)
    assert it.poll() == (False, None)
    monkeypatch.setattr(submitit_launcher, "KILLED_SECONDS", 0.0)
    it.kill()
    assert it.poll() == (True, None)


def test_room_is_what_was_asked_for(launcher):
    assert launcher.room() == 1000
    launcher.limit, launcher.running = 3, 2
    assert launcher.room() == 1
    launcher.running = 5
    assert launcher.room() == 0


def test_a_cluster_that_refuses_is_one_line(launcher, tools):
    (tools / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1")
    launcher.sweep.write()
    with pytest.raises(UserError, match=r"cannot be handed on: .*invalid partition") as caught:
        launcher.start([job(launcher.sweep, "a")])
    assert "\n" not in str(caught.value)
    assert launcher.room() == 1000


def test_no_squeue_no_knowledge(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert in_queue("5")


def test_without_slurm_there_is_one_line(workdir, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = plan(["task=text", "hydra/launcher=submitit_slurm"]).launcher
    with pytest.raises(UserError, match=r"Could not detect .srun.*use hydra/launcher=local"):
        ClusterLauncher(SweepFolder(workdir / "sweep"), settings, None, {})


def test_a_job_that_an_earlier_version_left_in_the_queue_is_read():
    """Protocol 0 is text: the class has the address that it had then."""
    order = {"order": Path("a.json"), "log": Path("a.log"), "environment": {"X": "1"}}
    written = pickle.dumps(submitit_launcher.NodeJob(**order), protocol=0)
    here, earlier = b"mambalab.sweep.submitit_launcher", b"mambalab.sweep.cluster"
    assert here in written
    job = pickle.loads(written.replace(here, earlier))
    assert type(job) is submitit_launcher.NodeJob
    assert job.environment == {"X": "1"}


@pytest.mark.parametrize(
    ("script", "there"),
    [
        ("echo 123", True),
        ("true", False),  # it is not there
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", True),
    ],
)
def test_a_controller_that_does_not_answer_has_lost_no_job(tmp_path, monkeypatch, script, there):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert submitit_launcher.in_queue("123") == there
