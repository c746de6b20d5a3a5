"""`mambalab report PATH...`: a page to hand in, of a run, a sweep or any runs; a LaTeX table."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.commands.compare import Interval
from mambalab.errors import UserError
from mambalab.records.reader import is_run
from mambalab.records.run_folder import SWEEP
from mambalab.settings.rules import FOLDER, RUN_NAME, option
from mambalab.utils import console
from mambalab.utils.files import write_text
from mambalab.utils.reading import check_no_link

if TYPE_CHECKING:
    from mambalab.report.subject import Subject

LATEST = "latest"


class Format(Enum):
    """What a report is written as."""

    html = "html"
    pdf = "pdf"
    latex = "latex"


ENDINGS = {
    ".html": Format.html,
    ".htm": Format.html,
    ".pdf": Format.pdf,
    ".tex": Format.latex,
}


@dataclass
class ReportSettings:
    """`mambalab report PATH...`."""

    paths: list[str] = option(
        "run folders, folders of runs, or latest (what was trained last, a run or a sweep); "
        "none = latest",
        path=True,
    )
    mlflow: str | None = option("MLflow experiment whose runs are reported instead of folders")
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    output_dir: str = option("folder of runs, sweeps and the MLflow store", **FOLDER)
    out: str | None = option(
        "file to write; null = report.html in the run or the sweep",
        match=r"[\s\S]+",
        path=True,
        hint="the path of a file",
    )
    format: Format | None = option(
        "a page, the same as PDF, or a table for LaTeX; null = by the end of out, else html"
    )
    title: str | None = option("title; null = the name of the run, or what it is", **RUN_NAME)
    metric: str | None = option("metric to judge by; null = what the runs are judged by")
    to: float | None = option("value to which time and tokens are measured; null = a common one")
    baseline: str | None = option("group to compare with, or part of its name; null = no dropout")
    pairs: str | None = option(
        "also compare groups that differ in one setting only: auto, or the setting, e.g. dropout.p"
    )
    interval: Interval = option(
        "95 % intervals of means: Student's t, or resampled (from 8 seeds on)"
    )

    def check_ready(self) -> None:
        """Raise UserError for runs from two places, or a file whose name says another format."""
        if self.mlflow is not None and self.paths:
            raise UserError("report: give paths or mlflow=EXPERIMENT, not both")
        if self.out is None or Path(self.out).expanduser().is_dir():
            return
        ending = Path(self.out).suffix.lower()
        if self.format is None and ending not in ENDINGS:
            raise UserError(
                f"out={self.out}: a report ends in .html, .pdf or .tex, or give format=html"
            )
        if self.format is not None and ENDINGS.get(ending, self.format) is not self.format:
            raise UserError(
                f"out={self.out}: format={self.format.name} writes no {ending}; leave one out"
            )

    @property
    def chosen_format(self) -> Format:
        """The format that is given, or that the name of the file says."""
        if self.format is not None:
            return self.format
        return ENDINGS.get(Path(self.out).suffix.lower(), Format.html) if self.out else Format.html


def run(cfg: ReportSettings) -> int:
    """Write the report and print where it is; returns 0.

    Raises:
        UserError: no run, runs that cannot be compared as asked, no browser for a PDF, a file that
            cannot be written.
    """
    from mambalab.report import build, latex, page, pdf

    form = cfg.chosen_format
    if form is Format.pdf:
        pdf.browser()  # before anything takes time
    subject, folder = _subject(cfg)
    target = _target(cfg, folder, form)
    if form is Format.latex:
        if subject.comparison is None:
            raise UserError(f"format=latex: {subject.obstacle}")
        text = latex.table(subject.comparison)
    else:
        with console.meanwhile("writing the report"):
            text = page.render(build.report(subject, cfg.title))
    try:
        if form is Format.pdf:
            with console.meanwhile("printing the page"):
                pdf.write(text, target)
        else:
            write_text(target, text)
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror}; name another with out="
        ) from error
    for problem in subject.problems:
        console.LOG.warning("%s", problem)
    console.result(target)
    return 0


def _subject(cfg: ReportSettings) -> "tuple[Subject, Path]":
    """What the report is about, and the folder in which it is written unless `out` says where."""
    from mambalab.compare import select
    from mambalab.report import subject

    output_dir = Path(cfg.output_dir)
    options = {
        "metric": cfg.metric,
        "goal": cfg.to,
        "baseline": cfg.baseline,
        "bootstrap": cfg.interval is Interval.bootstrap,
        "pairs": cfg.pairs,
    }
    if cfg.mlflow is not None:
        from mambalab.tracking import mlflow_reader

        records = mlflow_reader.read(cfg.mlflow, cfg.uri, output_dir)
        found = subject.of_records(records, **options)
        return found, select.default_folder([], records, output_dir)
    folders = [
        subject.latest(output_dir) if path == LATEST else select.locate(path, output_dir)
        for path in cfg.paths or [LATEST]
    ]
    found = subject.of_folders(folders, **options)
    if len(folders) == 1 and (folders[0] / SWEEP).is_file():
        return found, folders[0]
    if len(found.records) == 1 and is_run(found.records[0].path):
        return found, found.records[0].path
    return found, select.default_folder(folders, found.records, output_dir)


def _target(cfg: ReportSettings, folder: Path, form: Format) -> Path:
    """The file to write; a folder that `out` names gets it under its usual name."""
    name = "report" + next(end for end, kind in ENDINGS.items() if kind is form)
    if cfg.out is None:
        check_no_link(folder / name)
        return folder / name
    out = Path(cfg.out).expanduser()
    return out / name if out.is_dir() else out
