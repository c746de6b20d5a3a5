"""A search of a sweep: what was tried, how well it did, what mattered, how to train the best.

Its ranges are in Optuna's file in the folder of the sweep, its trials are the run folders beside.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.compare.measures import Metric, best_value
from mambalab.config import paths
from mambalab.config.overrides import assignment
from mambalab.errors import UserError
from mambalab.records.reader import RunRecord
from mambalab.records.run_folder import SWEEP
from mambalab.records.summary import Status
from mambalab.utils.command import as_line
from mambalab.utils.files import read_json
from mambalab.utils.packages import require

STUDY = "study.log"
MAX_STUDY_BYTES = 300_000_000  # 10,000 trials are some 30 million
MIN_TRIALS = 10  # finished ones, from which importance is told
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
SEEDS = "seed=1,2,3"  # of the runs that are reported
_NOT_OF_THE_RUN = ("seed", "task.tune", "resume", "run_dir", "sweep")


@dataclass(frozen=True)
class Range:
    """What a search draws the values of one setting from.

    Attributes:
        low, high: ends of a range; None for a list.
        log: whether it is drawn on a logarithmic scale.
        choices: the list; empty for a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Searched:
    """The folder of a search, as read.

    Attributes:
        folder: of the sweep.
        ranges: by dotted name.
        states: of each job, by the name of its folder.
        command: the words after `mambalab train -m`, none if they are not known.
    """

    folder: Path
    ranges: dict[str, Range]
    states: dict[str, str]
    command: list[str]


@dataclass(frozen=True)
class Trial:
    """One job of a search.

    Attributes:
        name: of its folder.
        values: of the searched settings.
        value: the best of the metric; None if it has none.
        state: finished, pruned or failed.
        minutes: of training.
    """

    name: str
    values: dict[str, Any]
    value: float | None
    state: str
    minutes: float | None


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        ranges: by dotted name.
        trials: the best first, those without a value last.
        importance: share of each setting in how the metric varies, by Optuna's PED-ANOVA, the
            largest first; empty if there are too few trials.
        train: command that trains the best with several seeds; None if the sweep's own command is
            not known.
    """

    ranges: dict[str, Range]
    trials: list[Trial]
    importance: dict[str, float]
    train: str | None

    @property
    def best(self) -> Trial:
        """The best of the finished trials."""
        return next(trial for trial in self.trials if trial.state == FINISHED)


def read(folder: Path) -> Searched | None:
    """Read what a sweep's folder tells of its search; None if it is none, or says nothing.

    Raises:
        UserError: the Optuna that is installed is too old.
    """
    if not (folder / STUDY).is_file():
        return None
    require("optuna")
    try:
        if (folder / STUDY).stat().st_size > MAX_STUDY_BYTES:
            return None
        told = read_json(folder / SWEEP, folder)
        jobs = told.get("jobs", {})
        states = {name: str(entry.get("status")) for name, entry in jobs.items()}
        command = [str(word) for word in told.get("command", [])]
        return Searched(folder, _ranges(folder / STUDY), states, command)
    except (UserError, OSError, AttributeError, TypeError, ValueError, LookupError):
        return None  # what it holds is compared like any other runs


def _ranges(path: Path) -> dict[str, Range]:
    """Return the ranges of the newest study in Optuna's file."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = storage.get_all_studies()
    newest = max(studies, key=lambda study: study._study_id)
    kinds: dict[str, Any] = {}
    for trial in storage.get_all_trials(newest._study_id, deepcopy=False):
        kinds |= trial.distributions
    found = {}
    for key, kind in kinds.items():
        choices = tuple(getattr(kind, "choices", ()))
        ends = {} if choices else {"low": kind.low, "high": kind.high, "log": kind.log}
        found[key] = Range(choices=choices, **ends)
    return found


