"""Search: jobs whose values Optuna draws, at random or by TPE (Bergstra et al. 2011).

Optuna runs in the process of the sweep only: it is asked for values when a place is free and told
the best of the run when it ends; a running job is watched through its metrics.jsonl, so jobs on a
cluster are pruned like those on this machine. The study is a file in the sweep's folder, and what
a draw gives depends on the seed and on the trials before it alone.
"""

import math
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mambalab import config
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import is_run
from mambalab.records.run_folder import RunFolder
from mambalab.runs import resume
from mambalab.settings.sweep import Search
from mambalab.settings.train import Resume
from mambalab.sweep import folder as states
from mambalab.sweep.folder import Entry
from mambalab.sweep.optuna_study import (
    STUDY,
    WITHOUT_RESULT,
    combinations,
    distribution,
    fits,
    has_ended,
    open_study,
)
from mambalab.sweep.plan import Job, Plan

MAX_FRUITLESS_DRAWS = 100  # in a row, after which a search gives up
EVERYTHING = "every combination that sweep.params allows was tried"
WATCH_SECONDS = 1.0  # between looks at the metrics of running jobs


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
        exhausted: why nothing new is drawn any more; empty as long as something is.

    Raises:
        UserError: the study in the folder is of another search, or damaged, or one of its runs was
            made with other settings.
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
        self._senseless: list[dict[str, Any]] = []
        self.metric = metric
        self._seed = plan.first.seed
        # Lists may be among the values: the study's file is JSON, which has them.
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
        self._ranges = {key: distribution(values) for key, values in plan.ranges.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if plan.first.resume is Resume.never and (plan.folder / STUDY).exists():
            raise UserError(
                f"resume=never: {plan.folder} holds the trials of a search, which count however "
                "they came about: remove it, or name another folder with sweep.dir=FOLDER"
            )
        self._study = open_study(plan.folder, self._ranges, maximize, self._limits(), self._counts)
        self._check_settings()
        self._running: dict[str, Trial] = {}
        self._read: dict[str, int] = {}  # bytes of each running job's metrics.jsonl
        self._looked = 0.0
        self.tried: dict[str, dict[str, Any]] = {}
        self._again = self._unfinished()
        self._done = len(self._ended_inside())
        self._failed = 0
        self.exhausted = ""
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
            if draws == MAX_FRUITLESS_DRAWS // 2 and not self._again and self._next_untried():
                draws -= 1
            if self.exhausted:
                break
            if (drawn := self._draw()) is None:
                continue
            job, trial = drawn
            self._running[job.name] = trial
            self._read[job.name] = 0
            self.tried[job.name] = trial.params
            jobs.append(job)
            draws = 0
        if draws == MAX_FRUITLESS_DRAWS or self.exhausted:
            if not self.tried and not self._done:
                why = next(reversed(self.refused.values()), "")
                raise UserError(
                    f"sweep.params: {draws} draws in a row gave nothing that makes sense; widen "
                    f"the ranges ({why})"
                )
            self.exhausted = self.exhausted or f"{draws} draws in a row gave nothing new"
        return jobs

    def _next_untried(self) -> bool:
        """Put a combination that was not tried yet in front, where they can all be listed.

        Draws seldom hit the last few. Without one left the search is exhausted.

        Returns:
            whether there is one.
        """
        if (every := combinations(self._ranges)) is None:
            return False
        known = [*(t.params for t in self.trials() if has_ended(t)), *self.tried.values()]
        left = [one for one in every if one not in known and one not in self._senseless]
        if not left:
            self.exhausted = EVERYTHING
            return False
        seed = (self._seed * 1_000_003 + len(self.trials())) % 2**32
        self._again.append(random.Random(seed).choice(left))
        return True

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
        known = [t.params for t in self.trials() if has_ended(t)]
        if trial.params not in [*known, *self.tried.values()]:
            try:
                job = self.plan.job(trial.params)
                if job.name not in self.tried:
                    return job, trial
                self._senseless.append(trial.params)  # names round: it has another one's
            except UserError as error:  # a wrong value may lie between two that are right
                self._refuse(trial.params, error)
        self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _refuse(self, params: dict[str, Any], error: UserError) -> None:
        self._senseless.append(dict(params))
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
        whole = [t.params for t in self.trials() if has_ended(t)]
        again: list[dict[str, Any]] = []
        for trial in self.trials():
            if trial.state is TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            if self._inside(trial.params) and trial.params not in [*whole, *again]:
                again.append(trial.params)
        return [params for params in again if self._makes_sense(params)]

    def _limits(self) -> str:
        """How far this command trains a trial; what is searched of it is among the values."""
        trainer = self.plan.first.trainer
        names = ("max_steps", "max_epochs", "max_minutes")
        return ",".join(
            f"{n}={getattr(trainer, n)}" for n in names if f"trainer.{n}" not in self._ranges
        )

    def _counts(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial's run is as long as this command asks, or its folder is gone."""
        run_dir = self.plan.folder / self.plan.name_of(trial.params)
        if trial.state is TrialState.PRUNED or not is_run(run_dir):
            return True
        settings = self.plan.first
        if any(key.startswith("trainer.max_") for key in self._ranges):
            settings = config.typed(self.plan.job(trial.params).config)
        return bool(resume.finished(settings, run_dir))

    def _check_settings(self) -> None:
        """Raise UserError if the runs in the folder were made with other settings.

        One tells: every command has looked at one.
        """
        for trial in self.trials():
            if not self._inside(trial.params):
                continue
            there = is_run(self.plan.folder / self.plan.name_of(trial.params))
            if there and self._makes_sense(trial.params):
                job = self.plan.job(trial.params)
                resume.check(config.typed(job.config), job.run_dir, setting="sweep.dir")
                return

    def _ended_inside(self) -> list[dict[str, Any]]:
        """The values of the trials that have ended and are within the ranges, once each."""
        found: list[dict[str, Any]] = []
        for trial in self.trials():
            if has_ended(trial) and self._inside(trial.params) and trial.params not in found:
                found.append(trial.params)
        return found

    def _inside(self, params: dict[str, Any]) -> bool:
        """Tell whether values are within the ranges of this command, which may have changed."""
        return params.keys() == self._ranges.keys() and fits(params, self._ranges)

    def _makes_sense(self, params: dict[str, Any]) -> bool:
        try:
            self.plan.job(params)
        except UserError:
            return False
        return True
