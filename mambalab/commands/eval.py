"""`mambalab eval`: score weights of a run, the best by default, on a split of its data."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

from mambalab.settings.figure import FigureSettings
from mambalab.settings.rules import CHECKPOINT, DEVICE, DEVICE_HINT, FOLDER, RUN, option
from mambalab.utils import console


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
    checkpoint: str = option("weights of the run: best, last or step_N", **CHECKPOINT)
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
    figure: FigureSettings = MISSING


def run(settings: EvalSettings) -> int:
    """Print every metric of the split, one a line; returns 0.

    Raises:
        UserError: no such run or split, data absent or changed since training.
    """
    from mambalab.plots import tables
    from mambalab.plots.look import check_font
    from mambalab.records import reader
    from mambalab.runs import evaluation
    from mambalab.train import runtime

    check_font(settings.figure)
    runtime.prepare_process()
    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    scored = evaluation.evaluate(
        path,
        settings.split.value,
        device=settings.device,
        stateful=settings.stateful,
        data_dir=settings.data_dir,
        path=settings.path,
        trust=settings.trust,
        which=settings.checkpoint,
    )
    loaded, metrics, found = scored.loaded, scored.metrics, scored.tables
    rows = {"run": str(path), "weights": loaded.weights()}
    rows["device"] = f"{runtime.device_name(loaded.device)}, {loaded.precision.value}"
    rows |= {name: f"{value:.6f}" for name, value in metrics.items()}
    width = max(map(len, rows))
    console.result("\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    for shown in filter(None, map(tables.text, found)):
        console.result(f"\n{shown}")
    if settings.checkpoint == "best" and os.access(path, os.W_OK):  # it may be somebody else's
        for file in tables.write(path, settings.split.value, found, settings.figure):
            console.result(file)
    return 0
