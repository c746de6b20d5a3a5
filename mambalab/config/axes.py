"""What varies in a sweep, as the words of the command line say it: `seed=1,2,3`."""

import math
from collections.abc import Iterable
from typing import Any

from mambalab.config import grammar
from mambalab.errors import UserError

SWEEP, LAUNCHER = "sweep.", "hydra.launcher."
MAX_JOBS = 10_000  # each is composed and checked before any of them starts


def axes(prepared: list[str]) -> dict[str, list[str]]:
    """What varies and what does not: for each key the overrides that it takes in turn.

    Keys are without the `+`, `++` or `~` of their overrides. As Hydra has it, the last word on a
    key counts.

    Args:
        prepared: from `overrides.prepare`, with `multirun`.

    Raises:
        UserError: a sweep that does not list its values, or lists too many.
    """
    found: dict[str, list[str]] = {}
    for override in map(grammar.parse, prepared):
        line = override.input_line
        text = grammar.cut(line.lstrip("+"))
        marked = override.get_key_element()
        key = marked.lstrip("+~")
        found.pop(key, None)  # the last word comes after all that was said before it
        if not override.is_sweep_override():
            found[key] = [line]
        elif lists_values(override):
            check_count([_count(override)], text)
            values = override.sweep_string_iterator()  # without the quotes within choice()
            found[key] = [f"{marked}={grammar.as_value(value)}" for value in values]
        else:
            raise UserError(
                f"{text}: a sweep must list its values, as in seed=1,2,3 "
                "or 'seed=range(1,4)'; ranges to search go into sweep.params"
            )
        if len(found[key]) > 1 and key.startswith((SWEEP, LAUNCHER, "hydra/launcher")):
            raise UserError(f"{text}: one value, please: it concerns all jobs")
    check_count(map(len, found.values()), "")
    return found


def lists_values(override: Any) -> bool:
    """Whether the override of a sweep says which values there are: no `interval` and no `glob`."""
    from hydra.core.override_parser.types import Glob

    return override.is_discrete_sweep() and not isinstance(override.value(), Glob)


def check_count(lengths: Iterable[int], line: str) -> None:
    """Raise UserError if these numbers of values make more jobs than one command can check."""
    if (jobs := math.prod(lengths)) > MAX_JOBS:
        raise UserError(
            f"{f'{line}: ' if line else ''}{jobs:,} jobs are more than the {MAX_JOBS:,} of one "
            "sweep; give fewer values, or draw some with sweep.search=random and sweep.trials"
        )


def _count(override: Any) -> int:
    """Number of values, not listed yet: a range may hold a million of them."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    value = override.value()
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        return max(0, math.ceil((value.stop - value.start) / value.step))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1
