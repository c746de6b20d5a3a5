"""`mambalab eval`: score a run's best weights on a split of its data."""

import inspect
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, RUN, option
from mambalab.utils import console
from mambalab.utils.renamed import current

if TYPE_CHECKING:
    from mambalab.runs.load import LoadedRun
    from mambalab.tasks.base import Task


class Split(Enum):
    """Parts of a data set."""

    train = "train"
    val = "val"
    test = "test"
    train_sample = "train_sample"


@dataclass
class EvalSettings:
    """`mambalab eval`."""

    run: str = option("run folder, or latest", **RUN)
    split: Split = option("part of the data to score")
    stateful: bool = option("also score one pass with the state carried across windows (Mamba)")
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    data_dir: str | None = option("folder of the data sets; null = as the run recorded", **FOLDER)
    path: str | None = option(
        "what task.path named and lies elsewhere now; null = as trained",
        match=r"[\s\S]+",
        path=True,
        hint="the path of a file or folder, or null",
    )
    trust: list[str] = option("modules outside mambalab whose classes the run may use")


def run(settings: EvalSettings) -> int:
    """Print every metric of the split, one a line; returns 0.

    Raises:
        UserError: no such run or split, data absent or changed since training.
    """
    from mambalab.plots import tables
    from mambalab.records import reader
    from mambalab.runs import data_place, load, user_code
    from mambalab.train import runtime
    from mambalab.train.progress import watching

    runtime.prepare_process()
    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    loaded = load.load_run(path, device=settings.device, trust=settings.trust)
    task = data_place.prepared_task(
        loaded,
        path=settings.path,
        data_dir=settings.data_dir,
        check=lambda task: _check_split(task, settings.split),
    )
    options = {}
    if settings.stateful:
        _check_stateful(task, loaded)
        options["stateful"] = True
    with (
        user_code.one_line_errors(task=type(task), model=type(loaded.model)),
        runtime.autocast(loaded.device, loaded.precision),
        watching(task, "evaluating"),
    ):
        if options:
            metrics, found = task.evaluate(loaded.model, settings.split.value, **options), []
        else:
            metrics, found = current(task, "evaluate_detailed", "examine")(
                loaded.model, settings.split.value
            )
    rows = {"run": str(path), "weights": f"step {loaded.step:,}"}
    rows["device"] = f"{runtime.device_name(loaded.device)}, {loaded.precision.value}"
    rows |= {name: f"{value:.6f}" for name, value in metrics.items()}
    width = max(map(len, rows))
    console.result("\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    for shown in filter(None, map(tables.text, found)):
        console.result(f"\n{shown}")
    if os.access(path, os.W_OK):  # it may be somebody else's
        for file in tables.write(path, settings.split.value, found):
            console.result(file)
    return 0


def _check_split(task: "Task", split: Split) -> None:
    if split.value not in task.splits:
        known = [s.value for s in Split if s.value in task.splits]
        raise UserError(
            f"split={split.value}: task {task.name} has no such split; it has: {', '.join(known)}"
        )


def _check_stateful(task: Any, loaded: "LoadedRun") -> None:
    if "stateful" not in inspect.signature(type(task).evaluate).parameters:
        raise UserError("stateful=true: this task has no text to carry a state through")
    if getattr(loaded.model, "context_limit", None) is not None:
        raise UserError(
            "stateful=true: only Mamba carries a state through a whole split; attention would "
            "have to look back at all of it"
        )
