"""Looks at a sweep from outside, by its folder alone: jobs, their latest values, when all ends."""

import contextlib
import heapq
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records.reader import RunRecord, is_run, read_run
from mambalab.records.run_folder import SWEEP
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.utils import console, process
from mambalab.utils.files import read_json
from mambalab.utils.text import duration, harmless, number, table, wrapped

LOOK_SECONDS = 2.0
NEWS_SECONDS = 60.0  # between lines where there is no terminal to redraw
HEADER = ("job", "status", "step", "latest", "best", "minutes", "left")
_RIGHT = {"step", "minutes", "left"}
_ORDER = (states.RUNNING, states.FAILED, states.FINISHED, states.PRUNED, states.KILLED,
          states.WAITING)  # fmt: skip


@dataclass(frozen=True)
class JobView:
    """What there is to see of one job.

    Attributes:
        name: of the job.
        entry: its state in sweep.json.
        step: optimiser steps done, and those to do if they are limited: `120/1,500`.
        latest: the latest value of the metric that the run is judged by, or of train/loss.
        best: the best value of that metric.
        minutes: training time so far.
        left: minutes that a running job has left, by its own pace; None if that is not known.
    """

    name: str
    entry: Entry
    step: str = "-"
    latest: str = "-"
    best: str = "-"
    minutes: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class SweepView:
    """A sweep as it is now.

    Attributes:
        path: its folder.
        jobs: running ones first, waiting ones last.
        running: whether a process works on it; None if that cannot be known here.
        status: in sweep.json.
        ended: Unix time of its last change.
        total: jobs that there will be; a search draws them one by one.
    """

    path: Path
    jobs: list[JobView]
    running: bool | None
    status: str
    ended: float
    total: int

    @property
    def goes_on(self) -> bool:
        """Whether there is something to wait for."""
        return self.status == states.RUNNING and self.running is not False


def look(folder: Path) -> SweepView:
    """Read the folder of a sweep; raises UserError if it is none, or damaged."""
    file = folder / SWEEP
    if not file.is_file():
        raise UserError(f"{folder} is no sweep: it has no {SWEEP}")
    sweep = SweepFolder.read(folder)
    jobs = [_job(folder, name, entry) for name, entry in sweep.jobs.items()]
    jobs.sort(key=lambda job: _ORDER.index(job.entry.status) if job.entry.status in _ORDER else 9)
    return SweepView(
        folder,
        jobs,
        process.alive(read_json(file, folder)),
        sweep.status,
        file.stat().st_mtime,
        max(sweep.total or 0, len(jobs)),
    )


def _job(folder: Path, name: str, entry: Entry) -> JobView:
    """What sweep.json says of a job; of a running one what its run folder says."""
    best = entry.best
    view = JobView(
        name,
        entry,
        best=f"{best['metric']} {number(best['value'])} @ {best['step']:,}" if best else "-",
        minutes=entry.minutes,
    )
    path = folder / name
    if entry.status != states.RUNNING:
        return view
    with contextlib.suppress(UserError, OSError):  # being written, or damaged: said elsewhere
        if is_run(path):
            return _running(view, read_run(path))
    return view


def _running(view: JobView, record: RunRecord) -> JobView:
    """A running job by its run folder."""
    metric = record.metric if record.curves.get(record.metric) else "train/loss"
    points = record.curves.get(metric)
    step, best, minutes = record.step or 0, record.best, record.minutes or 0.0
    most = record.setting("trainer.max_steps")
    left = []
    if isinstance(most, int) and step and minutes:
        left.append(minutes * max(most - step, 0) / step)
    longest = record.setting("trainer.max_minutes")
    if isinstance(longest, int | float):
        left.append(max(longest - minutes, 0.0))
    return JobView(
        view.name,
        view.entry,
        step=f"{step:,}/{most:,}" if isinstance(most, int) else f"{step:,}",
        latest=f"{metric} {number(points[-1][1])}" if points else "-",
        best=f"{best.metric} {number(best.value)} @ {best.step:,}" if best else "-",
        minutes=minutes,
        left=min(left) if left else None,
    )


