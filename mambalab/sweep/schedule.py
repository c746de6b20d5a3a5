"""The loop of a sweep: starts jobs where there is room, watches them, says what happens."""

import os
import signal
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mambalab.errors import UserError
from mambalab.records.reader import read_run
from mambalab.settings.sweep import OnFailure
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry, StopRequest, SweepFolder
from mambalab.sweep.plan import Job
from mambalab.sweep.processes import Handle, Launcher
from mambalab.train.signals import StopSignals
from mambalab.utils.patience import patient
from mambalab.utils.text import number

POLL_SECONDS = 0.2
NEWS_SECONDS = 60.0  # between lines that say how far the running jobs are
MAX_NEWS_LINES = 8  # jobs that are named then; a cluster runs hundreds
# From the request to stop to the kill; a person who pressed Ctrl-C can press it again.
GRACE_SECONDS = {"SIGHUP": patient(6.0), "SIGTERM": patient(6.0), "SIGINT": patient(60.0)}


class JobSource(Protocol):
    """Where jobs come from."""

    total: int

    @property
    def tried(self) -> Container[str]:
        """Names of the jobs that there are to start; for a search, of those it has drawn."""
        ...

    def take(self, room: int) -> list[Job]:
        """Take at most `room` jobs to start now; none if there are none now or none left."""
        ...

    def left(self) -> int:
        """Count the jobs that were not taken yet."""
        ...

    def unpromising(self, running: list[Job]) -> dict[str, str]:
        """Name running jobs that are not worth going on, and why."""
        ...

    def ended(self, job: Job, entry: Entry) -> None:
        """Learn how a job ended."""
        ...


class Grid:
    """A fixed list of jobs."""

    def __init__(self, jobs: list[Job]) -> None:
        self.total = len(jobs)
        self.tried = {job.name for job in jobs}
        self._queue = list(jobs)

    def take(self, room: int) -> list[Job]:
        """Take the next jobs of the list."""
        taken, self._queue = self._queue[:room], self._queue[room:]
        return taken

    def left(self) -> int:
        """Count the jobs that are left in the list."""
        return len(self._queue)

    def unpromising(self, running: list[Job]) -> dict[str, str]:
        """Name no job: every job of a grid is wanted."""
        return {}

    def ended(self, job: Job, entry: Entry) -> None:
        """Do nothing: the list stays as it is."""


@dataclass
class RunningJob:
    """A running job.

    Attributes:
        handle: of its process.
        number: how many jobs were started before it, and it.
        asked: the request to stop, if there was one.
        kill_at: time from which it is killed if it has not stopped.
    """

    handle: Handle
    number: int
    asked: StopRequest | None = None
    kill_at: float = float("inf")


