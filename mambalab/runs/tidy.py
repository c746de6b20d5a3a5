"""Tidies a run folder: half-written files go, what a finished run lost comes again."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Set
from pathlib import Path

import torch

from mambalab import config
from mambalab.errors import UserError
from mambalab.plots import curves
from mambalab.records.run_folder import METRICS, NOTES, RunFolder
from mambalab.runs import build, load, rebuild, resume, user_code
from mambalab.runs.resolve import FinishedRun
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import Recorder
from mambalab.train import checkpoint
from mambalab.train.loop import Trainer
from mambalab.utils import files

LOG = logging.getLogger("mambalab")


def sweep(run_dir: Path, assets: Set[str] = frozenset()) -> None:
    """Remove what killed processes left half-written in a run folder that the caller holds.

    Args:
        run_dir: the folder.
        assets: names of further files in it that the run writes.
    """
    folder = RunFolder(run_dir)
    ours = {p.name for p in (folder.config, folder.metrics, folder.summary_file, folder.spec)}
    ours |= {*NOTES, folder.log.name, *assets}
    files.remove_unfinished(run_dir, lambda name: name in ours)
    for below in (folder.samples, folder.plots, folder.tables, folder.profile):
        files.remove_unfinished(below, lambda _: True)
    checkpoint.sweep(run_dir)


def say_if_data_changed(run: FinishedRun) -> None:
    """Say so if the text of a finished run is another one now; other data take too long to read."""
    data = run.summary.data or {}
    if "tokenizer" not in config.to_plain(run.settings.task) or not isinstance(
        named := data.get("path"), str
    ):
        return
    if data.keys() & {"files", "splits", "columns"}:
        return  # its sha256 is not that of one file
    path = Path(named)
    with contextlib.suppress(OSError):
        if path.is_file() and files.sha256(path) != data.get("sha256"):
            LOG.warning(
                "%s changed since this run was trained: the results are those of the old text; "
                "resume=never trains on the new one",
                path,
            )


def say_what_the_curve_lacks(recorder: Recorder, trainer: Trainer, *, absent: bool) -> None:
    """Say what metrics.jsonl lacks of the curve that the checkpoint gone on from knew.

    Args:
        recorder: of the run, started.
        trainer: as restored from that checkpoint.
        absent: whether there was no metrics.jsonl when the session began.
    """
    now, step = recorder.flush(), trainer.state.step
    if now is None or not step:
        return
    known = trainer.keeper.restored.get("history")
    rows = known.get("rows", 0) if isinstance(known, dict) else 0
    path, before = recorder.run_dir / METRICS, recorder.kept_until(step)
    from_step = f"the curve begins at step {step:,}"
    if before is not None:
        from_step = f"the curve has nothing between step {before:,} and step {step:,}"
    if absent:
        LOG.warning("there was no %s: %s", path, from_step)
    elif now["rows"] < rows:
        LOG.warning(
            "%s has %s of the %s rows that the checkpoint of step %s knew: %s",
            path,
            now["rows"],
            rows,
            f"{step:,}",
            from_step,
        )
    elif not now["rows"] and trainer.state.last:
        LOG.warning("there was no row in %s: %s", path, from_step)


def relabel(run: FinishedRun) -> None:
    """Record the labels that were given to a finished run, and have trackers hear of them; draw
    its loss again if it is to look otherwise.

    Raises:
        UserError: the folder is in use, or cannot be written.
    """
    folder = run.folder
    recorded = resume.read_recorded_config(run.settings, folder.path)
    names = (*config.LABELS, config.FIGURE)
    changed = [k for k in names if getattr(recorded, k) != getattr(run.settings, k)]
    if not changed:
        return
    labels = {key: getattr(run.settings, key) for key in names}
    text = config.to_yaml(dataclasses.replace(recorded, **labels))
    with folder.hold():
        then = folder.config.stat()
        files.write_text(folder.config, text, durable=True)
        os.utime(folder.config, ns=(then.st_atime_ns, then.st_mtime_ns))  # not trained any later
        if config.FIGURE in changed:
            with contextlib.suppress(curves.NoLossError):
                curves.loss_pictures(folder.path)
        for name in NOTES:
            if (folder.path / name).exists():
                note = Note.read(folder.path, name)
                note.state = "behind"
                note.write(folder.path)
    LOG.info("its %s changed: recorded in %s", " and ".join(changed), folder.config)


def finished(run: FinishedRun) -> None:
    """Write again what a finished run lost of its small files, and clear half-written ones.

    Does nothing to a folder that is in use or cannot be written, or if that needs absent data.
    """
    folder, settings = run.folder, run.settings
    try:
        with folder.hold():
            sweep(folder.path)
            if load.has_spec(folder.path):
                return
            if (spec := rebuild.spec(folder.path)) is None:
                vocabulary = load.own_tokenizer(folder.path, settings)
                task = build.build_task(settings, vocabulary=vocabulary)
                user_code.prepare(task, torch.device("cpu"))
                spec = task.spec
            load.write_spec(folder.path, spec)
            LOG.warning("%s was missing or damaged: it is written again", folder.spec)
    except (UserError, OSError) as error:
        LOG.debug("%s is left as it is: %s", folder, error)
