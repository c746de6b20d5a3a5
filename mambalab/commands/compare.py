"""`mambalab compare PATH...`: runs beside each other, in groups by what they differ in."""

import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

from mambalab.errors import UserError
from mambalab.settings.figure import FigureSettings
from mambalab.settings.rules import FOLDER, option
from mambalab.utils import console
from mambalab.utils.reading import check_no_link
from mambalab.utils.text import wrapped

PICTURES = (".png", ".svg", ".pdf")


class Interval(Enum):
    """How the 95 % interval of a mean over seeds is found."""

    t = "t"
    bootstrap = "bootstrap"


@dataclass
class CompareSettings:
    """`mambalab compare PATH...`."""

    paths: list[str] = option(
        "run folders, folders of runs, or latest (the newest sweep)", path=True
    )
    mlflow: str | None = option("MLflow experiment whose runs are compared instead of folders")
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    output_dir: str = option("folder of runs, sweeps and the MLflow store", **FOLDER)
    out: str | None = option("folder for the files; null = beside the sweep's runs", **FOLDER)
    metric: str | None = option("metric to judge by; null = what the runs are judged by")
    to: float | None = option("value to which time and tokens are measured; null = a common one")
    baseline: str | None = option("group to compare with, or part of its name; null = no dropout")
    pairs: str | None = option(
        "also compare groups that differ in one setting only: auto, or the setting, e.g. dropout.p"
    )
    interval: Interval = option(
        "95 % intervals of means: Student's t, or resampled (from 8 seeds on)"
    )
    figure: FigureSettings = MISSING

    def check_ready(self) -> None:
        """Raise UserError if there is nothing to compare."""
        if self.mlflow is None and not self.paths:
            raise UserError(
                "compare: which runs? e.g. mambalab compare latest (the newest sweep), "
                "a folder of runs, or mlflow=EXPERIMENT"
            )
        if self.mlflow is not None and self.paths:
            raise UserError("compare: give paths or mlflow=EXPERIMENT, not both")


def run(cfg: CompareSettings) -> int:
    """Compare, print, and write the files; returns 0."""
    from mambalab.compare import files as compare_files
    from mambalab.compare import select
    from mambalab.compare.results import LeftOut
    from mambalab.compare.text import terminal
    from mambalab.plots.look import check_font, shown_first

    output_dir = Path(cfg.output_dir)
    folders: list[Path] = []
    searched = None
    if cfg.mlflow is not None:
        from mambalab.tracking import mlflow_reader, mlflow_store

        if line := mlflow_store.origin(cfg.uri):
            print(line, file=sys.stderr)
        records = mlflow_reader.read(cfg.mlflow, cfg.uri, output_dir)
        left_out: list[LeftOut] = []
    else:
        folders = [select.locate(path, output_dir) for path in cfg.paths]
        records, left_out = select.collect(folders)
        searched = select.searched_in(folders)
    found = select.compare_records(
        records,
        left_out,
        metric=cfg.metric,
        goal=cfg.to,
        baseline=cfg.baseline,
        bootstrap=cfg.interval is Interval.bootstrap,
        pairs=cfg.pairs,
        searched=searched,
    )
    check_font(cfg.figure)
    folder = Path(cfg.out) if cfg.out else select.default_folder(folders, records, output_dir)
    if not cfg.out:
        check_no_link(folder)
    files = compare_files.write(found, folder, cfg.figure)
    width = console.columns(sys.stdout)
    console.result(terminal(found, width))
    shown = shown_first([path for path in files if path.suffix in PICTURES])
    names = [path.name for path in files if path in shown or path.suffix not in PICTURES]
    more = {path.suffix for path in files if path.suffix in PICTURES and path not in shown}
    also = f", the pictures as {' and '.join(sorted(more))}, too" if more else ""
    listed = wrapped(f"{'':7}{' '.join(names)}{also}", width, 7)
    console.result(f"\nfiles: {folder}\n{listed}")
    return 0
