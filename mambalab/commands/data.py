"""`mambalab data`: which data are here, fetch what is missing, verify what is here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, option
from mambalab.utils import console, text

if TYPE_CHECKING:
    from mambalab.data.catalog import Dataset


class DataAction(Enum):
    """What `mambalab data` can do."""

    list = "list"
    fetch = "fetch"
    verify = "verify"


@dataclass
class DataSettings:
    """`mambalab data ACTION [NAME]`."""

    action: DataAction = option("what to do")
    name: str | None = option("data set to fetch or verify")
    data_dir: str = option("folder of the data sets", **FOLDER)

    def check_ready(self) -> None:
        """Raise UserError if a name is needed and missing."""
        if self.action is not DataAction.list and not self.name:
            raise UserError(
                f"data {self.action.value}: which data set? "
                f"e.g. mambalab data {self.action.value} shakespeare"
            )


def run(cfg: DataSettings) -> int:
    """Carry out one action; prints its result to stdout.

    Args:
        cfg: `name` is needed by fetch and verify.

    Returns:
        The exit status, 0.

    Raises:
        UserError: an unknown name, a failed download, a missing or a differing file.
    """
    from mambalab.data.catalog import CATALOG

    data_dir = Path(os.path.expanduser(cfg.data_dir))
    if cfg.action is DataAction.list:
        chosen = list(CATALOG.values()) if cfg.name is None else [_dataset(cfg.name)]
        console.result(table(chosen, data_dir))
        return 0
    assert cfg.name is not None, "checked with the settings"
    dataset = _dataset(cfg.name)
    if not dataset.needs_download:
        console.result(f"{dataset.name}: needs no download")
    elif cfg.action is DataAction.fetch:
        new = dataset.missing(data_dir)
        for path in dataset.require(data_dir):
            console.result(f"{dataset.name}: {path.absolute()}")
        console.result(f"{dataset.name}: {'fetched' if new else 'already here'} and checked")
    else:
        absent = dataset.missing(data_dir)
        if absent:
            raise UserError(
                f"{dataset.name}: there is no {absent[0].target(data_dir).absolute()}; "
                f"`mambalab data fetch {dataset.name}` downloads it"
            )
        for line in dataset.report(data_dir):
            console.result(f"{dataset.name}: {line}")
    return 0


def table(datasets: "Sequence[Dataset]", data_dir: Path) -> str:
    """For each file: here or not, size, checksum, licence; below, its path and its source."""
    rows = [("task", "here", "size", "checksum", "licence")]
    below = [("where", "source")]
    for dataset in datasets:
        for here, size, checksum, where, source in dataset.rows(data_dir):
            rows.append((dataset.name, "yes" if here else "no", size, checksum, dataset.licence))
            below.append((_from_here(where), source))
    lines = text.table(rows[0], rows[1:]).split("\n")
    pieces = zip(lines, below, strict=True)
    return "\n".join("\n  ".join((line, *places)) for line, places in pieces)


def _from_here(where: str) -> str:
    """A path below the working directory without what every path there begins with."""
    here = f"{Path.cwd()}{os.sep}"
    return where.removeprefix(here)


def words(before: list[str]) -> list[str]:
    """Names for completion: data sets that are downloaded, after `fetch` or `verify`."""
    from mambalab.data.catalog import CATALOG

    if len(before) != 1 or before[0] not in ("fetch", "verify"):
        return []
    return [name for name, dataset in CATALOG.items() if dataset.needs_download]


def _dataset(name: str) -> "Dataset":
    """The data set of a name; raises UserError with a suggestion if there is none."""
    from difflib import get_close_matches

    from mambalab.data.catalog import CATALOG

    if name in CATALOG:
        return CATALOG[name]
    close = get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"there is no data set {name!r}; {hint}there are: {', '.join(CATALOG)}")
