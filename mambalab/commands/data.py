"""`mambalab data`: which data are here, fetch what is missing, verify what is here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.commands.settings import DataAction
from mambalab.errors import UserError
from mambalab.tasks.catalog import CATALOG, Dataset
from mambalab.tasks.progress import human_bytes

if TYPE_CHECKING:
    from mambalab.commands.settings import DataSettings

_QUICK = 100_000_000  # bytes that `list` is willing to checksum


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
    if not dataset.files:
        print(f"{dataset.name}: needs no download")
    elif cfg.action is DataAction.fetch:
        new = dataset.missing(data_dir)
        for path in dataset.require(data_dir):
            print(f"{dataset.name}: {path.absolute()}")
        print(f"{dataset.name}: {'fetched' if new else 'already here'}, checksums ok")
    else:
        absent = dataset.missing(data_dir)
        if absent:
            raise UserError(
                f"{dataset.name}: there is no {(data_dir / absent[0].path).absolute()}; "
                f"`mambalab data fetch {dataset.name}` downloads it"
            )
        dataset.verify(data_dir)
        for file in dataset.files:
            print(f"{dataset.name}: {(data_dir / file.path).absolute()}: checksum ok")
    return 0


def table(datasets: Sequence[Dataset], data_dir: Path) -> str:
    """A line for each file: here or not, size, checksum, licence, where it lies and comes from."""
    rows = [("task", "here", "size", "checksum", "licence", "where", "source")]
    for dataset in datasets:
        if not dataset.files:
            where = f"{dataset.title}: needs no download"
            rows.append((dataset.name, "yes", "-", "-", dataset.licence, where, dataset.source))
        for file in dataset.files:
            path = data_dir / file.path
            here = os.path.exists(path)
            checksum = "-"
            if here and file.size > _QUICK:
                checksum = "unchecked"
            elif here:
                checksum = "ok" if file.fault(data_dir) is None else "WRONG"
            rows.append(
                (
                    dataset.name,
                    "yes" if here else "no",
                    human_bytes(path.stat().st_size if here else file.size),
                    checksum,
                    dataset.licence,
                    str(path.absolute()),
                    file.url,
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _dataset(name: str) -> Dataset:
    if name in CATALOG:
        return CATALOG[name]
    close = get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(CATALOG)}"
    raise UserError(f"there is no data set {name!r}; {hint}")
