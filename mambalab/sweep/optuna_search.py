"""Search: jobs whose values Optuna draws, at random or by TPE (Bergstra et al. 2011).

Optuna runs in the process of the sweep only: it is asked for values when a place is free and told
the best of the run when it ends; a running job is watched through its metrics.jsonl, so jobs on a
cluster are pruned like those on this machine. The study is a file in the sweep's folder, and what
a draw gives depends on the seed and on the trials before it alone.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
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
from optuna.trial import FrozenTrial, Trial, TrialState

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.run_folder import RunFolder
from mambalab.settings.sweep import Search
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry
from mambalab.sweep.plan import Job, Plan

STUDY = "study.log"
MAX_STUDY_BYTES = 300_000_000  # 10,000 trials are some 30 million
MIN_TRIALS_TO_PRUNE = 5  # ended ones: the median of fewer says little
MAX_FRUITLESS_DRAWS = 100  # in a row, after which a search gives up
WATCH_SECONDS = 1.0  # between looks at the metrics of running jobs
WITHOUT_RESULT = "finished without result"  # a run that ended well, all of its values NaN


def distribution(values: Any) -> BaseDistribution:
    """Convert a range {low, high, log, step} or a list of values to Optuna's form."""
    if isinstance(values, list):
        return CategoricalDistribution(values)
    low, high, step = values["low"], values["high"], values.get("step")
    if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
        return IntDistribution(low, high, log=values.get("log", False), step=step or 1)
    return FloatDistribution(low, high, log=values.get("log", False), step=step)


