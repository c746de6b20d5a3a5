"""The study of a search: Optuna's file in the sweep's folder, and what its trials say."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from mambalab.errors import UserError

STUDY = "study.log"
MAX_STUDY_BYTES = 300_000_000  # 10,000 trials are some 30 million
MAX_COMBINATIONS = 10_000  # of values that can be listed, up to which they are
MIN_TRIALS_TO_PRUNE = 5  # ended ones: the median of fewer says little
WITHOUT_RESULT = "finished without result"  # a run that ended well, all of its values NaN


def distribution(values: Any) -> BaseDistribution:
    """Convert a range {low, high, log, step} or a list of values to Optuna's form."""
    if isinstance(values, list):
        return CategoricalDistribution(values)
    low, high, step = values["low"], values["high"], values.get("step")
    if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
        return IntDistribution(low, high, log=values.get("log", False), step=step or 1)
    return FloatDistribution(low, high, log=values.get("log", False), step=step)


def has_ended(trial: FrozenTrial) -> bool:
    """Tell whether nothing is left to do for a trial."""
    results = (TrialState.COMPLETE, TrialState.PRUNED)
    return trial.state in results or WITHOUT_RESULT in trial.user_attrs


def fits(params: dict[str, Any], ranges: dict[str, BaseDistribution]) -> bool:
    """Tell whether the values of a trial are within ranges."""
    return all(
        params[key] in kind.choices
        if isinstance(kind, CategoricalDistribution)
        else not isinstance(params[key], str) and kind._contains(kind.to_internal_repr(params[key]))
        for key, kind in ranges.items()
    )


def combinations(ranges: dict[str, BaseDistribution]) -> list[dict[str, Any]] | None:
    """List all combinations of values; None if they are too many, or cannot be listed."""
    values: list[Sequence[Any]] = []
    for kind in ranges.values():
        if isinstance(kind, CategoricalDistribution):
            values.append(kind.choices)
        elif isinstance(kind, IntDistribution):
            values.append(range(kind.low, kind.high + 1, kind.step))
        else:
            return None
    if math.prod(map(len, values)) > MAX_COMBINATIONS:
        return None
    return [dict(zip(ranges, one, strict=True)) for one in itertools.product(*values)]


def open_study(
    folder: Path,
    ranges: dict[str, BaseDistribution],
    maximize: bool,
    limits: str,
    counts: Callable[[FrozenTrial], bool],
) -> optuna.Study:
    """Open the study of these ranges and limits in the sweep's file.

    A study of Optuna's cannot change its lists of values, nor a linear range into a logarithmic
    one, nor the value of a trial that is trained further. So a command that does one of these
    begins another study in the same file, with the trials of the others that are within its
    ranges, the newest first; those for which `counts` does not hold come without a result, to be
    trained on.

    Args:
        folder: of the sweep.
        ranges: by dotted name.
        maximize: whether more of the metric is better.
        limits: how far a trial is trained, as a text.
        counts: whether a trial with a result was trained so far.
    """
    path = folder / STUDY
    direction = "maximize" if maximize else "minimize"
    try:
        storage = JournalStorage(JournalFileBackend(str(_mended(path))))
        known = optuna.get_all_study_names(storage)
        name = _study_name(ranges, limits)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS_TO_PRUNE),
            load_if_exists=True,
        )
        if name not in known:
            others = [optuna.load_study(study_name=n, storage=storage) for n in known]
            taken: list[dict[str, Any]] = []
            for other in sorted(others, key=lambda study: study._study_id, reverse=True):
                _check_direction(path, other, direction)
                found = [
                    t for t in _taken_over(other.trials, ranges, counts) if t.params not in taken
                ]
                study.add_trials(found)
                taken += [trial.params for trial in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be used ({error}): give another sweep.dir") from error
    _check_direction(path, study, direction)
    return study


def _check_direction(path: Path, study: optuna.Study, direction: str) -> None:
    if (other := study.direction.name.lower()) != direction:
        raise UserError(f"{path} is of a search that {other}s: give another sweep.dir")


def _mended(path: Path) -> Path:
    """Remove from the study's file what a killed process may have left: a lock, half a line."""
    Path(f"{path}.lock").unlink(missing_ok=True)  # the sweep's folder is held: it is nobody's
    if path.exists():
        if not path.is_file() or path.stat().st_size > MAX_STUDY_BYTES:
            raise UserError(f"{path} is no study of a search: give another sweep.dir")
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return path


def _study_name(ranges: dict[str, BaseDistribution], limits: str) -> str:
    fixed: dict[str, Any] = {
        key: kind.choices
        if isinstance(kind, CategoricalDistribution)
        else (type(kind).__name__, getattr(kind, "log", False))
        for key, kind in sorted(ranges.items())
    }
    fixed["limits"] = limits
    return f"sweep-{hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:8]}"


def _taken_over(
    trials: Iterable[FrozenTrial],
    ranges: dict[str, BaseDistribution],
    counts: Callable[[FrozenTrial], bool],
) -> list[FrozenTrial]:
    found = []
    for trial in trials:
        if trial.state is TrialState.RUNNING:  # cut off, to be tried again
            trial.state, trial.datetime_complete = TrialState.FAIL, trial.datetime_start
        whole = trial.state.is_finished() and trial.params.keys() == ranges.keys()
        if whole and fits(trial.params, ranges):
            trial.distributions = ranges
            if has_ended(trial) and not counts(trial):
                trial.state, trial.values = TrialState.FAIL, None
                trial.intermediate_values = {}
                trial.user_attrs = {
                    k: v for k, v in trial.user_attrs.items() if k != WITHOUT_RESULT
                }
            found.append(trial)
    return found
