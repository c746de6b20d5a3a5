"""`mambalab data`: which data are here, fetch what is missing, verify what is here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.data.catalog import CATALOG, Dataset
from mambalab.errors import UserError
from mambalab.settings.verbs import DataAction

if TYPE_CHECKING:
    from mambalab.settings.verbs import DataSettings


def run(cfg: DataSettings) -> int:
    """Carry out one action; prints its result to stdout.

    Args:
        cfg: `name` is needed by fetch and verify.

    Returns:
        The exit status, 0.

    Raises:
        UserError: an unknown name, a failed download, a missing or a differing file.
    """
    data_dir = Path(os.path.expanduser(cfg.data_dir))
    if cfg.action is DataAction.list:
        chosen = list(CATALOG.values()) if cfg.name is None else [_dataset(cfg.name)]
        print(table(chosen, data_dir))
        return 0
    assert cfg.name is not None, "checked with the settings"
    dataset = _dataset(cfg.name)
    if not dataset.needs_download:
        print(f"{dataset.name}: needs no download")
    elif cfg.action is DataAction.fetch:
        new = dataset.missing(data_dir)
        for path in dataset.require(data_dir):
            print(f"{dataset.name}: {path.absolute()}")
        print(f"{dataset.name}: {'fetched' if new else 'already here'} and checked")
    else:
        absent = dataset.missing(data_dir)
        if absent:
            raise UserError(
                f"{dataset.name}: there is no {absent[0].target(data_dir).absolute()}; "
                f"`mambalab data fetch {dataset.name}` downloads it"
            )
        for line in dataset.report(data_dir):
            print(f"{dataset.name}: {line}")
    return 0


def table(datasets: Sequence[Dataset], data_dir: Path) -> str:
    """For each file: here or not, size, checksum, licence; below, where it lies and comes from."""
    rows = [("task", "here", "size", "checksum", "licence")]
    below = [("where", "source")]
    for dataset in datasets:
        for here, size, checksum, where, source in dataset.rows(data_dir):
            rows.append((dataset.name, "yes" if here else "no", size, checksum, dataset.licence))
            below.append((_from_here(where), source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, places in zip(rows, below, strict=True):
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        lines += [f"  {place}" for place in places]
    return "\n".join(lines)


def _from_here(where: str) -> str:
    """A path below the working directory without what every path there begins with."""
    here = f"{Path.cwd()}{os.sep}"
    return where.removeprefix(here)


def _dataset(name: str) -> Dataset:
    if name in CATALOG:
        return CATALOG[name]
    close = get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(CATALOG)}"
    raise UserError(f"there is no data set {name!r}; {hint}")