class SearchSource:
    """Jobs drawn one after the other.

    Args:
        plan: of the sweep.
        metric: by which runs are judged.
        maximize: whether more of it is better.
        say: shows one line to the person.

    Attributes:
        refused: combinations that were drawn and make no sense, and why.
        tried: names and values of the jobs that this command has started.
        exhausted: whether draws give nothing new any more.

    Raises:
        UserError: the study in the folder is of another search, or damaged.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        metric: str,
        maximize: bool,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan
        self._say = say
        self.refused: dict[str, str] = {}
        self.metric = metric
        self._seed = plan.first.seed
        # Lists may be among the values: the study's file is JSON, which has them.
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
        self._ranges = {key: distribution(values) for key, values in plan.ranges.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = _study(plan.folder, self._ranges, maximize)
        self._running: dict[str, Trial] = {}
        self._read: dict[str, int] = {}  # bytes of each running job's metrics.jsonl
        self._looked = 0.0
        self.tried: dict[str, dict[str, Any]] = {}
        self._again = self._unfinished()
        self._done = sum(map(_has_ended, self.trials()))
        self._failed = 0
        self.exhausted = False
        self.total = self.left()

    def trials(self) -> list[FrozenTrial]:
        """Return all trials of the study so far."""
        return self._study.get_trials(deepcopy=False)

    def left(self) -> int:
        """Count the trials that were not started yet; 0 once every combination was tried."""
        if self.exhausted:
            return 0
        return max(0, self.plan.settings.trials - self._done - self._failed - len(self._running))

    def take(self, room: int) -> list[Job]:
        """Draw at most `room` jobs; those that a stop or a failure left open come first.

        Raises:
            UserError: no draw makes sense.
        """
        jobs: list[Job] = []
        draws = 0
        while len(jobs) < room and self.left() and draws < MAX_FRUITLESS_DRAWS:
            draws += 1
            if (drawn := self._draw()) is None:
                continue
            job, trial = drawn
            self._running[job.name] = trial
            self._read[job.name] = 0
            self.tried[job.name] = trial.params
            jobs.append(job)
            draws = 0
        if draws == MAX_FRUITLESS_DRAWS:
            if not self.tried and not self._done:
                why = next(reversed(self.refused.values()), "")
                raise UserError(
                    f"sweep.params: {MAX_FRUITLESS_DRAWS} draws in a row gave nothing that makes "
                    f"sense; widen the ranges ({why})"
                )
            self.exhausted = True  # lists of values, all combinations of which were tried
        return jobs

    def unpromising(self, running: list[Job]) -> dict[str, str]:
        """Find running jobs of TPE that are worse than the median of the others at that step."""
        if self.plan.settings.search is not Search.tpe or not self.plan.settings.prune:
            return {}
        if time.monotonic() - self._looked < WATCH_SECONDS:
            return {}
        self._looked = time.monotonic()
        found: dict[str, str] = {}
        for job in running:
            trial = self._running[job.name]
            new = self._new_values(job, trial)
            for step, value in new:
                trial.report(value, step)
            if new and trial.should_prune():
                step, value = new[-1]
                found[job.name] = f"{self.metric} {value:.4f} @ {step:,} is worse than the median"
        return found

    def ended(self, job: Job, entry: Entry) -> None:
        """Tell the study how a job ended."""
        trial = self._running.pop(job.name)
        value = entry.best["value"] if entry.best else math.nan
        if entry.status == states.FINISHED and math.isfinite(value):
            self._study.tell(trial, value)
        elif entry.status == states.PRUNED:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            if entry.status == states.FINISHED:
                trial.set_user_attr(WITHOUT_RESULT, True)
            self._study.tell(trial, state=TrialState.FAIL)
        if entry.status in (states.FINISHED, states.PRUNED):
            self._done += 1
        else:
            self._failed += 1

    # -- inside -------------------------------------------------------------------------------

    def _draw(self) -> tuple[Job, Trial] | None:
        """Draw a job; None if it was tried before or makes no sense."""
        if self._again:
            self._study.enqueue_trial(self._again.pop(0))
        self._study.sampler = self._sampler()
        trial = self._study.ask(self._ranges)
        known = [t.params for t in self.trials() if _has_ended(t)]
        if trial.params not in [*known, *self.tried.values()]:
            try:
                job = self.plan.job(trial.params)
                if job.name not in self.tried:  # which rounds
                    return job, trial
            except UserError as error:  # a wrong value may lie between two that are right
                self._refuse(trial.params, error)
        self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _refuse(self, params: dict[str, Any], error: UserError) -> None:
        name = ",".join(f"{key}={value}" for key, value in sorted(params.items()))
        if name not in self.refused:
            self.refused[name] = str(error)
            self._say(f"not applicable: {name}: {error}")

    def _new_values(self, job: Job, trial: Trial) -> list[tuple[int, float]]:
        """Read finite values of the metric that a running job has written since the last look."""
        path = RunFolder(job.run_dir).metrics
        try:
            rows, self._read[job.name] = run_folder.read_rows(path, self._read[job.name])
        except UserError:  # damaged: the job itself will say so
            return []
        reported = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        return [
            (step, value)
            for step, values in rows
            if (value := values.get(self.metric)) is not None and step not in reported
        ]

    def _sampler(self) -> optuna.samplers.BaseSampler:
        seed = (self._seed * 1_000_003 + len(self.trials())) % 2**32
        if self.plan.settings.search is Search.random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _unfinished(self) -> list[dict[str, Any]]:
        """List the values of trials that a stop or a failure left without a result, once each."""
        whole = [t.params for t in self.trials() if _has_ended(t)]
        again: list[dict[str, Any]] = []
        for trial in self.trials():
            if trial.state is TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            if self._inside(trial.params) and trial.params not in [*whole, *again]:
                again.append(trial.params)
        return [params for params in again if self._makes_sense(params)]

    def _inside(self, params: dict[str, Any]) -> bool:
        """Tell whether values are within the ranges of this command, which may have changed."""
        return params.keys() == self._ranges.keys() and _fits(params, self._ranges)

    def _makes_sense(self, params: dict[str, Any]) -> bool:
        try:
            self.plan.job(params)
        except UserError:
            return False
        return True


def _has_ended(trial: FrozenTrial) -> bool:
    """Tell whether nothing is left to do for a trial."""
    results = (TrialState.COMPLETE, TrialState.PRUNED)
    return trial.state in results or WITHOUT_RESULT in trial.user_attrs


def _fits(params: dict[str, Any], ranges: dict[str, BaseDistribution]) -> bool:
    return all(
        params[key] in kind.choices
        if isinstance(kind, CategoricalDistribution)
        else not isinstance(params[key], str) and kind._contains(kind.to_internal_repr(params[key]))
        for key, kind in ranges.items()
    )


# -- the file ------------------------------------------------------------------------------------


def _study(folder: Path, ranges: dict[str, BaseDistribution], maximize: bool) -> optuna.Study:
    """Open the study of these ranges in the sweep's file.

    A study of Optuna's cannot change its lists of values, nor a linear range into a logarithmic
    one. So a command that does either begins another study in the same file, with the trials of
    the others that are within its ranges.
    """
    path = folder / STUDY
    direction = "maximize" if maximize else "minimize"
    try:
        storage = JournalStorage(JournalFileBackend(str(_mended(path))))
        known = optuna.get_all_study_names(storage)
        name = _study_name(ranges)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS_TO_PRUNE),
            load_if_exists=True,
        )
        if name not in known:
            for other in (optuna.load_study(study_name=n, storage=storage) for n in known):
                _check_direction(path, other, direction)
                study.add_trials(_taken_over(other.trials, ranges))
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


def _study_name(ranges: dict[str, BaseDistribution]) -> str:
    fixed = {
        key: kind.choices
        if isinstance(kind, CategoricalDistribution)
        else (type(kind).__name__, getattr(kind, "log", False))
        for key, kind in sorted(ranges.items())
    }
    return f"sweep-{hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:8]}"


def _taken_over(
    trials: list[FrozenTrial], ranges: dict[str, BaseDistribution]
) -> list[FrozenTrial]:
    found = []
    for trial in trials:
        if trial.state is TrialState.RUNNING:  # cut off, to be tried again
            trial.state, trial.datetime_complete = TrialState.FAIL, trial.datetime_start
        whole = trial.state.is_finished() and trial.params.keys() == ranges.keys()
        if whole and _fits(trial.params, ranges):
            trial.distributions = ranges
            found.append(trial)
    return found
