"""Callbacks of `mambalab train`: text samples, pictures, the final test.

One class each; `train.callbacks` says when they are called. A new one goes into
`callback_list.CallbackList`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mambalab.data.text_sources import END
from mambalab.generation.decoding import generate, obstacle
from mambalab.generation.sampling import NonFiniteLogitsError, Sampling
from mambalab.generation.text_stream import continuation
from mambalab.plots import curves, norms, tables
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy, FinalTestResult, Status
from mambalab.settings.train import Precision
from mambalab.tasks.base import Task
from mambalab.tasks.text import TextTask
from mambalab.tracking.recorder import Recorder
from mambalab.train import checkpoint, chosen, runtime
from mambalab.train.callbacks import Callback, Result
from mambalab.train.checks import numbers
from mambalab.train.progress import StoppedError, watching
from mambalab.train.ranks import ALONE, Ranks, shared
from mambalab.utils import console
from mambalab.utils.files import write_text
from mambalab.utils.renamed import current
from mambalab.utils.text import short

LOG = logging.getLogger("mambalab")
PICTURE_SECONDS = 30.0  # the loss picture is redrawn at most this often during training
SAMPLE_TEMPERATURE = 0.8
SHOWN_EVERY = 3  # of the samples, one is shown
SHOWN_LINES = 3  # of a sample
SHOWN_COLUMNS = 76  # of a line of it, at most


class TrackingShare(Callback):
    """Measures how much of the session's time its training thread spends in recording.

    Attributes:
        share: in [0, 1]; None until the end.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.began = time.monotonic()
        self.share: float | None = None

    def on_end(self, result: Result) -> None:
        """Compute the share, before other callbacks take their time."""
        self.share = round(self.recorder.seconds / (time.monotonic() - self.began), 6)


class KeepFiles(Callback):
    """Writes small files of the run folder again that somebody deleted while the run trained.

    Args:
        files: which; all are written at once.
        write: writes them.
    """

    def __init__(self, files: Sequence[Path], write: Callable[[], None]) -> None:
        self.files = files
        self.write = write

    def on_evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Look after the files."""
        self._check()

    def on_end(self, result: Result) -> None:
        """Look after the files."""
        self._check()

    def _check(self) -> None:
        if gone := [str(path) for path in self.files if not path.exists()]:
            LOG.warning("%s went while the run trained: written again", ", ".join(gone))
            self.write()


class ScoreBeforeTraining(Callback):
    """Says how good weights from a checkpoint are before they are trained."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metric of the evaluation at step 0."""
        if step == 0:
            LOG.info("before training: %s", f"{self.metric} {metrics[self.metric]:.4f}")


class Sample(Callback):
    """Lets the model write something after each evaluation, into `samples/`.

    Args:
        model: of the run; one that cannot generate is passed over.
        task: with the tokenizer.
        seed: of the sampling: samples differ by the weights alone.
        device, precision: where and how to compute.
        folder, recorder: where the sample goes.
        stop_requested: returns the name of a signal once the user asked the run to stop.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Any,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        folder: RunFolder,
        recorder: Recorder,
        stop_requested: Callable[[], str | None],
    ) -> None:
        self.model = model
        self.task = task
        self.seed = seed
        self.device = device
        self.precision = precision
        self.folder = folder
        self.recorder = recorder
        self.stop_requested = stop_requested

    def on_evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Generate one sample and write it; StoppedError if a signal comes before its end."""
        if self.obstacle() is not None:
            return
        self.model.eval()
        try:
            found = self.sample()
        except NonFiniteLogitsError as error:  # what training does about it is for its guard
            LOG.warning("no sample at step %d: %s", step, error)
            return
        finally:
            self.model.train()
        self.recorder.artifact(self.write(self.folder.samples / f"step-{step:08d}", found))

    def obstacle(self) -> str | None:
        """Say what the model lacks for generation, in one clause; None if it can generate."""
        return obstacle(self.model)

    def sample(self) -> Any:
        """Generate; the model is in evaluation mode."""
        raise NotImplementedError

    def write(self, stem: Path, found: Any) -> Path:
        """Write what `sample` returned, to `stem` with an ending; returns the path."""
        raise NotImplementedError


class TextSample(Sample):
    """Writes a text after each evaluation, to `samples/step-<step>.txt`; shows the beginning of
    the first, the fourth, ...

    Args:
        model, task, options: as of `Sample`.
        length: tokens to generate.
    """

    task: TextTask

    def __init__(self, model: nn.Module, task: TextTask, *, length: int, **options: Any) -> None:
        super().__init__(model, task, **options)
        self.length = length
        self.written = 0

    def write(self, stem: Path, found: str) -> Path:
        """Write the text; shows it now and then."""
        path = write_text(stem.with_suffix(".txt"), found)
        if self.written % SHOWN_EVERY == 0:
            console.say(lambda columns: excerpt(found, columns))
        self.written += 1
        return path

    def sample(self) -> str:
        """Generate a text."""
        tokenizer = self.task.tokenizer
        start = current(tokenizer, "start_token", "opening")()
        prompt = torch.tensor([[start]], device=self.device)
        with runtime.autocast(self.device, self.precision):
            new = generate(
                self.model,  # pyright: ignore[reportArgumentType]
                list(prompt),
                max_new_tokens=self.length,
                rules=Sampling(temperature=SAMPLE_TEMPERATURE, allowed=tokenizer.vocab_size),
                seed=self.seed,
            )
            text = continuation(tokenizer, [start], [self._noted(token) for token in new])
        return text.replace(END, "\n\n") + "\n"

    def _noted(self, token: torch.Tensor) -> int:
        if name := self.stop_requested():
            raise StoppedError(name)
        return int(token)