def found(searched: Searched, records: Sequence[RunRecord], metric: Metric) -> Search | None:
    """Tell what a search found.

    Args:
        searched: its folder.
        records: runs in any state, those of the folder among them.
        metric: by which they are judged.

    Returns:
        None if no trial has finished.
    """
    trials = [
        trial
        for record in records
        if record.path.parent.resolve() == searched.folder.resolve()
        if (trial := _trial(searched, record, metric)) is not None
    ]
    if not any(trial.state == FINISHED for trial in trials):
        return None
    sign = -1 if metric.maximize else 1
    trials.sort(key=lambda t: (t.value is None, sign * (t.value or 0.0), t.name))
    best = next(trial for trial in trials if trial.state == FINISHED)
    tuned = any(r.path.name == best.name and r.setting("task.tune") is True for r in records)
    return Search(
        searched.ranges,
        trials,
        _importance(searched.ranges, trials, metric),
        _command(searched.command, best.values, tuned=tuned),
    )


def _trial(searched: Searched, record: RunRecord, metric: Metric) -> Trial | None:
    values = {}
    for key in searched.ranges:
        value = record.setting(key)
        values[key] = record.setting(f"{key}.name") if isinstance(value, dict) else value
    ranges = searched.ranges
    for key, value in values.items():  # 0.0 of a run is the 0 that was listed
        same = (c for c in ranges[key].choices if c == value and type(c) in (int, float))
        values[key] = value if isinstance(value, bool) else next(same, value)
    if not values or any(v is None and None not in ranges[k].choices for k, v in values.items()):
        return None
    try:
        best = best_value(record, metric)
    except UserError:  # damaged
        best = None
    value = best[0] if best else None
    name = record.path.name
    if searched.states.get(name) == "PRUNED":
        return Trial(name, values, value, PRUNED, record.minutes)
    if record.status == Status.FINISHED.value and value is not None:
        return Trial(name, values, value, FINISHED, record.minutes)
    ended = record.status in (Status.FAILED.value, Status.FINISHED.value)
    return Trial(name, values, None, FAILED, record.minutes) if ended else None


def _importance(
    ranges: Mapping[str, Range], trials: Sequence[Trial], metric: Metric
) -> dict[str, float]:
    """Ask Optuna's PED-ANOVA (Watanabe, Bansal and Hutter, 2023), which needs no further package,
    how much each setting decides whether a trial is among the best."""
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
    )

    finished = [trial for trial in trials if trial.state == FINISHED]
    if len(finished) < MIN_TRIALS or len(ranges) < 2:
        return {}
    kinds: dict[str, BaseDistribution] = {
        key: CategoricalDistribution([str(choice) for choice in one.choices])
        if one.choices
        else FloatDistribution(float(one.low or 0), float(one.high or 0), log=one.log)
        for key, one in ranges.items()
    }
    study = optuna.create_study(direction="maximize" if metric.maximize else "minimize")
    try:
        for trial in finished:
            params = {k: str(v) if ranges[k].choices else float(v) for k, v in trial.values.items()}
            made = optuna.create_trial(params=params, distributions=kinds, value=trial.value)
            study.add_trial(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, TypeError):  # trials of another command, outside these ranges
        return {}
    if not all(math.isfinite(share) for share in shares.values()):
        return {}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _command(words: Sequence[str], values: Mapping[str, Any], *, tuned: bool) -> str | None:
    """Write the command that trains these values with several seeds, on all the training data.

    A search with `task.tune=true` has scored a part of it; what is reported is trained without.
    """
    if not words:
        return None
    kept = []
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key in values or key.partition(".")[0] == "sweep" or key in _NOT_OF_THE_RUN:
            continue
        kept.append(word)
    groups = paths.groups()
    kept += [assignment(key, value, groups) for key, value in values.items()]
    if any(word.startswith("experiment=") for word in words):
        kept.append("sweep.search=grid")  # the experiment may be a search
    if tuned:
        kept.append("task.tune=false")
    return as_line(["train", "-m", *kept, SEEDS])
