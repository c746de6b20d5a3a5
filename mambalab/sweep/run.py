"""`mambalab train -m`: run a planned sweep from its first job to the table at the end."""

import sys

from mambalab import config
from mambalab.commands import earlier
from mambalab.config.multirun import Job, Plan
from mambalab.config.trust import resolve_target
from mambalab.errors import UserError
from mambalab.report.collect import is_run, read_run
from mambalab.report.plain import table
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry, SweepFolder, note_results
from mambalab.sweep.processes import Launcher, ProcessLauncher
from mambalab.sweep.schedule import Grid, Scheduler, Source
from mambalab.sweep.settings import JoblibSettings, Search, SlurmSettings, SubmititSettings
from mambalab.sweep.slots import Slots
from mambalab.sweep.tracking import SweepRecord

HEADER = ("job", "status", "best", "minutes", "remark")


def run(plan: Plan) -> int:
    """Run what is left of a sweep.

    Returns:
        0; 1 if a job failed; 130 or 143 if a signal stopped the sweep.

    Raises:
        UserError: nothing could be started, or a launcher broke down; what ran is resumable.
    """
    sweep = SweepFolder.read(plan.folder)
    with sweep.held():
        sweep = SweepFolder.read(plan.folder)  # as the last holder left it
        sweep.command = plan.command
        for name, why in plan.not_applicable.items():
            sweep.not_applicable[name] = why
            _say(f"not applicable: {name}: {why}")
        left = _sort_out(plan, sweep)
        source = _source(plan, left)
        launcher = _launcher(plan, sweep)
        record = SweepRecord(plan, sweep, _say)
        sweep.write()
        record.start()
        stopped = _run_jobs(plan, sweep, source, launcher, record)
        return _end(plan, sweep, record, stopped)


def _run_jobs(
    plan: Plan, sweep: SweepFolder, source: Source, launcher: Launcher, record: SweepRecord
) -> str | None:
    """Run the jobs; returns the name of the signal that stopped them, if one did."""
    scheduler = Scheduler(
        sweep,
        source,
        launcher,
        on_failure=plan.settings.on_failure,
        say=_say,
        changed=record.changed,
    )
    if source.left():
        _say(f"sweep: {plan.folder}")
    try:
        return scheduler.run()
    except BaseException as error:
        record.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _end(plan: Plan, sweep: SweepFolder, record: SweepRecord, stopped: str | None) -> int:
    entries = _entries(plan, sweep)
    print(_table(entries, plan))
    count = sum(e.status in (states.FINISHED, states.PRUNED) for e in entries.values())
    failed = sum(e.status == states.FAILED for e in entries.values())
    open_ = len(entries) - count - failed
    line = f"{count} of {len(entries)} jobs finished"
    if failed:
        line += f", {failed} failed"
    if open_ or failed:
        line += "; the same command goes on with the rest"
    print(line, flush=True)
    if stopped is None:
        _compare(plan, record)
    record.finish("KILLED" if stopped else "FAILED" if failed or open_ else "FINISHED")
    return {"SIGINT": 130, "SIGTERM": 143}.get(stopped or "", 1 if failed or open_ else 0)


def _compare(plan: Plan, record: SweepRecord) -> None:
    """Report over the finished runs, if there are any; it stands in MLflow, too."""
    from mambalab.commands import compare
    from mambalab.report import compare_files
    from mambalab.report.compare_text import terminal

    if plan.settings.search is not Search.grid:
        return
    runs = [job.run_dir for job in plan.jobs if is_run(job.run_dir)]
    if sum(read_run(path).status == states.FINISHED for path in runs) < 2:
        return
    try:
        found = compare.compare([plan.folder])
        record.attach(compare_files.write(found, plan.folder / "comparison"))
    except UserError as error:
        _say(f"no comparison: {error}")
        return
    print(f"\n{terminal(found)}\n\ncomparison: {plan.folder / 'comparison'}", flush=True)


# -- before the start ----------------------------------------------------------------------------


def _sort_out(plan: Plan, sweep: SweepFolder) -> list[Job]:
    """Note how the jobs stand on disk; returns those that are to run."""
    left: list[Job] = []
    done = 0
    for job in plan.jobs:
        entry = sweep.jobs.setdefault(job.name, Entry())
        if is_run(job.run_dir) and earlier.finished(config.typed(job.config), job.run_dir):
            entry.status, entry.reason = states.FINISHED, None
            note_results(entry, read_run(job.run_dir))
            done += 1
        else:
            left.append(job)
    if done:
        _say(f"{done} of {len(plan.jobs)} jobs were finished before")
    return left


def _source(plan: Plan, left: list[Job]) -> Source:
    if plan.settings.search is Search.grid:
        return Grid(left)
    from mambalab.sweep.search import SearchSource

    task = resolve_target(plan.first.task._target_)
    return SearchSource(
        plan,
        metric=getattr(task, "metric", "val/loss"),
        maximize=getattr(task, "maximize", False),
    )


def _launcher(plan: Plan, sweep: SweepFolder) -> Launcher:
    settings = plan.launcher
    if isinstance(settings, SlurmSettings):
        from mambalab.sweep.cluster import ClusterLauncher

        return ClusterLauncher(sweep, settings, None, _known(sweep))
    if not isinstance(settings, JoblibSettings):
        return ProcessLauncher(sweep, Slots(1, sweep.threads), on_terminal=True)
    slots = Slots.plan(settings.n_jobs, settings.jobs_per_gpu, plan.first.device, sweep.threads)
    if sweep.threads is not None and slots.threads != sweep.threads:
        _say(
            f"jobs have {slots.threads} threads each now, {sweep.threads} before: runs that go on "
            "may differ in their last digits"
        )
    sweep.threads = slots.threads
    if isinstance(settings, SubmititSettings):
        from mambalab.sweep.cluster import ClusterLauncher

        return ClusterLauncher(sweep, settings, slots, _known(sweep))
    return ProcessLauncher(sweep, slots, on_terminal=False)


def _known(sweep: SweepFolder) -> dict[str, str]:
    return {name: e.cluster_id for name, e in sweep.jobs.items() if e.cluster_id is not None}


# -- at the end ----------------------------------------------------------------------------------


def _entries(plan: Plan, sweep: SweepFolder) -> dict[str, Entry]:
    """How the jobs of this command stand; other commands may have left more in the folder."""
    if plan.settings.search is not Search.grid:
        return dict(sorted(sweep.jobs.items(), key=lambda item: _rank(item[1])))
    return {job.name: sweep.jobs[job.name] for job in plan.jobs}


def _rank(entry: Entry) -> tuple[bool, float]:
    """The best of a search first, jobs without a result last."""
    if entry.best is None or entry.status != states.FINISHED:
        return True, 0.0
    value = entry.best["value"]
    return False, -value if entry.best["maximize"] else value


def _table(entries: dict[str, Entry], plan: Plan) -> str:
    rows = []
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
    rows += [(n, "not applicable", "-", "-", why) for n, why in plan.not_applicable.items()]
    return f"\n{table(HEADER, rows)}\n"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
