"""`mambalab train -m`: run a planned sweep from its first job to the table at the end."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from mambalab import config
from mambalab.config.trust import resolve_target
from mambalab.errors import UserError
from mambalab.records.reader import is_run, read_run
from mambalab.runs import resume
from mambalab.settings.sweep import LocalSettings, Search, SlurmSettings, SubmititSettings
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry, SweepFolder, note_results
from mambalab.sweep.mlflow_parent import MlflowParent
from mambalab.sweep.plan import Job, Plan
from mambalab.sweep.processes import TRACKING_URI, Launcher, ProcessLauncher
from mambalab.sweep.schedule import Grid, JobSource, Scheduler
from mambalab.sweep.slots import Slots
from mambalab.tracking import sync
from mambalab.utils import console, process
from mambalab.utils.files import read_json
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import harmless, table, wrapped

POLL_SECONDS = 0.2
MAX_ORPHAN_SECONDS = 120.0
HEADER = ("job", "status", "best", "minutes", "remark")


def run(plan: Plan) -> int:
    """Run what is left of a sweep.

    Returns:
        0; 1 if a job failed; 129, 130 or 143 if a signal stopped the sweep.

    Raises:
        UserError: nothing could be started, or no more jobs from some point on.
    """
    if plan.first.figure.font is not None:
        from mambalab.compare.files import check_font

        check_font(plan.first.figure)
    with SweepFolder(plan.folder).held():
        sweep = SweepFolder.read(plan.folder)  # as the last holder left it
        sweep.note_command([hide_password(word) for word in plan.command])
        uri = plan.first.tracking.uri
        if uri is not None and uri != hide_password(uri):
            os.environ[TRACKING_URI] = uri
        sweep.not_applicable |= plan.not_applicable
        for name, why in _by_reason(plan.not_applicable).items():
            _say(f"not applicable: {name}: {why}")
        _wait_for_orphans(sweep, on_cluster=isinstance(plan.launcher, SlurmSettings))
        left = _sort_out(plan, sweep)
        source = _source(plan, left)
        launcher = _launcher(plan, sweep)
        parent = MlflowParent(plan, sweep, _say)
        sweep.status = states.RUNNING
        sweep.total = len(plan.jobs) or plan.settings.trials
        sweep.write()
        if source.left():
            _say(f"sweep: {plan.folder}")
        scheduler = Scheduler(
            sweep,
            source,
            launcher,
            on_failure=plan.settings.on_failure,
            say=_say,
            changed=parent.changed,
            tick=parent.pass_on_notices,
            adapt=parent.adapt,
        )
        parent.start()
        try:
            stopped = scheduler.run()
            if getattr(source, "exhausted", ""):
                sweep.total = len(sweep.jobs)
            status = _end(plan, sweep, source, parent, stopped)
        except BaseException as error:
            _close(sweep, parent, states.FAILED if isinstance(error, Exception) else states.KILLED)
            raise
        if why := getattr(source, "exhausted", ""):
            _say(why)
        if scheduler.broken is not None:
            raise scheduler.broken
        return status


def _close(sweep: SweepFolder, parent: MlflowParent, status: str) -> None:
    sweep.status = status
    with contextlib.suppress(UserError):  # that it cannot be written was said before
        sweep.write()
    parent.finish(status)


def _end(
    plan: Plan, sweep: SweepFolder, source: JobSource, parent: MlflowParent, stopped: str | None
) -> int:
    entries = _entries(plan, sweep, source)
    _show(_table(entries, plan))
    count = sum(e.status in (states.FINISHED, states.PRUNED) for e in entries.values())
    failed = sum(e.status == states.FAILED for e in entries.values())
    open_ = len(entries) - count - failed
    line = f"{count} of {len(entries)} jobs finished"
    if failed:
        line += f", {failed} failed"
    if open_ or failed:
        line += "; the same command goes on with the rest"
    _show(line)
    if stopped is None:
        _compare(plan, sweep, parent)
    _close(
        sweep,
        parent,
        states.KILLED if stopped else states.FAILED if failed or open_ else states.FINISHED,
    )
    unwell = 1 if failed or open_ else 0
    return {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}.get(stopped or "", unwell)


def _compare(plan: Plan, sweep: SweepFolder, parent: MlflowParent) -> None:
    """Report over the finished runs, if there are any, also in MLflow."""
    from mambalab.compare import files
    from mambalab.compare.select import compare_folders
    from mambalab.compare.text import terminal

    searched = plan.settings.search is not Search.grid
    names = sweep.jobs if searched else [job.name for job in plan.jobs]
    runs = [path for name in names if is_run(path := plan.folder / name)]
    finished = sum(read_run(path).status == states.FINISHED for path in runs)
    if finished < (1 if searched else 2):
        return
    try:
        with console.meanwhile("comparing the runs"):
            found = compare_folders([plan.folder])
            written = files.write(found, plan.folder / "comparison", plan.first.figure)
            parent.attach(written)
    except (UserError, OSError) as error:
        _say(f"no comparison: {error}")
        return
    shown = terminal(found, console.columns(sys.stdout))
    _show(f"\n{shown}\n\ncomparison: {plan.folder / 'comparison'}")


# -- before the start ----------------------------------------------------------------------------


def _wait_for_orphans(sweep: SweepFolder, on_cluster: bool) -> None:
    """Wait for jobs of a sweep that was killed: they save and stop, which takes a moment."""
    until = time.monotonic() + MAX_ORPHAN_SECONDS
    told = False
    alive: list[str] = []
    while time.monotonic() < until:
        alive = [name for name in sweep.jobs if _lives(sweep, name, on_cluster)]
        if not alive:
            return
        if not told:
            told = True
            more = f" and {len(alive) - 1} more" if len(alive) > 1 else ""
            _say(f"waiting for {alive[0]}{more}, which the killed sweep left: to save and stop")
        time.sleep(POLL_SECONDS)
    _say(f"{', '.join(alive)}: still running after {MAX_ORPHAN_SECONDS:.0f} s; not waiting longer")


def _lives(sweep: SweepFolder, name: str, on_cluster: bool) -> bool:
    """Whether the process of a job runs on this machine; one on a cluster is watched anyhow."""
    entry = sweep.jobs[name]
    try:
        worker = read_json(sweep.process_file(name))
    except (OSError, UserError):
        return False
    watched = on_cluster and entry.cluster_id is not None
    return not watched and process.alive(worker) is True


def _sort_out(plan: Plan, sweep: SweepFolder) -> list[Job]:
    """Note the state of the jobs on disk; returns those that are to run."""
    left: list[Job] = []
    done = 0
    for job in plan.jobs:
        entry = sweep.jobs.setdefault(job.name, Entry())
        settings = config.typed(job.config)
        if is_run(job.run_dir):
            resume.check(settings, job.run_dir, setting="sweep.dir")
        if is_run(job.run_dir) and resume.finished(settings, job.run_dir):
            entry.status, entry.reason = states.FINISHED, None
            sync.send_rest(job.run_dir, settings.tracking, Path(settings.output_dir))
            note_results(entry, read_run(job.run_dir))
            done += 1
        else:
            if entry.status == states.RUNNING:  # the sweep was killed
                entry.status = states.WAITING
            left.append(job)
    if done:
        _say(f"{done} of {len(plan.jobs)} jobs were finished before")
    return left


def _source(plan: Plan, left: list[Job]) -> JobSource:
    if plan.settings.search is Search.grid:
        return Grid(left)
    from mambalab.sweep.optuna_search import SearchSource

    at_once = isinstance(plan.launcher, SlurmSettings) and plan.launcher.n_jobs == -1
    if at_once and plan.settings.search is Search.tpe:
        _say(
            "TPE draws all jobs at once, blindly: with hydra.launcher.n_jobs=4, say, later jobs "
            "learn from earlier ones"
        )
    task = resolve_target(plan.first.task._target_)
    return SearchSource(
        plan,
        metric=getattr(task, "metric", "val/loss"),
        maximize=getattr(task, "maximize", False),
        say=_say,
    )


def _launcher(plan: Plan, sweep: SweepFolder) -> Launcher:
    settings = plan.launcher
    if isinstance(settings, SlurmSettings):
        from mambalab.sweep.submitit_launcher import ClusterLauncher

        known = {n: e.cluster_id for n, e in sweep.jobs.items() if e.cluster_id is not None}
        return ClusterLauncher(sweep, settings, None, known)
    if not isinstance(settings, LocalSettings):
        return ProcessLauncher(sweep, Slots(1, sweep.threads), on_terminal=True)
    devices = {plan.first.device, *(str(job.config.device) for job in plan.jobs)}
    device = next((name for name in ("auto", "cuda") if name in devices), plan.first.device)
    count = len(plan.jobs) or plan.settings.trials
    configs = [plan.first, *(job.config for job in plan.jobs)]
    several = max(config.trainer.devices or 1 for config in configs)
    slots = Slots.plan(
        settings.n_jobs, settings.jobs_per_gpu, device, sweep.threads, count, several
    )
    if sweep.threads is not None and slots.threads != sweep.threads:
        _say(
            f"jobs have {slots.threads} threads each now, {sweep.threads} before: runs that go on "
            "may differ in their last digits"
        )
    sweep.threads = slots.threads
    if isinstance(settings, SubmititSettings):
        from mambalab.sweep.submitit_launcher import ClusterLauncher

        return ClusterLauncher(sweep, settings, slots, {})
    return ProcessLauncher(sweep, slots, on_terminal=False)


# -- at the end ----------------------------------------------------------------------------------


def _entries(plan: Plan, sweep: SweepFolder, source: JobSource) -> dict[str, Entry]:
    """Return the state of this command's jobs; other commands may have left more in the folder.

    Of a search all that have a result count, and whatever this command has tried.
    """
    if isinstance(source, Grid):
        return {job.name: sweep.jobs[job.name] for job in plan.jobs}
    ended = (states.FINISHED, states.PRUNED)
    found = {n: e for n, e in sweep.jobs.items() if e.status in ended or n in source.tried}
    return dict(sorted(found.items(), key=lambda item: _rank(item[1])))


def _by_reason(refused: dict[str, str]) -> dict[str, str]:
    """Group combinations that make no sense by reason, named after the first with that reason."""
    names: dict[str, list[str]] = {}
    for name, why in refused.items():
        names.setdefault(why, []).append(name)
    return {
        of[0] + (f" and {len(of) - 1} more" if len(of) > 1 else ""): why
        for why, of in names.items()
    }


def _rank(entry: Entry) -> tuple[bool, float]:
    """Return a sort key: the best of a search first, jobs without a result last."""
    if entry.best is None or entry.status != states.FINISHED:
        return True, 0.0
    value = entry.best["value"]
    return False, -value if entry.best["maximize"] else value


def _table(entries: dict[str, Entry], plan: Plan) -> str:
    rows, width = [], console.columns(sys.stdout)
    for name, entry in entries.items():
        best = entry.best
        rows.append(
            (
                name,
                entry.status.lower(),
                f"{best['metric']} {best['value']:.4f} @ {best['step']:,}" if best else "-",
                "-" if entry.minutes is None else f"{entry.minutes:.1f}",
                entry.reason or "",
            )
        )
    rows += [
        (n, "not applicable", "-", "-", why) for n, why in _by_reason(plan.not_applicable).items()
    ]
    if not any(remark for *_, remark in rows):
        return f"\n{table(HEADER[:-1], [row[:-1] for row in rows], columns=width)}\n"
    return f"\n{table(HEADER, rows, columns=width)}\n"


def _say(line: str) -> None:
    _show(wrapped(line, console.columns(sys.stderr)), sys.stderr)


def _show(text: str, file: TextIO | None = None) -> None:
    """Print; a reader that has gone, or a closed terminal, stops no job."""
    with contextlib.suppress(OSError):
        print(harmless(text), file=file, flush=True)
