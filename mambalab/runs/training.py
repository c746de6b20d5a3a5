"""`mambalab train`: resolve what the settings mean, train it, and report how it ended."""

import dataclasses
import logging
import time
from pathlib import Path

from mambalab import config
from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs import (
    final_report,
    follow,
    launch,
    tidy,
)
from mambalab.runs.resolve import FinishedRun, ResolvedRun, resolve
from mambalab.runs.session import TrainingRun
from mambalab.settings.train import Resume
from mambalab.tasks.base import check_share
from mambalab.tracking import sync
from mambalab.train import runtime
from mambalab.train.ranks import ALONE, Ranks, beginning_together, join, leave
from mambalab.utils import console, memory, torchrun

LOG = logging.getLogger("mambalab")
# As shells number signals; 0 for everything else.
EXIT_STATUS: dict[EndedBy | None, int] = {
    EndedBy.SIGHUP: 129,
    EndedBy.SIGINT: 130,
    EndedBy.SIGTERM: 143,
}


def run(settings: config.TrainConfig) -> int:
    """Train, or report a run that is finished already; print the report.

    Returns:
        0 if the run reached its end, 129, 130 or 143 if a signal stopped it.

    Raises:
        UserError: anything the user can mend; nothing half-written is left over.
    """
    resolved, summary = train(settings)
    if not torchrun.is_follower():
        final_report.show(resolved.settings, resolved.folder, summary)
    if isinstance(resolved, FinishedRun):
        return 0
    return EXIT_STATUS.get(summary.ended_by, 0)


def train(settings: config.TrainConfig) -> tuple[FinishedRun | ResolvedRun, RunSummary]:
    """Train, unless the run is finished already.

    Returns:
        What the settings meant, and the summary of the run as it is now.

    Raises:
        UserError: anything the user can mend; nothing half-written is left over.
    """
    runtime.prepare_process()
    with console.show_log(), memory.told_in_one_line():
        if torchrun.place() is not None:
            return _train_as_rank(settings)
        resolved = resolve(settings)
        if isinstance(resolved, ResolvedRun) and launch.is_wanted(settings):
            launch.check(settings)
            before = time.time()
            stopped = launch.run(settings)
            anew = settings.resume is Resume.never
            if stopped and anew and (resolved.folder.summary().started or 0.0) < before:
                return resolved, _stopped_early(RunSummary(), stopped)  # the old run is still there
            resolved = resolve(dataclasses.replace(settings, resume=Resume.auto))
            return resolved, _as_stopped(resolved, stopped)
        return _train(resolved, ALONE)


def _as_stopped(resolved: FinishedRun | ResolvedRun, stopped: str | None) -> RunSummary:
    """The summary of a run whose processes may have been stopped before they could write it."""
    summary = resolved.summary
    if stopped is None or summary.ended_by in EXIT_STATUS:
        return summary
    if isinstance(resolved, FinishedRun):
        return dataclasses.replace(summary, unheard=stopped)
    return _stopped_early(summary, stopped)


def _stopped_early(summary: RunSummary, stopped: str) -> RunSummary:
    reason = f"stopped by {stopped} before training began, or before it could be saved"
    return dataclasses.replace(
        summary, status=Status.KILLED, ended_by=EndedBy(stopped), reason=reason
    )


def _train_as_rank(settings: config.TrainConfig) -> tuple[FinishedRun | ResolvedRun, RunSummary]:
    """Train as one of the processes that torchrun started."""
    place = torchrun.place()
    if place is not None and place.restarts and settings.resume is Resume.never:
        settings = dataclasses.replace(settings, resume=Resume.auto)  # torchrun starts it again
    device = runtime.choose_device(settings.device)
    ranks = join(device)
    try:
        check_share(settings.task.batch_size, ranks.size)
        found = resolve(settings) if ranks.is_first else None
        with beginning_together(ranks):
            resolved = ranks.tell(found)
        if ranks.is_first:
            return _train(resolved, ranks)
        if isinstance(resolved, FinishedRun):
            return resolved, resolved.summary
        with beginning_together(ranks):
            ranks.wait()  # rank 0 fetches what is not there
        return resolved, follow.run(resolved, ranks, device)
    finally:
        leave()


def _train(
    resolved: FinishedRun | ResolvedRun, ranks: Ranks
) -> tuple[FinishedRun | ResolvedRun, RunSummary]:
    """Train what was resolved, or look after the run that is finished."""
    if isinstance(resolved, FinishedRun):
        LOG.info("this run is finished already: %s", resolved.reason)
        tidy.say_if_data_changed(resolved)
        tidy.finished(resolved)
        tidy.relabel(resolved)
        finished, output_dir = resolved.settings, Path(resolved.settings.output_dir)
        sync.send_rest(resolved.folder.path, finished.tracking, output_dir)
        return resolved, resolved.summary
    run = TrainingRun(resolved, ranks=ranks)
    with beginning_together(ranks):
        ranks.wait()
    return resolved, run.run()
