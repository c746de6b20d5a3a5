"""Traces some training steps with torch's profiler (`trainer.profile`)."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from mambalab.errors import first_line
from mambalab.train.state import WARM_UP_STEPS
from mambalab.utils import files

LOG = logging.getLogger("mambalab")
STEPS = 5  # of `trainer.profile=true`
TRACE, TABLE = "trace.json", "operators.txt"
TABLE_ROWS = 30
NAMED = 3  # operators in the line for the terminal


class StepProfiler:
    """Traces steps of a session of training: `trace.json` and `operators.txt` in a folder.

    It computes nothing: the numbers of the run stay the same to the last bit. A session that ends
    before has a trace of the steps that it did.

    Args:
        folder: where the files go; they replace those of an earlier session.
        setting: `trainer.profile`: false, true, or a number of steps.
        device: of the model.
        first: steps of the session before the first that is traced.
    """

    def __init__(
        self, folder: Path, setting: Any, device: torch.device, first: int = WARM_UP_STEPS
    ) -> None:
        self.folder = folder
        self.steps = STEPS if setting is True else int(setting or 0)
        self.device = device
        self.first = first
        self._done = 0
        self._traced: list[int] = []  # numbers of the steps
        self._profile: Any = None

    @property
    def active(self) -> bool:
        """Whether the step that comes or was just done is traced, and so takes longer."""
        return self._profile is not None

    def before_step(self) -> None:
        """Begin to trace if the next step is the first to be traced."""
        if self.steps and self._done == self.first:
            os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else its own lines on standard error
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            # acc_events: else torch 2.11 warns at the start that a second cycle would clear events
            profile = torch.profiler.profile(activities=activities, acc_events=True)
            profile.start()
            self._profile = profile

    def after_step(self, step: int) -> None:
        """Note a step that was done, and write the trace after the last.

        Args:
            step: optimiser steps done, in all sessions.
        """
        self._done += 1
        if self._profile is not None:
            self._traced.append(step)
            if len(self._traced) == self.steps:
                self.close()

    def close(self) -> None:
        """Write what was traced so far, once; a disk that is full costs the trace alone."""
        profile, self._profile = self._profile, None
        if profile is None:
            if self.steps and not self._traced:
                LOG.warning(
                    "no profile: this session did %s steps, the first %s are warm-up",
                    f"{self._done:,}",
                    f"{self.first:,}",
                )
                self.steps = 0
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        profile.stop()
        if not self._traced:
            return
        steps = f"steps {self._traced[0]:,} to {self._traced[-1]:,}"
        order = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        averages = profile.key_averages()
        try:
            table = averages.table(sort_by=order, row_limit=TABLE_ROWS, max_name_column_width=60)
            self.folder.mkdir(exist_ok=True)  # not the run folder: if that is gone, it stays so
            files.write_text(self.folder / TABLE, f"{steps} of {self.folder.parent}\n{table}\n")
            with files.replacing(self.folder / TRACE) as partial:
                profile.export_chrome_trace(str(partial))
        except (OSError, RuntimeError) as error:
            LOG.warning("no profile of %s in %s: %s", steps, self.folder, first_line(error))
            return
        spent = sorted(((getattr(e, order), e.key) for e in averages), reverse=True)
        total = sum(time for time, _ in spent) or 1
        top = ", ".join(f"{key} {100 * time / total:.0f} %" for time, key in spent[:NAMED])
        LOG.info(
            "profile of %s: %s opens in ui.perfetto.dev or chrome://tracing, %s has the table; "
            "most time: %s",
            steps,
            self.folder / TRACE,
            TABLE,
            top,
        )
