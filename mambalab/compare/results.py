"""What a comparison of runs is made of."""

from dataclasses import dataclass

from mambalab.compare.groups import Group
from mambalab.compare.measures import Measured, Metric
from mambalab.compare.statistics import Difference, Estimate

# Verdicts on a group, and what takes their place.
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
BASELINE, TOO_FEW, WITHHELD = "baseline", "too few seeds", "no verdict"


@dataclass(frozen=True)
class LeftOut:
    """A run that does not count, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class GroupResult:
    """What the runs of one group achieved.

    Attributes:
        group: their settings and records.
        runs: each run in numbers, by seed.
        best, last: of the metric.
        best_loss, last_loss: of `val/loss`.
        gap, rise: see `Measured`.
        parameters, steps, minutes, tokens_per_second: means.
        reached: how many runs reached the goal.
        goal_step, goal_seconds, goal_tokens: medians over those.
        difference: of the best value, to the baseline; None for the baseline itself and without a
            common seed.
        verdict: one of the words above.
    """

    group: Group
    runs: list[Measured]
    best: Estimate
    last: Estimate | None
    best_loss: Estimate | None
    last_loss: Estimate | None
    gap: Estimate | None
    rise: Estimate | None
    parameters: float | None
    steps: float | None
    minutes: float | None
    tokens_per_second: float | None
    reached: int
    goal_step: float | None
    goal_seconds: float | None
    goal_tokens: float | None
    difference: Difference | None = None
    verdict: str = BASELINE

    @property
    def label(self) -> str:
        """Name of the group."""
        return self.group.label

    @property
    def seeds(self) -> list[int | str]:
        """Seeds of its runs."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs beside each other.

    Attributes:
        task: name of the task.
        metric: what they are judged by.
        bootstrap: whether intervals of means are bootstrapped instead of Student's.
        goal: value of the metric to which time and tokens are measured.
        baseline: label of the group that the others are compared with.
        baseline_is: why it is that one, when nobody chose it.
        groups: the best first.
        dropout: statements on whether dropout can be judged; empty if that was not asked.
        warnings: what to bear in mind, a line each.
        left_out: the runs that do not count.
    """

    task: str
    metric: Metric
    bootstrap: bool
    goal: float
    baseline: str
    baseline_is: str
    groups: list[GroupResult]
    dropout: list[str]
    warnings: list[str]
    left_out: list[LeftOut]
