"""Searches for the settings of the presets: one for each model and task, all of one size.

Every trial is scored on a tenth of the training part (`task.tune=true`), so that the split that is
reported stays unseen. Ranges are those of `experiments/TASK/search.yaml`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docs.results.old import EXPERIMENTS, table
from mambalab.compare.measures import Metric, best_value
from mambalab.records import archive
from mambalab.records.reader import RunRecord

MODELS = ("mamba", "transformer", "transformer_equal_depth")
TASKS = {
    "shakespeare": "Tiny Shakespeare",
    "mnist": "MNIST, 28 pixels a step",
    "cifar10": "CIFAR-10",
    "selective_copying": "Selective copying",
}
SHOWN = 3  # of the trials of a search, the best first
_SHORT = {"optim.lr": "lr", "task.batch_size": "batch", "dropout.p": "p"}
_EDGE = 1.1  # a value drawn this near to an end of its range counts as the end


@dataclass(frozen=True)
class Search:
    """The search of one model on one task."""

    task: str
    model: str

    @property
    def folder(self) -> Path:
        """Where its record is."""
        return EXPERIMENTS / self.task / "search" / self.model

    @property
    def recorded(self) -> bool:
        """Whether its trials are there."""
        return (self.folder / archive.ARCHIVE).is_file()

    @property
    def reported(self) -> Path:
        """Folder of the runs that take their settings from it."""
        return EXPERIMENTS / self.task / "models"

    @property
    def command(self) -> str:
        """What makes the trials."""
        return f"mambalab train -m experiment={self.task}/search model={self.model}"


def every() -> list[Search]:
    """All searches, whether recorded or not."""
    return [Search(task, model) for task in TASKS for model in MODELS]


def ranges(task: str) -> dict[str, Any]:
    """What a task's search draws its settings from, by dotted name, without the seed."""
    text = (EXPERIMENTS / task / "search.yaml").read_text(encoding="utf-8")
    params = yaml.safe_load(text)["sweep"]["params"]
    return {key: values for key, values in params.items() if key != "seed"}


def ranked(search: Search) -> tuple[Metric, list[tuple[float, RunRecord]]]:
    """The metric of a search, and its trials with their values of it, the best first."""
    records = archive.read(search.folder)
    metric = Metric(records[0].metric, maximize=records[0].maximize)
    found = [(best[0], r) for r in records if (best := best_value(r, metric)) is not None]
    return metric, sorted(found, key=lambda pair: pair[0], reverse=metric.maximize)


def edges(values: dict[str, Any], drawn_from: dict[str, Any]) -> list[str]:
    """Say which values are at an end of their range, beyond which something better may lie.

    No dropout is the natural end of its range, and not told.
    """
    told = []
    for key, value in values.items():
        of = drawn_from[key]
        low, high = (of["low"], of["high"]) if isinstance(of, dict) else (min(of), max(of))
        slack = _EDGE if isinstance(of, dict) else 1.0
        if value <= low * slack and value != 0:
            told.append(f"smallest {_SHORT[key]}")
        elif value >= high / slack and len({low, high}) > 1:
            told.append(f"largest {_SHORT[key]}")
    return told


def _written(key: str, value: Any) -> str:
    return f"{_SHORT[key]} {value:.2g}" if isinstance(value, float) else f"{_SHORT[key]} {value}"


def _tokens(records: Sequence[RunRecord]) -> float | None:
    """Tokens that runs saw, on average; None if one does not tell."""
    seen = [(r.summary.tokens_per_step or 0) * (r.step or 0) for r in records]
    return sum(seen) / len(seen) if seen and all(seen) else None


def times_longer(search: Search) -> float | None:
    """How many times the tokens of a trial the reported runs of the model see; None if unknown."""
    if not (search.reported / archive.ARCHIVE).is_file():
        return None
    runs = archive.read(search.reported)
    ours = _tokens([r for r in runs if r.setting("model.name") == search.model])
    trial = _tokens([record for _, record in ranked(search)[1]])
    return ours / trial if ours and trial else None


def _row(search: Search) -> list[str]:
    metric, trials = ranked(search)
    drawn_from = ranges(search.task)
    cells = []
    for value, record in trials[:SHOWN]:
        values = ", ".join(_written(key, record.setting(key)) for key in drawn_from)
        cells.append(f"{value:.4f} ({values})")
    best = {key: trials[0][1].setting(key) for key in drawn_from}
    at_end = ", ".join(edges(best, drawn_from)) or "no"
    minutes = sum(record.minutes or 0 for _, record in trials)
    name = f"`{metric.name}`"
    longer = times_longer(search)
    times = f"{longer:.1f}" if longer is not None else "-"
    return [f"`{search.model}`", f"{len(trials)}, {minutes:.0f} min", name, *cells, at_end, times]


def _section(task: str) -> str:
    done = [search for search in every() if search.task == task and search.recorded]
    if not done:
        return ""
    drawn = []
    for key, of in ranges(task).items():
        span = f"{of['low']:g} to {of['high']:g}" if isinstance(of, dict) else list(map(str, of))
        drawn.append(f"`{key}` {span if isinstance(span, str) else ', '.join(span)}")
    best = ["best", "second", "third"]
    head = ["model", "trials", "metric", *best, "at an end of its range", "reported run / trial"]
    command = f"{done[0].command.rpartition(' ')[0]} model=..."
    return f"**{TASKS[task]}** ({'; '.join(drawn)}): `{command}`\n\n" + table(
        head, [_row(search) for search in done]
    )


def searches(up: str) -> str:
    """The best trials of every recorded search, and whether the optimum is inside its range."""
    waiting = [f"- {search.command}" for search in every() if not search.recorded]
    parts = [_section(task) for task in TASKS]
    if waiting:
        parts.append("Not measured yet:\n\n" + "\n".join(f"- `{line[2:]}`" for line in waiting))
    return "\n\n".join(part for part in parts if part)


BLOCKS = {"searches": searches}
