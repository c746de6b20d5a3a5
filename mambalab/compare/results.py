"""What a comparison of runs is made of."""

from dataclasses import dataclass

from mambalab.compare.comparability import is_bound, seed_of
from mambalab.compare.groups import Group
from mambalab.compare.measures import Measured, Metric
from mambalab.compare.search import Search
from mambalab.compare.statistics import Difference, Estimate

# Verdicts on a group, and what takes their place.
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
BASELINE, TOO_FEW, WITHHELD = "baseline", "too few seeds", "no verdict"
RANKED = "by rank"  # of a search: one seed each, no baseline


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
        gap, rise, excess, end_slope: see `Measured`.
        turn: how far `val/loss` turns up, by `turning.turn`.
        test: metric of the test split that goes with the metric, e.g. `test/accuracy`.
        evaluations: median over the runs.
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
    excess: Estimate | None
    end_slope: Estimate | None
    turn: Estimate | None
    test: Estimate | None
    evaluations: float
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

    @property
    def is_bound(self) -> bool:
        """Whether its losses are upper bounds, not the negative log likelihood itself."""
        return any(map(is_bound, self.group.records))

    @property
    def failed_seeds(self) -> list[int | str]:
        """Seeds of its runs that failed or never gave a finite value."""
        return [seed_of(record) for record in self.group.failed]


@dataclass(frozen=True)
class Contrast:
    """Two values of one setting beside each other, everything else being equal.

    Attributes:
        setting: its dotted name, or `model`, `task` ... for a whole group of settings.
        base_value, other_value: what is compared.
        where: labels of the groups: base and other, of each pair that is averaged.
        difference: of the best value, other less base, seed by seed.
        verdict: on the other value.
        pairs: over how many pairs of groups the difference is averaged.
    """

    setting: str
    base_value: str
    other_value: str
    where: tuple[str, ...]
    difference: Difference | None
    verdict: str
    pairs: int = 1


@dataclass(frozen=True)
class Comparison:
    """Groups of runs beside each other.

    Attributes:
        task: name of the task.
        metric: what they are judged by.
        bootstrap: whether intervals of means are bootstrapped instead of Student's.
        goal: value of the metric to which time and tokens are measured.
        baseline: label of the group that the others are compared with; empty if there is none.
        baseline_is: why it is that one, when nobody chose it.
        groups: the best first.
        contrasts: groups that differ in one setting only; empty if nobody asked.
        dropout: statements on whether dropout can be judged; empty if that was not asked.
        warnings: what to bear in mind, a line each.
        left_out: the runs that do not count.
        search: what the search found whose trials these are.
    """

    task: str
    metric: Metric
    bootstrap: bool
    goal: float
    baseline: str
    baseline_is: str
    groups: list[GroupResult]
    contrasts: list[Contrast]
    dropout: list[str]
    warnings: list[str]
    left_out: list[LeftOut]
    search: Search | None = None

    @property
    def is_ranked(self) -> bool:
        """Whether the groups are trials of a search, one seed each, which have no baseline."""
        return self.groups[0].verdict == RANKED
