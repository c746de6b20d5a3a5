"""Prints the report of `mambalab train` when a run is over."""

import shlex
import sys
from pathlib import Path

from mambalab import config
from mambalab.records.run_folder import EVENTS, WANDB, RunFolder
from mambalab.records.summary import RunSummary, Status
from mambalab.settings.task import (
    DiffusionSettings,
    ImageSettings,
    PairSettings,
    PixelModelSettings,
)
from mambalab.settings.train import TrackingKind
from mambalab.tracking.wandb_sink import sync_command
from mambalab.utils import console
from mambalab.utils.files import read_json
from mambalab.utils.reading import read_bytes
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import duration, wrapped

_SHORT = {TrackingKind.tensorboard: "look"}  # a name of eight letters at most
_UNITS = {ImageSettings: "images", PixelModelSettings: "images", PairSettings: "pairs"}


def show(settings: config.TrainConfig, folder: RunFolder, summary: RunSummary) -> None:
    """Print what a person wants to see of a run that is over, on standard output."""
    step = f"{summary.step or 0:,}"
    steps = "step" if summary.step == 1 else "steps"
    rows = [("name", settings.name)] if settings.name else []
    rows.append(("status", f"{summary.status}: {summary.reason}"))
    rows.append(("trained", f"{step} {steps} in {duration(summary.seconds or 0.0)}"))
    if summary.tokens_per_second:
        rows.append(("speed", _speed(settings, summary, summary.tokens_per_second)))
    rows += _metrics(summary)
    if samples := sorted(folder.samples.glob("*.txt")):
        text = read_bytes(samples[-1], folder.path).decode("utf-8", "replace").strip()
        rows.append(("sample", "\n" + "\n".join(f"    {line}" for line in text.splitlines())))
    rows.append(("folder", str(folder)))
    if folder.loss_plot.exists():
        rows.append(("picture", str(folder.loss_plot)))
    rows += [("sheet", str(path)) for path in sorted(folder.samples.glob("step-*.png"))[-1:]]
    more = [*sorted(folder.plots.glob("norms.png")), *sorted(folder.plots.glob("test_*.png"))]
    rows += [("picture", str(path)) for path in more]
    if place := _tracker(settings, folder):
        rows.append((_SHORT.get(settings.tracking.kind, settings.tracking.kind.name), place))
    if summary.status is Status.KILLED:
        goes_on = f"goes on from step {step}"
        if summary.left == "test":
            goes_on = "measures the test, from its beginning"
        rows.append(("next", f"the same command {goes_on}"))
    width = console.columns(sys.stdout)
    lines = [f"{name:<8} {text}" for name, text in rows]
    # A text keeps its lines, and a path stays whole: to be copied.
    as_is = ("sample", "folder", "picture")
    lines = [line if line.startswith(as_is) else wrapped(line, width, 9) for line in lines]
    console.result("\n".join(lines))


def _speed(settings: config.TrainConfig, summary: RunSummary, tokens: float) -> str:
    """Write tokens a second, before them whole examples where people count these."""
    unit = next((name for kind, name in _UNITS.items() if isinstance(settings.task, kind)), None)
    of_text = isinstance(settings.task, DiffusionSettings) and settings.task.is_text()
    if unit is None or of_text or not summary.tokens_per_step:
        return f"{tokens:,.0f} tokens/s"
    examples = settings.task.batch_size * settings.trainer.grad_accum
    return f"{tokens * examples / summary.tokens_per_step:,.0f} {unit}/s, {tokens:,.0f} tokens/s"


def _metrics(summary: RunSummary) -> list[tuple[str, str]]:
    rows = []
    if (best := summary.best) is not None:
        rows.append(("best", f"{_listed(best.metrics)} at step {best.step:,}"))
    if summary.last:
        rows.append(("last", _listed(summary.last)))
    if (test := summary.test) is not None:
        overall = {k: v for k, v in test.metrics.items() if k.count("/") == 1}
        rows.append(("test", f"{_listed(overall)}, weights of step {test.step or 0:,}"))
    return rows


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _tracker(settings: config.TrainConfig, folder: RunFolder) -> str | None:
    """Where to look at the run in its tracker; None if it never arrived there."""
    kind, tracking = settings.tracking.kind, settings.tracking
    default = settings.output_dir == "outputs"
    if kind is TrackingKind.tensorboard and (folder.path / EVENTS).is_dir():
        inside = folder.path.absolute().is_relative_to(Path(settings.output_dir).absolute())
        shown = settings.output_dir if inside else folder.path
        return shlex.join(["tensorboard", "--logdir", str(shown)])
    if kind is TrackingKind.wandb:
        left = sync_command(folder.path)
        if left and tracking.uri:
            left = f"WANDB_BASE_URL={shlex.quote(hide_password(tracking.uri))} {left}"
        return read_json(folder.path / WANDB, folder.path).get("uri") or left
    if kind is not TrackingKind.mlflow or not read_json(folder.mlflow, folder.path).get("run_id"):
        return None
    if tracking.uri is not None:
        return hide_password(tracking.uri)
    return "mambalab ui" + (
        "" if default else f" {shlex.quote(f'output_dir={settings.output_dir}')}"
    )
