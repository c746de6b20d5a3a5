"""The callbacks that every run of `mambalab train` has, in the order in which they are called."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mambalab import config
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import FinalTestResult
from mambalab.runs.callbacks import (
    FinalTest,
    KeepFiles,
    LossPicture,
    NormsPicture,
    ScoreBeforeTraining,
    TextSample,
    TrackingShare,
)
from mambalab.runs.diffusion_samples import sample_of
from mambalab.runs.pixel_sheet import PixelSheet
from mambalab.settings.train import Precision
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tracking.recorder import Recorder
from mambalab.train.callbacks import Callback
from mambalab.train.ranks import Ranks


class CallbackList:
    """Makes the callbacks of a run; a new one has its place here.

    Args:
        settings: of the run.
        model, task: of the run.
        device, precision: where and how to compute.
        folder, recorder: where results go.
        stop_requested: returns the name of a signal once the user asked the run to stop.
        tested: what an earlier session measured on the test split.
        ranks: the processes that train; all measure the test.
        files: small files of the folder that are written again if they go,
        write: by this function.

    Attributes:
        tracking_share, final_test: two of them, which tell what they measured.
        all: in order.
    """

    def __init__(
        self,
        settings: config.TrainConfig,
        model: nn.Module,
        task: Any,
        *,
        device: torch.device,
        precision: Precision,
        folder: RunFolder,
        recorder: Recorder,
        stop_requested: Callable[[], str | None],
        tested: FinalTestResult | None,
        ranks: Ranks,
        files: list[Path],
        write: Callable[[], None],
    ) -> None:
        common: dict[str, Any] = {
            "device": device,
            "precision": precision,
            "folder": folder,
            "recorder": recorder,
            "stop_requested": stop_requested,
        }
        self.tracking_share = TrackingShare(recorder)
        self.final_test = FinalTest(model, task, previous=tested, ranks=ranks, **common)
        self.all: list[Callback] = [
            self.tracking_share,
            KeepFiles(files, write),
            ScoreBeforeTraining(task.metric),
        ]
        length = settings.trainer.sample_chars
        if length and isinstance(task, DiffusionTask):
            self.all.append(sample_of(model, task, length=length, seed=settings.seed, **common))
        elif length and hasattr(task, "tokenizer"):
            self.all.append(TextSample(model, task, length=length, seed=settings.seed, **common))
        if length and isinstance(task, PixelModelTask):
            self.all.append(PixelSheet(model, task, seed=settings.seed, **common))
        self.all += [self.final_test, LossPicture(folder, recorder, unit=task.loss_unit)]
        if settings.trainer.norms:
            self.all.append(NormsPicture(folder, recorder))
