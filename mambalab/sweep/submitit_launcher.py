"""Jobs that submitit hands on: to SLURM, or to processes of this machine as a rehearsal.

What runs on the node is the same `mambalab __job` as on this machine. When the cluster takes a job
off its node (preemption, time over), the job saves, and submitit or SLURM itself queues it again;
it goes on from its checkpoint.
"""

import logging
import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mambalab.errors import UserError, first_line
from mambalab.settings.sweep import SlurmSettings, SubmititSettings
from mambalab.sweep.folder import FAILED, KILLED, StopRequest, SweepFolder
from mambalab.sweep.plan import Job
from mambalab.sweep.processes import COMMAND, Handle, open_log, write_order
from mambalab.sweep.slots import Slot, Slots
from mambalab.utils import packages, process
from mambalab.utils.files import read_json, write_json
from mambalab.utils.packages import why_not_imported
from mambalab.utils.process import python_path

SAVE_SECONDS = 60.0  # SLURM's warning comes 90 seconds before the end
POLL_SECONDS = 2.0  # between looks at one job: the files are on a network, perhaps
REQUEUED_SECONDS = 5.0  # between questions whether a job that was stopped is in the queue again
MAX_ARRAY = 1000  # jobs of an array: SLURM's default allows one more
_UNKNOWN_JOB = "invalid job id"  # what squeue says of a job that it has forgotten
QUEUE_SECONDS = 30.0  # between questions to squeue where sacct knows nothing
GENTLE = {"CANCELLED", "PREEMPTED"}  # what is no fault of a job
FATES = GENTLE | {"TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE", "BOOT_FAIL"}
KILLED_SECONDS = 60.0  # after which a job that was killed counts as ended, whatever is said


class NodeJob:
    """What submitit runs on the node: a process that is asked politely to stop when need be.

    Args:
        order: file that says what to do.
        log: file for its output.
        environment: variables for the process; None takes one away.
        sweep: the process on this machine with which the job is to stop; None for a cluster,
            whose jobs go on without the sweep.
    """

    def __init__(
        self,
        order: Path,
        log: Path,
        environment: dict[str, str | None],
        sweep: dict[str, Any] | None = None,
    ) -> None:
        self.order = order
        self.log = log
        self.environment = environment
        self.sweep = sweep
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Run the job to its end; returns its exit status."""
        if self.sweep is None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
            self._go_on()
        log = open_log(self.log)
        variables: dict[str, str | None] = {**os.environ, **self.environment}
        try:
            self._process = subprocess.Popen(
                [*COMMAND, str(self.order)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={k: v for k, v in variables.items() if v is not None},
                start_new_session=self.sweep is not None,  # Ctrl-C reaches the sweep only
            )
        finally:
            os.close(log)
        # Not wait(), inside which checkpoint could not wait, too.
        while (status := self._process.poll()) is None:
            if self.sweep is not None and process.alive(self.sweep) is False:
                self.sweep = None
                self._process.send_signal(signal.SIGTERM)
            time.sleep(0.25)
        return status

    def checkpoint(self) -> Any:
        """Save, and ask to be queued again; submitit calls it when the node is taken away."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SAVE_SECONDS)
        self._go_on()
        return DelayedSubmission(NodeJob(self.order, self.log, self.environment, self.sweep))

    def _go_on(self) -> None:
        """Have the next start go on from the checkpoint: resume=never was meant for the first."""
        order = read_json(self.order)
        if order["config"].get("resume") == "never":
            order["config"]["resume"] = "auto"
            write_json(self.order, order)


