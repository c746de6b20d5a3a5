"""What the launcher relies on, asked of a real SLURM with jobs of a few milliseconds.

Runs that train on it take minutes: `python -m tests.slurm`.
"""

import contextlib
import os
import subprocess

import pytest

pytest.importorskip("submitit")

from mambalab.errors import UserError
from mambalab.sweep import submitit_launcher
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import plan
from mambalab.sweep.submitit_launcher import ClusterLauncher, SubmittedJob, in_queue
from mambalab.utils.files import write_json
from tests.slurm import cluster, trial
from tests.sweep.fakes import job

WORDS = ["task=text", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=2"]


@pytest.fixture(scope="module")
def real():
    """A cluster for all tests of this file."""
    if why := cluster.missing():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        try:
            slurm = stack.enter_context(cluster.slurm())
        except AssertionError as error:
            pytest.skip(f"SLURM does not start here: {error}")
        yield slurm


@pytest.fixture
def slurm(real, workdir, monkeypatch):
    """The cluster, found by SLURM's commands; the working directory is empty."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(real.conf))
    return real


def submit(text: str, *options: str) -> str:
    """Hand a batch file on; returns the number of the job."""
    command = ["sbatch", "--parsable", "--output=out", "--open-mode=append", *options]
    done = subprocess.run(command, input=f"#!/bin/bash\n{text}\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def launcher(workdir, *words: str) -> ClusterLauncher:
    return ClusterLauncher(
        SweepFolder(workdir / "sweep"), plan([*WORDS, *words]).launcher, None, {}
    )


def test_what_sbatch_refuses_is_said_with_what_was_asked_for(slurm, workdir):
    refused = launcher(workdir, "hydra.launcher.gpus_per_node=3")
    (workdir / "sweep").mkdir()
    with pytest.raises(UserError, match=r"Invalid generic resource .*gpus_per_node=3") as raised:
        refused.start(plan(WORDS).jobs[:1])
    assert len(str(raised.value).splitlines()) == 1


def test_srun_has_the_cores_that_were_asked_for(slurm, workdir):
    settings = plan(WORDS).launcher
    setup = submitit_launcher._parameters(settings, SweepFolder(workdir / "sweep"))["slurm_setup"]
    number = submit("\n".join([*setup, "srun nproc"]), "--cpus-per-task=2")
    cluster.wait_until(lambda: not slurm.state(number), "the job ends")
    assert (workdir / "out").read_text() == "2\n"


def test_a_job_that_slurm_queues_again_has_not_ended(slurm, workdir, monkeypatch):
    class Sent:
        """A job whose first start has told submitit that it ended."""

        state = "UNKNOWN"

        def __init__(self, number: str) -> None:
            self.job_id = number

        def done(self) -> bool:
            return True

    monkeypatch.setattr(submitit_launcher, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(submitit_launcher, "REQUEUED_SECONDS", 0.0)
    number = submit("echo began; sleep 3600", "--requeue")
    owner = launcher(workdir)
    watched = SubmittedJob(job(owner.sweep, "a"), Sent(number), owner, None)
    answer = owner.sweep.answer_file("a")
    answer.parent.mkdir(parents=True)
    write_json(answer, {"status": 143, "reason": None})
    out = workdir / "out"
    cluster.wait_until(lambda: out.exists() and "began" in out.read_text(), "the job begins")
    slurm.ask("scontrol", "requeue", number)
    assert watched.poll() == (False, None)
    cluster.wait_until(lambda: slurm.state(number) == "PENDING", "the job waits again")
    assert watched.poll() == (False, None)
    slurm.ask("scancel", number)
    cluster.wait_until(lambda: watched.poll() == (True, None), "the job has ended")
    assert not in_queue(number)


def test_why_a_job_waits_and_who_ended_it_is_said_in_slurm_s_word(slurm, workdir):
    owner = launcher(workdir)
    number = submit("true", "--hold")
    sent = type("Sent", (), {"job_id": number})()
    watched = SubmittedJob(job(owner.sweep, "a"), sent, owner, None)
    assert watched.waits() == "waits in SLURM's queue (JobHeldUser)"
    slurm.ask("scancel", number)
    cluster.wait_until(lambda: watched.waits() is None, "the job is gone")
    fate = watched.fate()
    assert fate is not None
    assert (fate.reason, fate.outcome) == ("SLURM says CANCELLED", "KILLED")


def test_a_job_that_ended_by_itself_is_not_asked_after(workdir, slurm, monkeypatch):
    owner = launcher(workdir)
    sent = type("Sent", (), {"job_id": "1", "done": lambda self: True})()
    watched = SubmittedJob(job(owner.sweep, "a"), sent, owner, None)
    owner.sweep.answer_file("a").parent.mkdir(parents=True)
    write_json(owner.sweep.answer_file("a"), {"status": 0, "reason": None})
    monkeypatch.setattr(submitit_launcher, "in_queue", lambda _: pytest.fail("asked"))
    assert watched.poll() == (True, None)


def test_the_sbatch_file_of_the_page_is_one_that_slurm_takes(slurm, workdir):
    text = trial.reduced(trial.recipe(), "task=shakespeare")
    (workdir / "run.sh").write_text(text)
    command = ["sbatch", "--test-only", "run.sh"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "using 2 processors" in done.stderr
