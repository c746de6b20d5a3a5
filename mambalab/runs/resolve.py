"""Resolves settings into a run: everything a training session needs, before it is built.

Here the run folder is asked: is there a run, does it belong to these settings, is it finished, from
which checkpoint does it go on, with which arithmetic? Everything later uses the answer. Nothing is
written in the folder but its lock; a checkpoint to fine-tune may be fetched.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from mambalab import config
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import RunSummary
from mambalab.runs import fine_tune, rebuild, resume
from mambalab.runs.fine_tune import ResolvedStart
from mambalab.settings.train import Precision, Resume
from mambalab.train import runtime
from mambalab.train.checkpoint import Checkpoint

FileVersion = tuple[int, int, int]  # inode, time of change in ns, size in bytes


@dataclass(frozen=True)
class FinishedRun:
    """A run that these settings do not take any further.

    Attributes:
        settings: as composed.
        folder: of the run.
        summary: of the run.
        reason: what ended it and how it could go on, for people.
    """

    settings: config.TrainConfig
    folder: RunFolder
    summary: RunSummary
    reason: str


@dataclass(frozen=True)
class ResolvedRun:
    """A run that is about to be trained, new or resumed.

    Attributes:
        folder: of the run; under resume=never another run may still be in it.
        summary: as the last session left it; all None if this is the first.
        summary_version: of the file that `summary` was read from; None if there was none.
        device: where to compute.
        precision: fp32, bf16 or fp16.
        checkpoint: of the run itself, from which it goes on; None if it begins.
        initial_weights: where they come from, with the tokenizer and the settings that they decide.
    """

    folder: RunFolder
    summary: RunSummary
    summary_version: FileVersion | None
    device: torch.device
    precision: Precision
    checkpoint: Checkpoint | None
    initial_weights: ResolvedStart

    @property
    def settings(self) -> config.TrainConfig:
        """The settings, with the sizes of the checkpoint that the run started with."""
        return self.initial_weights.settings

    def is_current(self) -> bool:
        """Whether summary.json is still the one that was read; ask under the folder's lock."""
        return file_version(self.folder.summary_file) == self.summary_version


def resolve(settings: config.TrainConfig) -> ResolvedRun | FinishedRun:
    """Find out everything that a session of training needs; writes only the run folder's lock.

    Under resume=never a run in the folder is not read at all: it may be damaged.

    Raises:
        UserError: the folder cannot be written, is in use, or holds something that these settings
            cannot go on with; no such device; a checkpoint to fine-tune cannot be had.
    """
    config.check_modules(settings.trust)
    folder = RunFolder(config.run_dir(settings))
    if not folder.is_begun():
        folder.check_writable()
    folder.check_own()
    resume.check(settings, folder.path)
    if settings.resume is not Resume.never and folder.config.exists():
        settings = config.with_labels_of(
            settings, resume.read_recorded_config(settings, folder.path)
        )
    summary, version = RunSummary(), None
    if settings.resume is not Resume.never:
        version = file_version(folder.summary_file)
        summary = rebuild.read_summary(folder)
    fine_tune.check_unchanged(settings, folder, summary)
    if reason := resume.end_of(settings, summary):
        return FinishedRun(settings, folder, summary, reason)
    checkpoint = resume.resume_checkpoint(settings, folder)
    device = runtime.choose_device(settings.device)
    precision = _precision(settings.precision, summary, device)
    start = fine_tune.resolve_start(settings, folder, summary, checkpoint)
    return ResolvedRun(folder, summary, version, device, precision, checkpoint, start)


def file_version(path: Path) -> FileVersion | None:
    """Identify the present content of a file by its stat; None if there is no such file."""
    try:
        found = path.lstat()  # of a link itself: it may lead in a circle
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _precision(requested: Precision, summary: RunSummary, device: torch.device) -> Precision:
    """Choose the precision: on `auto` a resumed run keeps the arithmetic it began with."""
    if requested is Precision.auto and summary.precision:
        requested = Precision(summary.precision)
    return runtime.choose_precision(requested, device)