class SubmittedJob:
    """A job in the hands of submitit."""

    def __init__(self, job: Job, sent: Any, launcher: "ClusterLauncher", slot: Slot | None) -> None:
        self.job = job
        self.cluster_id = str(sent.job_id)
        parts = [f"job {self.cluster_id}", *filter(None, [str(slot or "")])]
        self.where = ", ".join(parts)
        self._sent = sent
        self._launcher = launcher
        self._slot = slot
        self._pending: int | None = None  # signal for its process on this machine, once it lives
        self._next = 0.0
        self._next_question = time.monotonic() + QUEUE_SECONDS
        self._asked = False
        self._given_up = float("inf")

    def poll(self) -> tuple[bool, int | None]:
        """Tell whether the job has ended; its exit status is in its answer."""
        now = time.monotonic()
        if self._pending is not None and self._signal(self._pending):
            self._pending = None
        if now < self._next:
            return False, None
        self._next = now + (0.0 if self._slot is not None else POLL_SECONDS)
        if now < self._given_up:
            if not self._sent.done() and not self._lost(now):
                return False, None
            if self._is_queued_again():
                self._next = now + REQUEUED_SECONDS
                return False, None
        self._launcher.running -= 1
        if self._slot is not None and self._launcher.slots is not None:
            self._launcher.slots.give_back(self._slot)
            self._slot = None
        return True, None

    def waits(self) -> str | None:
        """Say why SLURM has not started the job (again): its own reason, `Resources` say."""
        found = None if self._slot is not None else queued(self.cluster_id, "%T %r")
        state, _, reason = (found or "").partition(" ")
        return f"waits in SLURM's queue ({reason})" if state == "PENDING" else None

    def fate(self) -> StopRequest | None:
        """Tell what SLURM says of a job that ended without a word: cancelled, no memory, time over.

        SLURM knows it for some minutes, also without accounting.
        """
        has_answered = self._launcher.sweep.answer_file(self.job.name).exists()
        if self._launcher.slots is not None or has_answered:
            return None
        state = (queued(self.cluster_id, "%T", "--states=all") or "").split("\n")[0]
        if state not in FATES:
            return None
        return StopRequest(f"SLURM says {state}", KILLED if state in GENTLE else FAILED)

    def stop(self, number: int) -> None:
        """Ask the job to stop; SLURM sends SIGTERM to the processes of a job that is cancelled."""
        self._asked = True
        if self._slot is not None:  # submitit would leave it a second
            self._pending = number
        else:
            self._cancel()

    def kill(self) -> None:
        """End the job; a cluster kills by itself what does not stop."""
        self._asked = True
        self._given_up = time.monotonic() + KILLED_SECONDS
        if self._slot is not None:
            self._pending = signal.SIGKILL
        else:
            self._cancel()

    def _signal(self, number: int) -> bool:
        """Send a signal to the job's process on this machine; False if it has none yet."""
        worker = read_json(self._launcher.sweep.process_file(self.job.name))
        if not process.alive(worker):
            return False
        with suppress(ProcessLookupError):
            os.kill(int(worker["pid"]), number)
        return True

    def _cancel(self) -> None:
        self._launcher.watch(3)
        with suppress(OSError):
            self._sent.cancel(check=False)

    def _is_queued_again(self) -> bool:
        """Tell whether SLURM itself took the job off its node, and will start it again.

        Preemption and `scontrol requeue` send SIGTERM, and no warning before it that submitit
        knows: the job saves and ends, and for submitit that is all.
        """
        if self._slot is not None or self._asked:
            return False
        answer = read_json(self._launcher.sweep.answer_file(self.job.name))
        if answer and answer.get("status") != 128 + signal.SIGTERM:
            return False
        return in_queue(self.cluster_id)

    def _lost(self, now: float) -> bool:
        """Tell whether a job without result is not in SLURM's queue either.

        Asked where accounting is off: sacct then knows of no job, and of no job's end.
        """
        if self._slot is not None or now < self._next_question:
            return False
        self._next_question = now + QUEUE_SECONDS
        return self._sent.state == "UNKNOWN" and not in_queue(self.cluster_id)


