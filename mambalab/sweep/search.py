"""Search: jobs whose values Optuna draws, at random or by TPE (Bergstra et al. 2011).

Optuna runs in the process of the sweep only: it is asked for values when a place is free and told
the best of the run when it ends; a running job is watched through its metrics.jsonl, so jobs on a
cluster are pruned like those on this machine. The study is a file in the sweep's folder, and what
a draw gives depends on the seed and on the trials before it alone.
"""

import math
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

from mambalab import run_folder
from mambalab.config.multirun import Job, Plan
from mambalab.errors import NotApplicableError, UserError
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry
from mambalab.sweep.settings import Search

STUDY = "study.log"
MIN_TRIALS = 5  # before any is pruned: the median of fewer says little
DRAWS = 100  # in a row that make no sense before a search gives up


def distribution(values: Any) -> BaseDistribution:
    """Optuna's form of a range {low, high, log, step} or of a list of values."""
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

    Raises:
        UserError: the study in the folder is of another search, or damaged.
    """

    def __init__(self, plan: Plan, *, metric: str, maximize: bool) -> None:
        self.plan = plan
        self.metric = metric
        self._seed = plan.first.seed
        self._ranges = {key: distribution(values) for key, values in plan.ranges.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = _study(plan.folder, maximize)
        self._running: dict[str, Trial] = {}
        self._reported: dict[str, int] = {}
        self._again = self._unfinished()
        self._done = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in self.trials())
        self._failed = 0
        self.total = self.left()

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study so far."""
        return self._study.get_trials(deepcopy=False)

    def left(self) -> int:
        """Trials that were not started yet."""
        return max(0, self.plan.settings.trials - self._done - self._failed - len(self._running))

    def take(self, room: int) -> list[Job]:
        """Draw at most `room` jobs; those that a stop or a failure left open come first.

        Raises:
            UserError: no draw makes sense.
        """
        jobs: list[Job] = []
        draws = 0
        while len(jobs) < min(room, self.left() + len(jobs)) and draws < DRAWS:
            draws += 1
            if self._again:
                self._study.enqueue_trial(self._again.pop(0))
            self._study.sampler = self._sampler()
            trial = self._study.ask(self._ranges)
            try:
                job = self.plan.job(trial.params)
            except NotApplicableError:
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            if job.name in self._running or not self._is_new(job, trial):
                continue
            self._running[job.name] = trial
            self._reported[job.name] = -1
            jobs.append(job)
        if not jobs and draws == DRAWS:
            raise UserError(
                f"sweep.params: {DRAWS} draws in a row gave nothing new that makes sense; "
                "widen the ranges, or lower sweep.trials"
            )
        return jobs

    def unpromising(self, running: list[Job]) -> dict[str, str]:
        """Of TPE: running jobs whose values are worse than the median of the others there."""
        if self.plan.settings.search is not Search.tpe or not self.plan.settings.prune:
            return {}
        found: dict[str, str] = {}
        for job in running:
            trial = self._running[job.name]
            new = [
                (step, values[self.metric])
                for step, values in run_folder.read_rows(job.run_dir / run_folder.METRICS)[0]
                if self.metric in values and step > self._reported[job.name]
            ]
            for step, value in new:
                self._reported[job.name] = step
                if value is not None:
                    trial.report(value, step)
            if new and trial.should_prune():
                step, value = new[-1]
                found[job.name] = f"{self.metric} {value:.4f} @ {step:,} is worse than the median"
        return found

    def ended(self, job: Job, entry: Entry) -> None:
        """Tell the study."""
        trial = self._running.pop(job.name)
        value = entry.best["value"] if entry.best else math.nan
        if entry.status == states.FINISHED and math.isfinite(value):
            self._study.tell(trial, value)
            self._done += 1
        elif entry.status == states.PRUNED:
            self._study.tell(trial, state=TrialState.PRUNED)
            self._done += 1
        else:
            self._study.tell(trial, state=TrialState.FAIL)
            self._failed += 1

    # -- inside -------------------------------------------------------------------------------

    def _sampler(self) -> optuna.samplers.BaseSampler:
        seed = (self._seed * 1_000_003 + len(self.trials())) % 2**32
        if self.plan.settings.search is Search.random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _unfinished(self) -> list[dict[str, Any]]:
        """Values of trials that a stop or a failure left without a result, once each."""
        results = (TrialState.COMPLETE, TrialState.PRUNED)
        whole = [t.params for t in self.trials() if t.state in results]
        again: list[dict[str, Any]] = []
        for trial in self.trials():
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                self._study.tell(trial.number, state=TrialState.FAIL)
            if self._inside(trial.params) and trial.params not in [*whole, *again]:
                again.append(trial.params)
        return [params for params in again if self._makes_sense(params)]

    def _inside(self, params: dict[str, Any]) -> bool:
        """Whether values lie within the ranges of this command, which may have changed."""
        ranges = self.plan.ranges
        return params.keys() == ranges.keys() and all(
            values["low"] <= params[key] <= values["high"]
            if isinstance(values, dict)
            else params[key] in values
            for key, values in ranges.items()
        )

    def _makes_sense(self, params: dict[str, Any]) -> bool:
        try:
            self.plan.job(params)
        except NotApplicableError:
            return False
        return True

    def _is_new(self, job: Job, trial: Trial) -> bool:
        """Whether the same values were not run before; if they were, their result stands."""
        whole = [t for t in self.trials() if t.state is TrialState.COMPLETE]
        for other in whole:
            if other.params == trial.params:
                self._study.tell(trial, other.value)
                return False
        return True


def _study(folder: Path, maximize: bool) -> optuna.Study:
    path = folder / STUDY
    direction = "maximize" if maximize else "minimize"
    try:
        study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(path))),
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS),
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be used ({error}): give another sweep.dir") from error
    if study.direction.name.lower() != direction:
        raise UserError(
            f"{path} is of a search that {study.direction.name.lower()}s: give another sweep.dir"
        )
    return study
