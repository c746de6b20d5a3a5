"""Jobs as processes of this machine, each in a session of its own.

A job that is killed takes no other with it. Ctrl-C on the terminal reaches the sweep only, which
passes it on; should the sweep itself be killed, the pipe to its jobs closes and they stop.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mambalab.config import to_plain
from mambalab.errors import UserError
from mambalab.records.run_folder import RunFolder
from mambalab.sweep.folder import StopRequest, SweepFolder
from mambalab.sweep.plan import Job
from mambalab.sweep.slots import Slot, Slots
from mambalab.utils import process
from mambalab.utils.command import as_line
from mambalab.utils.files import read_json, write_json
from mambalab.utils.process import python_path
from mambalab.utils.reading import check_no_link
from mambalab.utils.secrets import hide_password

TRACKING_URI = "MAMBALAB_TRACKING_URI"
"""Environment variable by which jobs get an address with a password: none is written to disk."""
# -P: a file random.py where the person works must not stand in for Python's own.
COMMAND = [sys.executable, "-P", "-m", "mambalab", "__job"]


class Handle(Protocol):
    """A job that was started."""

    job: Job
    where: str  # for people: GPU, threads, number in the cluster

    def poll(self) -> tuple[bool, int | None]:
        """Tell whether the job has ended, and its exit status if known (-N: killed by signal N)."""
        ...

    def waits(self) -> str | None:
        """Say why the job has not begun; None if it has, as far as is known."""
        ...

    def fate(self) -> StopRequest | None:
        """Tell who ended a job that has not said how it ended; None if that is not known."""
        ...

    def stop(self, number: int) -> None:
        """Ask the job to stop with SIGINT or SIGTERM: it finishes a step and saves."""
        ...

    def kill(self) -> None:
        """End the job at once."""
        ...


class Launcher(Protocol):
    """Starts jobs."""

    def room(self) -> int:
        """Count the jobs that may start now; 0 if all places are taken."""
        ...

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Start at most `room()` jobs; raises UserError if none of them can be started."""
        ...


class LocalJob:
    """A job in a process of this machine."""

    def __init__(self, job: Job, process: subprocess.Popen, slots: Slots, slot: Slot) -> None:
        self.job = job
        self.where = str(slot)
        self._process = process
        self._slots = slots
        self._slot: Slot | None = slot

    def poll(self) -> tuple[bool, int | None]:
        """Tell whether the job has ended, and its exit status."""
        status = self._process.poll()
        if status is None:
            return False, None
        if self._slot is not None:
            self._slots.give_back(self._slot)
            self._slot = None
            if self._process.stdin is not None:
                self._process.stdin.close()
            self.kill()  # what it has started and left behind
        return True, status

    def waits(self) -> str | None:
        """Return None: the job began when it was made."""
        return None

    def fate(self) -> None:
        """Return None: the exit status says it."""

    def stop(self, number: int) -> None:
        """Ask the job to stop."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the job, and whatever it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class ProcessLauncher:
    """Starts jobs on this machine.

    Args:
        sweep: the folder of the sweep.
        slots: places for jobs.
        on_terminal: one job at a time, which shows its progress on the terminal; otherwise the
            output of each goes to its log.
    """

    def __init__(self, sweep: SweepFolder, slots: Slots, *, on_terminal: bool) -> None:
        self.sweep = sweep
        self.slots = slots
        self.on_terminal = on_terminal

    def room(self) -> int:
        """Return 1 if a job may start now, else 0."""
        return int(self.slots.has_room())

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Start the jobs."""
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> LocalJob:
        slot = self.slots.take()
        assert slot is not None, "start follows room"
        log = None
        try:
            order = write_order(self.sweep, job, has_log=not self.on_terminal, watched=True)
            if not self.on_terminal:
                log = open_log(self.sweep.log_file(job.name))
            process = subprocess.Popen(
                [*COMMAND, str(order)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **slot.environment(), "PYTHONPATH": python_path()},
                start_new_session=True,
                pass_fds=slot.lease,  # a GPU is leased until its job has ended, even without us
            )
        except BaseException as error:
            self.slots.give_back(slot)
            if isinstance(error, OSError):  # no memory for a process, say
                raise UserError(f"cannot start {job.name}: {error.strerror}") from error
            raise
        finally:
            if log is not None:
                os.close(log)
        return LocalJob(job, process, self.slots, slot)


def write_order(sweep: SweepFolder, job: Job, **facts: bool) -> Path:
    """Write down what the process of a job has to do; returns the file."""
    order = sweep.order_file(job.name)
    check_no_link(job.run_dir)
    try:
        order.parent.mkdir(exist_ok=True)
        _clear_half_beginning(sweep, job)
        sweep.answer_file(job.name).unlink(missing_ok=True)
        sweep.process_file(job.name).unlink(missing_ok=True)
        settings = to_plain(job.config)
        tracking = settings.get("tracking", {})
        if tracking.get("uri") is not None:  # the whole one is in TRACKING_URI
            tracking["uri"] = hide_password(tracking["uri"])
        command = as_line(["train", "-m", *sweep.command])
        write_json(order, {"command": command, "config": settings, **facts})
    except OSError as error:
        raise UserError(f"cannot write in {order.parent}: {error.strerror}") from error
    return order


def _clear_half_beginning(sweep: SweepFolder, job: Job) -> None:
    """Delete what a job left that was killed as it began: it holds no run, and is in the way."""
    worker = read_json(sweep.process_file(job.name), sweep.path)
    folder = RunFolder(job.run_dir)
    begun = folder.is_begun() or folder.checkpoints.exists()
    if worker and process.alive(worker) is False and not begun:
        shutil.rmtree(job.run_dir, ignore_errors=True)


def open_log(path: Path) -> int:
    """Open a descriptor that appends to a log; raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
