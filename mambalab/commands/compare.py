"""`mambalab compare PATH...`: runs beside each other, in groups by what they differ in."""

from pathlib import Path

from mambalab.compare import files as compare_files
from mambalab.compare import select
from mambalab.compare.results import LeftOut
from mambalab.compare.text import terminal
from mambalab.settings.compare import CompareSettings, Interval


def run(cfg: CompareSettings) -> int:
    """Compare, print, and write the files; returns 0."""
    output_dir = Path(cfg.output_dir)
    folders: list[Path] = []
    if cfg.mlflow is not None:
        from mambalab.tracking import mlflow_reader

        records = mlflow_reader.read(cfg.mlflow, cfg.uri, output_dir)
        left_out: list[LeftOut] = []
    else:
        folders = [select.locate(path, output_dir) for path in cfg.paths]
        records, left_out = select.collect(folders)
    found = select.compare_records(
        records,
        left_out,
        metric=cfg.metric,
        goal=cfg.to,
        baseline=cfg.baseline,
        bootstrap=cfg.interval is Interval.bootstrap,
    )
    folder = Path(cfg.out) if cfg.out else select.default_folder(folders, records, output_dir)
    files = compare_files.write(found, folder)
    print(terminal(found))
    names = " ".join(path.name for path in files if path.suffix != ".svg")
    print(f"\nfiles: {folder}\n       {names}, the pictures as .svg, too")
    return 0
