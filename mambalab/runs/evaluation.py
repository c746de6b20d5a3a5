"""Scores weights of a run, the best by default, on a split of its data."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.runs import data_place, load, user_code
from mambalab.runs.load import LoadedRun
from mambalab.tasks.base import Table, Task
from mambalab.train import chosen, runtime
from mambalab.train.checks import numbers
from mambalab.train.progress import watching
from mambalab.utils.renamed import current

SPLITS = ("train", "val", "test", "train_sample")


@dataclass(frozen=True)
class Evaluated:
    """What a run achieves on a split.

    Attributes:
        loaded: the run.
        metrics: by name, `<split>/<metric>`.
        tables: what does not fit into a number.
    """

    loaded: LoadedRun
    metrics: dict[str, float]
    tables: list[Table]


def evaluate(
    folder: Path,
    split: str,
    *,
    device: str,
    stateful: bool = False,
    data_dir: str | None = None,
    path: str | None = None,
    trust: list[str],
    which: str = chosen.BEST,
) -> Evaluated:
    """Score weights of a run.

    Args:
        folder: of the run.
        split: one of `SPLITS`.
        device: as in the settings.
        stateful: also score one pass with the state carried across windows.
        data_dir: folder of the data sets; None is the run's.
        path: where the file or folder of `task.path` is; None looks for it.
        trust: modules outside mambalab whose classes the run may use.
        which: checkpoint that holds the weights: best, last or step_N.

    Raises:
        UserError: no such split or checkpoint, data absent or changed since training.
    """
    loaded = load.load_run(folder, device=device, trust=trust, which=which)
    task = data_place.prepared_task(
        loaded, path=path, data_dir=data_dir, check=lambda task: _check_split(task, split)
    )
    if stateful:
        _check_stateful(task, loaded)
    with (
        user_code.one_line_errors(task=type(task), model=type(loaded.model)),
        runtime.autocast(loaded.device, loaded.precision),
        watching(task, "evaluating"),
    ):
        if stateful:
            stateful_task: Any = task
            metrics = stateful_task.evaluate(loaded.model, split, stateful=True)
            return Evaluated(loaded, metrics, [])
        metrics, tables = current(task, "evaluate_detailed", "examine")(loaded.model, split)
    return Evaluated(loaded, numbers(metrics), tables)


def _check_split(task: Task, split: str) -> None:
    if split not in task.splits:
        known = [name for name in SPLITS if name in task.splits]
        raise UserError(
            f"split={split}: task {task.name} has no such split; it has: {', '.join(known)}"
        )


def _check_stateful(task: Any, loaded: LoadedRun) -> None:
    if "stateful" not in inspect.signature(type(task).evaluate).parameters:
        raise UserError("stateful=true: this task has no text to carry a state through")
    if getattr(loaded.model, "context_limit", None) is not None:
        raise UserError(
            "stateful=true: only Mamba without learned positions carries a state through a whole "
            "split; attention would have to look back at all of it, and positions end"
        )
