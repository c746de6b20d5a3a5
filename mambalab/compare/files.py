"""A comparison as files: Markdown, CSV, JSON and pictures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mambalab.compare import pictures
from mambalab.compare.markdown import markdown
from mambalab.compare.results import Comparison, GroupResult
from mambalab.compare.statistics import Estimate
from mambalab.compare.text import search_lines
from mambalab.errors import UserError
from mambalab.plots.look import check_font, shown_first
from mambalab.settings.figure import FigureSettings
from mambalab.utils.csv_text import csv_text
from mambalab.utils.files import write_json, write_text

__all__ = ["as_json", "check_font", "group_rows", "run_rows", "write"]
BEST = "best.txt"
"""Of a search: the best, and the command that trains it."""
_OVERFITTING = ("gap", "rise", "excess", "turn")
_ESTIMATES = ("best", "last", "best_loss", "last_loss", *_OVERFITTING, "end_slope", "test")
_MEANS = ("parameters", "steps", "minutes", "tokens_per_second")
_GOAL = ("reached", "goal_step", "goal_seconds", "goal_tokens")


def write(comparison: Comparison, folder: Path, figure: FigureSettings | None = None) -> list[Path]:
    """Write `comparison.md`, `comparison.csv` (a row for each group), `runs.csv` (for each run),
    `comparison.json` and the pictures; what was there is replaced.

    Args:
        comparison: what is written.
        folder: is made if need be.
        figure: how pictures are drawn, in which formats; None = for a screen, as PNG and SVG.

    Returns:
        The paths of all files.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    drawn = pictures.draw(comparison, folder, figure)
    names = [path.name for path in shown_first(drawn)]
    target = folder / "comparison.json"
    found = [] if comparison.search is None else [folder / BEST]
    try:
        files = [
            write_text(folder / "comparison.md", markdown(comparison, names)),
            write_text(folder / "comparison.csv", csv_text(group_rows(comparison))),
            write_text(folder / "runs.csv", csv_text(run_rows(comparison))),
        ]
        write_json(target, as_json(comparison))
        for path in found:
            write_text(path, "\n".join(search_lines(comparison)) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return [*files, *found, target, *drawn]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Convert everything that was found to plain data."""
    return {
        **_about(comparison),
        "dropout": comparison.dropout,
        "search": comparison.search and asdict(comparison.search),
        "warnings": comparison.warnings,
        "contrasts": [asdict(one) for one in comparison.contrasts],
        "groups": [_group_json(group) for group in comparison.groups],
        "left_out": [asdict(run) for run in comparison.left_out],
    }


def _about(comparison: Comparison) -> dict[str, Any]:
    return {
        "task": comparison.task,
        "metric": comparison.metric.name,
        "maximize": comparison.metric.maximize,
        "interval": "bootstrap" if comparison.bootstrap else "t",
        "goal": comparison.goal,
        "baseline": comparison.baseline,
    }


def _group_json(group: GroupResult) -> dict[str, Any]:
    estimates = {name: getattr(group, name) for name in _ESTIMATES}
    return {
        "label": group.label,
        "settings": group.group.settings,
        "seeds": group.seeds,
        "failed_seeds": group.failed_seeds,
        "evaluations": group.evaluations,
        **{name: e and asdict(e) for name, e in estimates.items()},
        **{name: getattr(group, name) for name in (*_MEANS, *_GOAL)},
        "difference": group.difference and asdict(group.difference),
        "verdict": group.verdict,
        "runs": [asdict(run) for run in group.runs],
    }


def group_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Make a flat row for each group; the settings that tell groups apart are the last columns."""
    rows = []
    for group in comparison.groups:
        pair = group.difference
        row: dict[str, Any] = {
            "group": group.label,
            **_about(comparison),
            "verdict": group.verdict,
            "seeds": " ".join(map(str, group.seeds)),
            "n": len(group.runs),
        }
        for name in _ESTIMATES:
            row.update(_columns(name, getattr(group, name)))
        row.update(_columns("difference", pair and pair.estimate))
        row["common_seeds"] = len(pair.seeds) if pair else None
        row["p"], row["p_holm"] = (pair.p, pair.p_holm) if pair else (None, None)
        row.update({name: getattr(group, name) for name in (*_MEANS, *_GOAL)})
        rows.append({**{f"setting {k}": v for k, v in group.group.settings.items()}, **row})
    first = list(rows[0])
    order = sorted(first, key=lambda name: name.startswith("setting "))
    return [{name: row[name] for name in order} for row in rows]


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = (estimate.low, estimate.high) if estimate else (None, None)
    return {name: estimate and estimate.mean, f"{name}_low": low, f"{name}_high": high}


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Make a flat row for each run, group by group."""
    about = {"task": comparison.task, "metric": comparison.metric.name, "goal": comparison.goal}
    return [
        {"group": group.label, **about, **asdict(run)}
        for group in comparison.groups
        for run in group.runs
    ]
