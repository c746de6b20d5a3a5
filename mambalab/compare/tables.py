"""A comparison as Python sees it: tables, a text, files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.compare import files
from mambalab.compare.markdown import markdown
from mambalab.compare.results import Comparison
from mambalab.compare.text import terminal
from mambalab.utils.frames import frame


@dataclass(frozen=True)
class ComparisonTables:
    """Groups of runs beside each other. Printed, it is the text of `mambalab compare`.

    Attributes:
        found: everything that was found.
    """

    found: Comparison

    @property
    def groups(self) -> Any:
        """A row for each group, the best first, as in comparison.csv.

        A pandas DataFrame; without pandas a list of dicts.
        """
        return frame(files.group_rows(self.found))

    @property
    def runs(self) -> Any:
        """A row for each run, as in runs.csv: a DataFrame; without pandas a list of dicts."""
        return frame(files.run_rows(self.found))

    @property
    def warnings(self) -> list[str]:
        """What to bear in mind, a line each."""
        return self.found.warnings

    def write(self, folder: Path | str) -> list[Path]:
        """Write Markdown, CSV, JSON and pictures; returns their paths.

        Raises:
            UserError: the folder cannot be written.
        """
        return files.write(self.found, Path(folder))

    def __str__(self) -> str:
        return terminal(self.found)

    def _repr_markdown_(self) -> str:  # what a notebook shows
        return markdown(self.found, [])
