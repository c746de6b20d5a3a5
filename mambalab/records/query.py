"""Values of runs by name, for conditions and for sorting: `model.name=mamba`, `val/loss<1.5`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mambalab.errors import UserError
from mambalab.records.reader import RunRecord, last_activity
from mambalab.records.run_folder import finite

# Names that are no setting, and groups, which stand for the name of their option.
FACTS: dict[str, Callable[[RunRecord], Any]] = {
    "task": lambda run: run.setting("task.name"),
    "model": lambda run: run.setting("model.name"),
    "dropout": lambda run: run.setting("dropout.name"),
    "status": lambda run: run.status,
    "steps": lambda run: run.step,
    "minutes": lambda run: run.minutes,
    "best": lambda run: run.best.value if run.best else None,
    "date": lambda run: last_activity(run.path),
    "parameters": lambda run: run.summary.parameters,
    "path": lambda run: str(run.path),
}
_CONDITION = re.compile(r"\s*([^\s=!<>~]+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def value(run: RunRecord, key: str) -> Any:
    """Look up a fact, a setting or a metric of a run; None if it has none of that name.

    A metric is that of the best evaluation, of the final test, or else the last that was recorded.
    """
    if key in FACTS:
        return FACTS[key](run)
    if (setting := run.setting(key)) is not None:
        # A group stands for the name of its option.
        return setting.get("name") if isinstance(setting, dict) else setting
    if key == run.metric and run.best is not None:
        return run.best.value
    best, test = run.summary.best, run.summary.test
    for measured in (best and best.metrics, test and test.metrics):
        if measured and key in measured:
            return measured[key]
    points = run.curves.get(key)
    return points[-1][1] if points else None


@dataclass(frozen=True)
class Condition:
    """What a run must be: a name, a comparison, and the text that it is compared with.

    Attributes:
        key: as `value` takes it.
        sign: = != < <= > >= or ~ (holds the text somewhere).
        text: the other side.
    """

    key: str
    sign: str
    text: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read `KEY=VALUE` and the like; raises UserError for anything else."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UserError(
                f"where={text}: write KEY=VALUE, or with != < <= > >= or ~ (contains), "
                "as in where=model.name=mamba or where='val/loss<1.5'"
            )
        condition = cls(*found.groups())
        if condition.sign in _ORDER and _number(condition.text) is None:
            raise UserError(f"where={text}: {condition.sign} compares numbers")
        return condition

    def holds(self, run: RunRecord) -> bool:
        """Whether a run is so; one that lacks the value is not, but for != and for =null."""
        found = value(run, self.key)
        if self.sign in _ORDER:
            number, limit = _number(found), _number(self.text)
            return number is not None and limit is not None and _ORDER[self.sign](number, limit)
        if self.sign == "~":
            return found is not None and self.text.lower() in _words(found).lower()
        return _equal(found, self.text) is (self.sign == "=")


def select(runs: Sequence[RunRecord], conditions: Sequence[Condition]) -> list[RunRecord]:
    """Keep the runs that meet all conditions.

    Raises:
        UserError: a condition on something that no run has.
    """
    for condition in conditions:
        _check_known(runs, condition.key, "where")
    return [run for run in runs if all(condition.holds(run) for condition in conditions)]


def arranged(runs: Sequence[RunRecord], key: str) -> list[RunRecord]:
    """Sort runs by a name that `value` takes, `-` before it turns the order round.

    Small values come first, of `best` the best; runs without the value come last.

    Raises:
        UserError: no run has it.
    """
    name = key.removeprefix("-")
    _check_known(runs, name, "sort")
    known = [run for run in runs if value(run, name) is not None]

    def rank(run: RunRecord) -> tuple[bool, float, str]:
        found = value(run, name)
        number = _number(found)
        if name == "best" and number is not None:
            return (False, -number if run.maximize else number, "")
        return (number is None, number or 0.0, "" if number is not None else _words(found))

    known.sort(key=rank, reverse=key.startswith("-"))
    return known + [run for run in runs if value(run, name) is None]


def _check_known(runs: Sequence[RunRecord], key: str, option: str) -> None:
    """Raise UserError if no run has a value of this name."""
    if not runs or key in FACTS or any(value(run, key) is not None for run in runs):
        return
    if any(key in _names(run.config) for run in runs):  # null everywhere
        return
    names = {name for run in runs for name in [*_names(run.config), *run.curves]} | set(FACTS)
    same = [name for name in sorted(names) if name.rpartition(".")[2] == key]
    near = same or get_close_matches(key, sorted(names), n=1, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else "a setting, a metric, or one of"
    more = "" if near else f" {', '.join(FACTS)}"
    raise UserError(f"{option}: no run here has {key}; {hint}{more}")


def _names(config: Any, prefix: str = "", depth: int = 8) -> list[str]:
    """Dotted names of all settings."""
    if not isinstance(config, dict) or not depth:
        return [prefix[:-1]]
    return [n for k, inner in config.items() for n in _names(inner, f"{prefix}{k}.", depth - 1)]


def _number(found: Any) -> float | None:
    """A finite number, also one that is written as a text, or None."""
    if found is None or isinstance(found, bool):
        return None
    try:
        return finite(found)
    except (TypeError, ValueError, OverflowError):
        return None


def _words(found: Any) -> str:
    """A value as a person writes it."""
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    return ", ".join(map(_words, found)) if isinstance(found, list) else str(found)


def _equal(found: Any, text: str) -> bool:
    """Whether a value is what a person wrote; a list is equal to each of its entries, too."""
    if isinstance(found, list) and any(_equal(entry, text) for entry in found):
        return True
    number, other = _number(found), _number(text)
    if number is not None and other is not None:
        return number == other
    return _words(found) == text