def excerpt(text: str, columns: int | None = None) -> str:
    """Return the first lines of a text that are not empty, indented and cut to a width."""
    width = min(columns or SHOWN_COLUMNS, SHOWN_COLUMNS) - len("  | ")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][:SHOWN_LINES]
    return "\n".join(f"  | {short(line.expandtabs(), width)}" for line in lines) or "  |"


class FinalTest(Callback):
    """Measures the test split once, at the end, with the weights that validation chose.

    A run that was finished, tested and then trained further is tested again only if other weights
    are the best now. A test that was stopped has given no numbers and counts for nothing.

    Args:
        model: of the run; holds the chosen weights afterwards.
        task: measures; nothing is done if it has no test split.
        previous: what an earlier session measured.
        device, precision: where and how to compute.
        folder, recorder: where numbers, tables and pictures go.
        stop_requested: returns the name of a signal once the user asked the run to stop.
        ranks: the processes that train; all measure.

    Attributes:
        test: what the summary will say: what was measured now, else `previous`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        previous: FinalTestResult | None,
        device: torch.device,
        precision: Precision,
        folder: RunFolder,
        recorder: Recorder,
        stop_requested: Callable[[], str | None],
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.task = task
        self.ranks = ranks
        self.test = previous
        self.device = device
        self.precision = precision
        self.folder = folder
        self.recorder = recorder
        self.stop_requested = stop_requested

    def on_end(self, result: Result) -> None:
        """Measure the test split if training is complete; a signal makes the run KILLED."""
        if result.status is not Status.FINISHED or "test" not in self.task.splits:
            return
        try:
            self._measure()
        except StoppedError as stopped:
            result.status, result.ended_by = Status.KILLED, EndedBy(stopped.signal)
            result.reason = f"stopped by {stopped.signal} in the final test, training is complete"
            result.left = "test"

    def _measure(self) -> None:
        path = self.folder.path
        # Somebody may have deleted a damaged best: then it is the last weights that are used.
        best = checkpoint.find(path, "best")
        if best is None:
            best = checkpoint.find(path, "last")
            assert best is not None, "a finished run was saved"
            LOG.warning("%s has no best checkpoint any more: testing the last weights", path)
        if self.test is not None and self.test.step == best.step:
            self.ranks.tell(None)
            return
        LOG.info("testing the weights of step %s", f"{best.step:,}")
        weights, _ = chosen.load_judged(best, self.device)
        checkpoint.restore_weights(self.model, weights, best.path)
        self.ranks.tell(self.model.state_dict())
        metrics, found = test_together(self.model, self.task, self.ranks, self, self.stop_requested)
        self.recorder.metrics(best.step, metrics)
        for file in tables.write(path, "test", found):
            self.recorder.artifact(file)
        times = self.test.times if self.test is not None else None
        self.test = FinalTestResult(best.step, (times or 0) + 1, metrics)


def test_together(
    model: nn.Module, task: Any, ranks: Ranks, resolved: Any, stop_requested: Any
) -> tuple[dict[str, float], list[Any]]:
    """Measure the test split, together with the other processes if there are any.

    Raises:
        StoppedError: a signal came; raised in all of them.
    """
    found: tuple[dict[str, float], list[Any]] = ({}, [])
    watched = watching(task, "testing", stop_requested)
    arithmetic = runtime.autocast(resolved.device, resolved.precision)
    with ranks.stopping_together(), watched, shared(task, ranks), arithmetic:
        metrics, tables = current(task, "evaluate_detailed", "examine")(model, "test")
        found = numbers(metrics), tables
    return found  # noqa: RET504 - the block may end by an exception that it swallows


class LossPicture(Callback):
    """Draws `plots/loss.png` now and then, and at the end.

    Args:
        folder, recorder: where the picture goes.
        unit: of the loss, for the axis.
    """

    def __init__(self, folder: RunFolder, recorder: Recorder, unit: str) -> None:
        self.folder = folder
        self.recorder = recorder
        self.unit = unit
        self.drawn = time.monotonic()

    def on_evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Draw the picture, unless that was done less than `PICTURE_SECONDS` ago."""
        if time.monotonic() - self.drawn > PICTURE_SECONDS:
            self._draw()

    def on_end(self, result: Result) -> None:
        """Draw the picture a last time, unless somebody waits for the run to stop."""
        if result.status is not Status.KILLED:
            self._draw()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        metrics = self.folder.metrics
        if not metrics.exists() or not metrics.stat().st_size:  # tracking=none, or stopped at once
            return
        try:
            with console.meanwhile("drawing the loss"):
                pictures = curves.loss_pictures(self.folder.path, unit=self.unit)
            for picture in pictures:
                self.recorder.artifact(picture)
        except curves.NoLossError as error:  # a task of one's own may measure something else
            LOG.info("no picture: %s", error)


class NormsPicture(Callback):
    """Draws `plots/norms.png` at the end.

    Args:
        folder, recorder: where the picture goes.
    """

    def __init__(self, folder: RunFolder, recorder: Recorder) -> None:
        self.folder = folder
        self.recorder = recorder

    def on_end(self, result: Result) -> None:
        """Draw the picture, unless somebody waits for the run to stop."""
        if result.status is Status.KILLED:
            return
        try:
            with console.meanwhile("drawing the norms"):
                self.recorder.artifact(norms.norms_picture(self.folder.path))
        except norms.NoNormsError as error:  # tracking=none, or too short for a log step
            LOG.info("no picture: %s", error)