def minutes_left(view: SweepView) -> float | None:
    """Estimate when all jobs will have ended, in minutes from now; None before there is a pace.

    Running jobs go on at their own pace; one that waits takes as long as the others on average, and
    begins where one has ended: as many run at once as now.
    """
    running = [job for job in view.jobs if job.entry.status == states.RUNNING]
    ended = [job.minutes for job in view.jobs if job.entry.status == states.FINISHED]
    lengths = [minutes for minutes in ended if minutes]
    lengths += [(job.minutes or 0.0) + job.left for job in running if job.left is not None]
    if not lengths:
        return None
    mean = sum(lengths) / len(lengths)
    waiting = sum(job.entry.status == states.WAITING for job in view.jobs)
    waiting += view.total - len(view.jobs)
    free = [
        max(mean - (job.minutes or 0.0), 0.0) if job.left is None else job.left for job in running
    ] or [0.0]
    heapq.heapify(free)
    for _ in range(waiting):
        heapq.heappush(free, heapq.heappop(free) + mean)
    return max(free)


def headline(view: SweepView, now: float | None = None) -> str:
    """Say how many jobs are in which state, and when all end or ended.

    Args:
        view: of the sweep.
        now: Unix time; the present one unless given.
    """
    now = time.time() if now is None else now
    counts = {status: sum(job.entry.status == status for job in view.jobs) for status in _ORDER}
    counts[states.WAITING] += view.total - len(view.jobs)
    words = [f"{n} {status.lower()}" for status, n in counts.items() if n]
    line = f"{view.total} jobs: {', '.join(words) or 'none'}"
    if view.goes_on:
        left = minutes_left(view)
        if left is None:
            return f"{line}; no pace yet to tell when all end"
        return f"{line}; all end in about {duration(60 * left)}, at {_clock(now + 60 * left, now)}"
    if view.status == states.RUNNING:
        return f"{line}; its process is gone: the same command goes on with the rest"
    return f"{line}; ended {_clock(view.ended, now)} ({view.status})"


def _clock(at: float, now: float) -> str:
    """A time of day, with the date if it is not today."""
    there, today = time.localtime(at), time.localtime(now)
    same = there[:3] == today[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", there)


def text(view: SweepView, rows: int | None = None, columns: int | None = None) -> str:
    """Lay out the jobs and the headline.

    Args:
        view: of the sweep.
        rows: most jobs to show; None = all.
        columns: of the terminal; where there is no room, minutes and then the latest value are
            left out. None = without end.
    """
    shown = view.jobs[:rows]
    header = list(HEADER)
    lines = [
        [
            job.name,
            job.entry.status.lower(),
            job.step,
            job.latest,
            job.best,
            "-" if job.minutes is None else f"{job.minutes:.1f}",
            "-" if job.left is None else f"{job.left:.1f}",
        ]
        for job in shown
    ]
    more = len(view.jobs) - len(shown)
    rest = [f"... and {more} more"] if more else []
    whole = table(HEADER, lines, _RIGHT)
    for gone in ("minutes", "latest", "best"):
        if columns is None or max(map(len, whole.splitlines())) < columns:
            break
        kept = [i for i, name in enumerate(header) if name != gone]
        header = [header[i] for i in kept]
        lines = [[line[i] for i in kept] for line in lines]
        whole = table(header, lines, _RIGHT)
    return "\n".join([whole, *rest, wrapped(headline(view), columns)])


def follow(folder: Path) -> int:
    """Show a sweep until it ends, or until Ctrl-C, which stops the looking and no job; returns 0.

    On a terminal the table is drawn again in its place; elsewhere a line tells of each change.

    Raises:
        UserError: the folder is no sweep, or sweep.json is damaged.
    """
    live = sys.stdout.isatty()
    drawn, told, told_at = 0, "", 0.0
    view = look(folder)
    with contextlib.suppress(KeyboardInterrupt):
        while view.goes_on:
            if live:
                drawn = _redraw(view, drawn)
            else:
                states_now = " ".join(sorted(job.name + job.entry.status for job in view.jobs))
                if states_now != told or time.monotonic() - told_at > NEWS_SECONDS:
                    console.result(headline(view))
                    told, told_at = states_now, time.monotonic()
            time.sleep(LOOK_SECONDS)
            view = look(folder)
    if drawn:
        sys.stdout.write(f"\x1b[{drawn}A\x1b[J")
    console.result(text(view, columns=console.columns(sys.stdout)))
    return 0


def _redraw(view: SweepView, drawn: int) -> int:
    """Draw a table over the one of `drawn` lines before it; returns how many lines it has now."""
    size = shutil.get_terminal_size()
    lines = harmless(text(view, max(size.lines - 5, 1), size.columns)).splitlines()
    lines = [line if len(line) < size.columns else f"{line[: size.columns - 2]}…" for line in lines]
    back = f"\x1b[{drawn}A\x1b[J" if drawn else ""
    sys.stdout.write(back + "\n".join(lines) + "\n")
    sys.stdout.flush()
    return len(lines)