class Scheduler:
    """Runs the jobs of a source.

    Args:
        sweep: the folder, held by the caller.
        source: of the jobs.
        launcher: starts them.
        on_failure: whether a failed job stops the others.
        say: shows one line to the person.
        changed: called when a job has ended and sweep.json says so.
        tick: called all the time.
        adapt: the job that is started instead of one, with the same name.

    Attributes:
        broken: why no more jobs could be started; those that ran then ran to their end.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        source: JobSource,
        launcher: Launcher,
        *,
        on_failure: OnFailure,  # pyright: ignore[reportInvalidTypeForm]
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
        tick: Callable[[], None] = lambda: None,
        adapt: Callable[[Job], Job] = lambda job: job,
    ) -> None:
        self.sweep = sweep
        self.source = source
        self.launcher = launcher
        self.on_failure = on_failure
        self.say = say
        self.changed = changed
        self.tick = tick
        self.adapt = adapt
        self.broken: UserError | None = None
        self.running: list[RunningJob] = []
        self.started = 0
        self.stopping: str | None = None  # why the jobs were asked to stop
        self._unwritable = False
        self._told_waiting = False

    def run(self) -> str | None:
        """Run all jobs to their end.

        Returns:
            The name of the signal that stopped the sweep, or None.

        Raises:
            KeyboardInterrupt: a second Ctrl-C; every job was killed, and is resumable.
        """
        signals = StopSignals()
        news = time.monotonic()
        obeyed = False
        try:
            with signals:
                while self.running or self._may_start():
                    if (name := signals.requested()) and not obeyed:
                        obeyed = True
                        self._stop_all(f"stopped by {name}", name)
                    self._start()
                    self._prune()
                    self._look()
                    self.tick()
                    if time.monotonic() - news > NEWS_SECONDS:
                        news = time.monotonic()
                        self._tell_news()
                    if self.running or self._may_start():
                        time.sleep(POLL_SECONDS)
        finally:
            self._kill_rest()
        return signals.received

    # -- steps of the loop --------------------------------------------------------------------

    def _may_start(self) -> bool:
        return not self.stopping and self.broken is None and self.source.left() > 0

    def _start(self) -> None:
        try:
            self._start_jobs()
            if not self.running and self._may_start() and not self._told_waiting:
                self._told_waiting = True
                self.say("waiting: another sweep has every GPU")
        except UserError as error:
            self.broken = error
            if not self.running:
                return
            if self.on_failure is OnFailure["stop"]:
                self._stop_all(f"no job can be started any more ({error})", "SIGINT")
            else:
                jobs = _several(len(self.running), "running job")
                self.say(f"{error}; no more jobs start, waiting for {jobs}")

    def _start_jobs(self) -> None:
        while self._may_start() and (room := self.launcher.room()):
            jobs = [self.adapt(job) for job in self.source.take(room)]
            if not jobs:
                return
            for handle in self.launcher.start(jobs):
                self.started += 1
                self.running.append(RunningJob(handle, self.started))
                entry = self.sweep.jobs.setdefault(handle.job.name, Entry())
                entry.status, entry.reason = states.RUNNING, None
                entry.cluster_id = getattr(handle, "cluster_id", None)
                where = f"  ({handle.where})" if handle.where else ""
                self.say(f"{self._count(self.started)} {'start':7} {handle.job.name}{where}")
            self._save()

    def _save(self) -> None:
        """Write sweep.json; the jobs do not depend on it, nor does what the next command finds."""
        try:
            self.sweep.write()
        except UserError as error:
            if not self._unwritable:
                self.say(f"{error}; the jobs go on")
            self._unwritable = True

    def _look(self) -> None:
        """See which jobs have ended, and kill those that do not stop."""
        for watched in list(self.running):
            over, status = watched.handle.poll()
            if over:
                self.running.remove(watched)
                self._ended(watched, status)
            elif time.monotonic() > watched.kill_at:
                watched.kill_at = float("inf")
                watched.handle.kill()

    def _ended(self, watched: RunningJob, status: int | None) -> None:
        job = watched.handle.job
        asked = watched.asked or watched.handle.fate()
        entry = self.sweep.ended(job.name, job.run_dir, status, asked)
        self.sweep.jobs[job.name] = entry
        self._save()
        self.source.ended(job, entry)
        self.say(f"{self._count(watched.number)} {describe(job.name, entry)}")
        self.changed()
        if entry.status == states.FAILED and self.on_failure is OnFailure["stop"]:
            if not self.stopping:
                self._stop_all(f"stopped because {job.name} failed", "SIGINT")
        elif entry.status == states.KILLED and not watched.asked and not self.stopping:
            # Somebody stopped that job, politely: not a failure of the others.
            self.say(f"        {job.name} was asked to stop from outside")

    def _prune(self) -> None:
        candidates = {w.handle.job.name: w for w in self.running if w.asked is None}
        for name, why in self.source.unpromising(
            [w.handle.job for w in candidates.values()]
        ).items():
            self._stop(candidates[name], StopRequest(why, states.PRUNED), "SIGINT")

    # -- stopping -----------------------------------------------------------------------------

    def _stop_all(self, why: str, name: str) -> None:
        self.stopping = why
        if self.running:
            jobs = _several(len(self.running), "running job")
            again = "; Ctrl-C again kills them" if name == "SIGINT" else ""
            self.say(f"{why}: waiting for {jobs} to save{again}")
        for watched in self.running:
            self._stop(watched, StopRequest(why), name)

    def _stop(self, watched: RunningJob, request: StopRequest, name: str) -> None:
        watched.kill_at = min(watched.kill_at, time.monotonic() + GRACE_SECONDS[name])
        if watched.asked is None:
            watched.asked = request
            # Jobs have no terminal: one of them may have been told to ignore that it closes.
            watched.handle.stop(signal.Signals["SIGTERM" if name == "SIGHUP" else name])

    def _kill_rest(self) -> None:
        """Kill what still runs after an error or a second Ctrl-C, and note how the jobs ended."""
        for watched in self.running:
            # Not PRUNED, whatever was asked before: the source does not hear of it any more.
            watched.asked = StopRequest(
                watched.asked.reason if watched.asked else "killed with the sweep"
            )
            watched.handle.kill()
        until = time.monotonic() + 5.0
        while self.running and time.monotonic() < until:
            for watched in list(self.running):
                over, status = watched.handle.poll()
                if over:
                    self.running.remove(watched)
                    job = watched.handle.job
                    entry = self.sweep.ended(job.name, job.run_dir, status, watched.asked)
                    self.sweep.jobs[job.name] = entry
            time.sleep(POLL_SECONDS)
        self._save()

    # -- lines --------------------------------------------------------------------------------

    def _count(self, number: int) -> str:
        width = len(str(self.source.total))
        return f"[{number:{width}}/{self.source.total}]"

    def _tell_news(self) -> None:
        """Say how far each running job is: by its metrics, else by the last line of its log.

        Of one that a cluster has not started yet: why it waits.
        """
        for watched in self.running[:MAX_NEWS_LINES]:
            name = watched.handle.job.name
            line = watched.handle.waits() or how_far(watched.handle.job.run_dir)
            line = line or last_line(self.sweep.log_file(name))
            if line:
                self.say(f"        {name}: {line}")
        if len(self.running) > MAX_NEWS_LINES:
            self.say(f"        and {len(self.running) - MAX_NEWS_LINES} more running")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def describe(name: str, entry: Entry) -> str:
    """Write how a job ended, for people."""
    best = entry.best
    result = f"  {best['metric']} {best['value']:.4f} @ {best['step']:,}" if best else ""
    minutes = f"  {entry.minutes:.1f} min" if entry.minutes is not None else ""
    word = {states.FINISHED: "done", states.PRUNED: "pruned", states.KILLED: "stopped"}
    reason = f"  {entry.reason}" if entry.reason else ""
    return f"{word.get(entry.status, entry.status):7} {name}{result}{minutes}{reason}"


def how_far(run_dir: Path) -> str:
    """Write the latest numbers of a run in one line; an empty text if there are none yet."""
    try:
        run = read_run(run_dir)
        curves, best = run.curves, run.best
    except (UserError, OSError):
        return ""
    parts = [f"step {run.step:,}"] if curves else []
    for key, name in (("train/loss", "train"), (run.metric, run.metric)):
        if key in curves:
            parts.append(f"{name} {number(curves[key][-1][1])}")
    if best is not None:
        parts.append(f"best {number(best.value)} @ {best.step:,}")
    return "  ".join(parts)


def last_line(path: Path) -> str:
    """Return the last line of a log that is not empty, or an empty text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
