"""Jobs that submitit hands on: to SLURM, or to processes of this machine as a rehearsal.

What runs on the node is the same `mambalab __job` as on this machine. When the cluster takes a job
off its node (preemption, time over), the job saves, and submitit queues it again; it goes on from
its checkpoint.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from mambalab import process, run_folder
from mambalab.config.multirun import Job
from mambalab.errors import UserError
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.processes import COMMAND, Handle, open_log, python_path, write_order
from mambalab.sweep.settings import SlurmSettings, SubmititSettings
from mambalab.sweep.slots import Slot, Slots

SAVE_SECONDS = 30.0  # from the cluster's warning to its kill there is a minute or more


class NodeJob:
    """What submitit runs on the node: a process that is asked politely to stop when need be.

    Args:
        order: file that says what to do.
        log: file for its output.
        environment: variables for the process; None takes one away.
    """

    def __init__(self, order: Path, log: Path, environment: dict[str, str | None]) -> None:
        self.order = order
        self.log = log
        self.environment = environment
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Run the job to its end; returns its exit status."""
        log = open_log(self.log)
        variables: dict[str, str | None] = {**os.environ, **self.environment}
        try:
            self._process = subprocess.Popen(
                [*COMMAND, str(self.order)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={k: v for k, v in variables.items() if v is not None},
            )
        finally:
            os.close(log)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit when the node is taken away: save, and ask to be queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SAVE_SECONDS)
        return DelayedSubmission(NodeJob(self.order, self.log, self.environment))


class Submitted:
    """A job in the hands of submitit."""

    def __init__(self, job: Job, sent: Any, launcher: "ClusterLauncher", slot: Slot | None) -> None:
        self.job = job
        self.cluster_id = str(sent.job_id)
        parts = [f"job {self.cluster_id}", *filter(None, [str(slot or "")])]
        self.where = ", ".join(parts)
        self._sent = sent
        self._launcher = launcher
        self._slot = slot

    def poll(self) -> tuple[bool, int | None]:
        """Whether it has ended; the exit status is in its answer."""
        if not self._sent.done():
            return False, None
        self._launcher.running -= 1
        if self._slot is not None and self._launcher.slots is not None:
            self._launcher.slots.give_back(self._slot)
            self._slot = None
        return True, None

    def stop(self, number: int) -> None:
        """Ask it to stop; SLURM sends SIGTERM to the processes of a job that is cancelled."""
        if self._slot is not None:  # on this machine submitit would leave it a second
            worker = run_folder.read_json(self._launcher.sweep.process_file(self.job.name))
            if process.alive(worker):
                os.kill(int(worker["pid"]), number)
                return
        self._sent.cancel(check=False)

    def kill(self) -> None:
        """End it; a cluster kills by itself what does not stop."""
        if self._slot is not None:
            worker = run_folder.read_json(self._launcher.sweep.process_file(self.job.name))
            if process.alive(worker):
                os.kill(int(worker["pid"]), signal.SIGKILL)
        self._sent.cancel(check=False)


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
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise UserError(
                "hydra/launcher=submitit_...: the package submitit is not installed: "
                "pip install submitit"
            ) from error
        self.sweep = sweep
        self.slots = slots
        self.running = 0
        self.limit = settings.n_jobs if settings.n_jobs > 0 else None
        self._known = known
        folder = sweep.path / ".submitit"
        cluster = "slurm" if isinstance(settings, SlurmSettings) else "local"
        try:
            self._executor = submitit.AutoExecutor(
                folder, cluster=cluster, **{f"{cluster}_max_num_timeout": settings.max_num_timeout}
            )
        except RuntimeError as error:  # no srun on this machine
            raise UserError(
                f"hydra/launcher=submitit_slurm: {str(error).splitlines()[0]}; start it where "
                "SLURM's commands are, or use hydra/launcher=joblib"
            ) from error
        self._executor.update_parameters(**_parameters(settings, sweep))

    def room(self) -> int:
        """How many jobs may be handed on now."""
        if self.slots is None:
            return 1000 if self.limit is None else max(0, self.limit - self.running)
        slot = self.slots.take()
        if slot is None:
            return 0
        self.slots.give_back(slot)
        return 1

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Hand the jobs on, several as one array; those still in the cluster are only watched."""
        handles: list[Handle] = []
        new: list[tuple[Job, NodeJob, Slot | None]] = []
        for job in jobs:
            self.running += 1
            if (sent := self._still_there(job)) is not None:
                handles.append(Submitted(job, sent, self, None))
                continue
            slot = self.slots.take() if self.slots is not None else None
            environment: dict[str, str | None] = {"PYTHONPATH": python_path()}
            if slot is not None:  # submitit hides the GPUs from its local jobs
                visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                environment |= {"CUDA_VISIBLE_DEVICES": visible, **slot.environment()}
            order = write_order(self.sweep, job, has_log=True, watched=True)
            log = self.sweep.log_file(job.name).absolute()
            new.append((job, NodeJob(order.absolute(), log, environment), slot))
        try:
            if len(new) > 1:
                with self._executor.batch():
                    sent_jobs = [self._executor.submit(work) for _, work, _ in new]
            else:
                sent_jobs = [self._executor.submit(work) for _, work, _ in new]
        except Exception as error:  # submitit's FailedJobError, and what sbatch makes of it
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"the jobs cannot be handed on: {first}") from error
        for (job, _, slot), sent in zip(new, sent_jobs, strict=True):
            handles.append(Submitted(job, sent, self, slot))
        return handles

    def _still_there(self, job: Job) -> Any:
        """The cluster's job that an earlier command started and that has not ended, or None."""
        number = self._known.pop(job.name, None)
        if number is None:
            return None
        sent = self._executor.job_class(folder=self._executor.folder, job_id=number)
        return None if sent.done() else sent


def _parameters(settings: SubmititSettings, sweep: SweepFolder) -> dict[str, Any]:
    """The launcher's settings as submitit's parameters."""
    found: dict[str, Any] = {"timeout_min": settings.timeout_min, "name": sweep.path.name[:60]}
    if not isinstance(settings, SlurmSettings):
        return {**found, "local_setup": settings.setup}
    found |= {"gpus_per_node": settings.gpus_per_node, "cpus_per_task": settings.cpus_per_task}
    if settings.mem_gb is not None:
        found["mem_gb"] = settings.mem_gb
    for name in ("partition", "account", "qos", "constraint"):
        if (value := getattr(settings, name)) is not None:
            found[f"slurm_{name}"] = value
    if settings.n_jobs > 0:
        found["slurm_array_parallelism"] = settings.n_jobs
    found["slurm_setup"] = settings.setup
    found["slurm_additional_parameters"] = settings.additional_parameters
    return found