class ClusterLauncher:
    """Hands jobs to submitit.

    Args:
        sweep: the folder of the sweep; submitit's own files go below it.
        settings: of the launcher.
        slots: places on this machine for the local rehearsal; None for SLURM, which has its own.
        known: cluster ids of jobs that an earlier command started, by name.

    Raises:
        UserError: submitit is not installed, or there is no SLURM here.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        settings: SubmititSettings,
        slots: Slots | None,
        known: dict[str, str],
    ) -> None:
        packages.require("submitit", extra="slurm")
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                f"hydra/launcher=submitit_...: the package submitit is {why_not_imported(error)}: "
                f"{packages.pip_install('--upgrade submitit')}"
            ) from error
        self.sweep = sweep
        self.slots = slots
        self.running = 0
        self.limit = settings.n_jobs if settings.n_jobs > 0 else None
        self._known = known
        self._asked = _asked(settings)
        folder = sweep.path / ".submitit"
        cluster = "slurm" if isinstance(settings, SlurmSettings) else "local"
        try:
            self._auto = submitit.AutoExecutor(
                folder, cluster=cluster, **{f"{cluster}_max_num_timeout": settings.max_num_timeout}
            )
        except RuntimeError as error:  # no srun on this machine
            raise UserError(
                f"hydra/launcher=submitit_slurm: {first_line(error)}; start it where "
                "SLURM's commands are, or use hydra/launcher=local"
            ) from error
        self._auto.update_parameters(**_parameters(settings, sweep))
        self._job_class: Any = self._auto._executor.job_class  # AutoExecutor's own is empty
        logging.getLogger("submitit").setLevel(logging.ERROR)  # a line for each failing sacct
        if slots is None:
            self._job_class.watcher = _watcher()
        self.watch(60)  # submitit's ten minutes are long for whoever waits for the end

    def room(self) -> int:
        """Count the jobs that may be handed on now."""
        if self.slots is None:
            free = MAX_ARRAY if self.limit is None else max(0, self.limit - self.running)
            return min(MAX_ARRAY, free)
        return int(self.slots.has_room())

    def watch(self, seconds: int) -> None:
        """Ask the cluster at least that often, once for all jobs, for their state."""
        self._job_class.watcher._delay_s = seconds

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Hand the jobs on, several as one array; those still in the cluster are only watched."""
        handles: list[Handle] = []
        new: list[tuple[Job, NodeJob, Slot | None]] = []
        for job in jobs:
            if (sent := self._still_there(job)) is not None:
                handles.append(SubmittedJob(job, sent, self, None))
                continue
            slot = self.slots.take() if self.slots is not None else None
            environment: dict[str, str | None] = {"PYTHONPATH": python_path()}
            if slot is not None:  # submitit hides the GPUs from its local jobs
                visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                environment |= {"CUDA_VISIBLE_DEVICES": visible, **slot.environment()}
            order = write_order(self.sweep, job, has_log=True, watched=True)
            log = self.sweep.log_file(job.name).absolute()
            sweep = None if self.slots is None else process.identity()
            new.append((job, NodeJob(order.absolute(), log, environment, sweep), slot))
        try:
            if len(new) > 1:
                with self._auto.batch():
                    sent_jobs = [self._auto.submit(work) for _, work, _ in new]
            else:
                sent_jobs = [self._auto.submit(work) for _, work, _ in new]
        except Exception as error:  # submitit's FailedJobError, and what sbatch makes of it
            for _, _, slot in new:
                if slot is not None and self.slots is not None:
                    self.slots.give_back(slot)
            if not isinstance(error, OSError | RuntimeError | subprocess.SubprocessError):
                raise
            why = "; ".join(line for line in str(error).splitlines() if line.strip())
            raise UserError(
                f"the jobs cannot be handed on: {why or type(error)}{self._asked}"
            ) from error
        for (job, _, slot), sent in zip(new, sent_jobs, strict=True):
            handles.append(SubmittedJob(job, sent, self, slot))
        self.running += len(handles)
        return handles

    def _still_there(self, job: Job) -> Any:
        """Find the cluster's job that an earlier command started, if it has not ended."""
        number = self._known.pop(job.name, None)
        if number is None:
            return None
        sent = self._job_class(folder=self._auto.folder, job_id=number)
        if sent.done(force_check=True):
            return None
        return sent if sent.state != "UNKNOWN" or in_queue(number) else None


def _watcher() -> Any:
    """Make what asks sacct for the state of jobs; without accounting each answer is a complaint."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Quiet(SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            command = super()._make_command()
            return command and ["sh", "-c", 'exec "$@" 2> /dev/null', "sh", *command]

    return Quiet()


def in_queue(cluster_id: str) -> bool:
    """Tell whether SLURM's queue has the job; True if nobody knows."""
    return queued(cluster_id, "%i") != ""


def queued(cluster_id: str, form: str, *options: str) -> str | None:
    """Ask SLURM's queue for a job, in the format of squeue: "" if it is not there.

    Returns:
        One line; None if the queue cannot be asked.
    """
    command = ["squeue", "--noheader", f"--format={form}", f"--jobs={cluster_id}", *options]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode and _UNKNOWN_JOB not in found.stderr.lower():
        return None  # the controller does not answer: nothing is known
    return found.stdout.strip()


def _asked(settings: SubmititSettings) -> str:
    """Say what a job asks of SLURM, beside its refusal, which seldom names the option."""
    if not isinstance(settings, SlurmSettings):
        return ""
    names = ("gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min", "partition", "account")
    values = [(name, getattr(settings, name)) for name in (*names, "qos", "constraint")]
    told = " ".join(f"{name}={value}" for name, value in values if value is not None)
    return f" (hydra.launcher: {told})"


def _parameters(settings: SubmititSettings, sweep: SweepFolder) -> dict[str, Any]:
    """Convert the launcher's settings to submitit's parameters."""
    found: dict[str, Any] = {"timeout_min": settings.timeout_min, "name": sweep.path.name[:60]}
    setup = [  # submitit's own process must not find a random.py where the person works
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={shlex.quote(python_path())}",
        *settings.setup,
    ]
    if not isinstance(settings, SlurmSettings):
        return {**found, "local_setup": ["trap '' INT", *setup]}
    found |= {"gpus_per_node": settings.gpus_per_node, "cpus_per_task": settings.cpus_per_task}
    if settings.mem_gb is not None:
        found["mem_gb"] = settings.mem_gb
    for name in ("partition", "account", "qos", "constraint"):
        if (value := getattr(settings, name)) is not None:
            found[f"slurm_{name}"] = value
    # Without a number submitit lets 256 run at once.
    found["slurm_array_parallelism"] = settings.n_jobs if settings.n_jobs > 0 else MAX_ARRAY
    # From SLURM 22.05 on srun does not take it over from sbatch, and may bind a job to one core.
    found["slurm_setup"] = ['export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"', *setup]
    found["slurm_additional_parameters"] = settings.additional_parameters
    return found
