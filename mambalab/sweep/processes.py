"""Jobs as processes of this machine, each in a session of its own.

A job that is killed takes no other with it. Ctrl-C on the terminal reaches the sweep only, which
passes it on; should the sweep itself be killed, the pipe to its jobs closes and they stop.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import mambalab
from mambalab import run_folder
from mambalab.config import to_plain
from mambalab.config.multirun import Job
from mambalab.errors import UserError
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.slots import Slot, Slots

# -P: a file random.py where the person works must not stand in for Python's own.
COMMAND = [sys.executable, "-P", "-m", "mambalab", "__job"]


class Handle(Protocol):
    """A job that was started."""

    job: Job
    where: str  # for people: GPU, threads, number in the cluster

    def poll(self) -> tuple[bool, int | None]:
        """Whether it has ended, and its exit status if that is known (-N: killed by signal N)."""
        ...

    def stop(self, number: int) -> None:
        """Ask it to stop with SIGINT or SIGTERM: it finishes a step and saves."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Launcher(Protocol):
    """Starts jobs."""

    def room(self) -> int:
        """How many jobs may start now; 0 if all places are taken."""
        ...

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Start at most `room()` jobs; raises UserError if that cannot be done."""
        ...


class Process:
    """A job in a process of this machine."""

    def __init__(self, job: Job, process: subprocess.Popen, slots: Slots, slot: Slot) -> None:
        self.job = job
        self.where = str(slot)
        self._process = process
        self._slots = slots
        self._slot: Slot | None = slot

    def poll(self) -> tuple[bool, int | None]:
        """Whether it has ended, and its exit status."""
        status = self._process.poll()
        if status is None:
            return False, None
        if self._slot is not None:
            self._slots.give_back(self._slot)
            self._slot = None
            if self._process.stdin is not None:
                self._process.stdin.close()
        return True, status

    def stop(self, number: int) -> None:
        """Ask it to stop."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it, and whatever it has started."""
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
        """1 if a job may start now."""
        slot = self.slots.take()
        if slot is None:
            return 0
        self.slots.give_back(slot)
        return 1

    def start(self, jobs: list[Job]) -> list[Handle]:
        """Start the jobs."""
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> Process:
        slot = self.slots.take()
        if slot is None:  # another sweep was faster with the last GPU
            raise UserError(f"no GPU is free for {job.name} any more: start the command again")
        order = write_order(self.sweep, job, has_log=not self.on_terminal, watched=True)
        environment = {**os.environ, **slot.environment(), "PYTHONPATH": python_path()}
        log = None if self.on_terminal else open_log(self.sweep.log_file(job.name))
        try:
            process = subprocess.Popen(
                [*COMMAND, str(order)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        finally:
            if log is not None:
                os.close(log)
        return Process(job, process, self.slots, slot)


def write_order(sweep: SweepFolder, job: Job, **facts: bool) -> Path:
    """Write down what the process of a job has to do; returns the file."""
    order = sweep.order_file(job.name)
    try:
        order.parent.mkdir(exist_ok=True)
        sweep.answer_file(job.name).unlink(missing_ok=True)
        sweep.process_file(job.name).unlink(missing_ok=True)
        run_folder.write_json(order, {"config": to_plain(job.config), **facts})
    except OSError as error:
        raise UserError(f"cannot write in {order.parent}: {error.strerror}") from error
    return order


def open_log(path: Path) -> int:
    """A descriptor that appends to a log."""
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def python_path() -> str:
    """PYTHONPATH with which the jobs find this very mambalab."""
    home = str(Path(mambalab.__file__).resolve().parents[1])
    return os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
