"""Records of the first kind, kept by hand: one run each, and what `compare` wrote of three sweeps.

Their Transformer had Mamba's depth, one head or two, and the learning rate chosen for Mamba: what
is called `transformer_equal_depth`, whatever name the record has for it.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mambalab.compare.statistics import Estimate
from mambalab.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
EQUAL_DEPTH = "Transformer of equal depth"
OLDER = (
    "one run, older setting: the Transformer has Mamba's depth (`transformer_equal_depth`), and "
    "its "
    "learning rate was not tuned for it"
)


@dataclass(frozen=True)
class OldRun:
    """One run of a record that was kept by hand."""

    data: dict[str, Any]

    @property
    def loss(self) -> float:
        """Best validation loss."""
        return self.data["best"]["val/loss"]

    @property
    def accuracy(self) -> float:
        """Share of the test split that is right, with the weights that validation chose."""
        return self.data["test"]["test/accuracy"]

    @property
    def minutes(self) -> float:
        """Training time."""
        return self.data["seconds"] / 60

    def __getattr__(self, name: str) -> Any:
        """Any other entry of the record."""
        try:
            return self.data[name]
        except KeyError as error:
            raise AttributeError(name) from error


@cache
def load(name: str) -> dict[str, Any]:
    """Read a JSON file below `experiments/`."""
    path = EXPERIMENTS / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"experiments/{name} cannot be read: {error}") from error


def run(name: str, entry: str) -> OldRun:
    """Read one run of a record: `run("mnist/results.json", "mamba_cpu")`."""
    runs = load(name)
    if entry not in runs:
        raise UserError(f"experiments/{name} has no run {entry}")
    return OldRun(runs[entry])


@cache
def sweep_runs(name: str) -> list[dict[str, str]]:
    """Read the rows of a sweep's `runs.csv`, one for each run."""
    with (EXPERIMENTS / name / "runs.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def by_seed(name: str, group: str, column: str = "best") -> dict[str, float]:
    """Values of one group of a sweep, by seed."""
    found = {r["seed"]: float(r[column]) for r in sweep_runs(name) if r["group"] == group}
    if not found:
        raise UserError(f"experiments/{name}/runs.csv has no group {group}")
    return found


def groups(name: str) -> list[str]:
    """Labels of a sweep's groups."""
    return sorted({row["group"] for row in sweep_runs(name)})


def percent(share: float) -> str:
    """Write a share: two decimals near 100 %, where one would hide differences."""
    return "100 %" if share == 1 else f"{100 * share:.{2 if share >= 0.98 else 1}f} %"


def minutes(value: float) -> str:
    """Write a time."""
    return f"{value:.1f} min"


def plus_minus(mean: float, low: float | None, high: float | None, digits: int = 3) -> str:
    """Write a mean with its 95 % interval."""
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def baseline_option() -> str:
    """The value of `model=` that is the Transformer of these records."""
    new = "transformer_equal_depth"
    return new if (ROOT / "conf" / "model" / f"{new}.yaml").is_file() else "transformer"


def picture(up: str, path: Path, text: str) -> str:
    """Write a picture in Markdown, as its page finds it."""
    return f"![{text}]({up}{path.relative_to(ROOT).as_posix()})"


def value_of(best: Estimate | None, metric: str) -> str:
    """A mean with its interval in the unit of its metric: accuracies in percent."""
    if best is None:
        return "-"
    if "accuracy" not in metric:
        return plus_minus(best.mean, best.low, best.high)
    ends = [None if end is None else 100 * end for end in (best.low, best.high)]
    return f"{plus_minus(100 * best.mean, *ends, digits=2)} %"
