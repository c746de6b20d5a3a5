"""Whether the runs of a study bear a claim out."""

from dataclasses import dataclass, replace

from docs.results.one_study import Study, group, shown, too_often
from mambalab.compare.results import BETTER, TOO_FEW, WITHHELD, Comparison, GroupResult
from mambalab.compare.statistics import paired
from mambalab.compare.text import interval
from mambalab.compare.verdicts import MIN_SEEDS, verdict, why_withheld

SUPPORTED, NOT_SUPPORTED, NOT_MEASURED = "supported", "not supported", "not measured"
UNDECIDED, OTHER_SETTING, NO_FIGURE = "undecided", "other setting", "no figure claimed"
SMALLER = "supported, but smaller"


@dataclass(frozen=True)
class Level:
    """A claim that a value is reached: by the mean, undecided if only by the interval.

    Attributes:
        value: as claimed, of the study's metric.
        of: a word of the group's label; None = the best group.
    """

    value: float
    of: str | None = None


@dataclass(frozen=True)
class Contrast:
    """A claim that one group does better than another: one planned paired comparison.

    Attributes:
        better, worse: words of the labels of the two groups.
        by: how large the claimed difference is, in the metric's unit; None = not claimed.
    """

    better: str
    worse: str
    by: float | None = None


@dataclass(frozen=True)
class TurnsUp:
    """A claim that a group over-fits: its validation loss turns up.

    Attributes:
        of: a word of the group's label; None = the best group.
    """

    of: str | None = None


Test = Level | Contrast | TurnsUp


@dataclass(frozen=True)
class Measured:
    """What there is on a claim.

    Attributes:
        text: figures, seeds, time, machine.
        verdict: what they say.
        command: what makes the runs.
    """

    text: str
    verdict: str
    command: str


def judged(found: Comparison, test: Test | None, of: Study) -> Measured:
    """Judge a claim by the comparison of its study's runs.

    Raises:
        UserError: the comparison lacks a group that decides.
    """
    if isinstance(test, Contrast):
        text, word = _contrast(found, test, of.looks)
    elif isinstance(test, TurnsUp):
        text, word = _turns_up(group(found, test.of))
    else:
        text, word = _level(found, test)
    if not of.source_setting and word in (SUPPORTED, SMALLER, UNDECIDED, NOT_SUPPORTED):
        word = f"{OTHER_SETTING}: {word}"
    machine = machines(found)
    return Measured(f"{text}; {machine}" if machine else text, word, shown(of.command))


def machines(found: Comparison) -> str:
    """The machines that the runs of a study were made on."""
    devices = {r.summary.device for g in found.groups for r in g.group.records}
    return ", ".join(sorted(device for device in devices if device))


def seeds_and_time(result: GroupResult) -> str:
    """How many seeds a group has, and how long its runs took."""
    number = len(result.seeds)
    took = [run.minutes for run in result.runs if run.minutes is not None]
    ends = sorted({f"{value:.1f}" for value in (min(took), max(took))}, key=float) if took else []
    time = f", {' to '.join(ends)} min" if ends else ""
    return f"{number} seed{'' if number == 1 else 's'}{time}"


def _level(found: Comparison, test: Level | None) -> tuple[str, str]:
    chosen = group(found, test.of if test else None)
    label = f"{chosen.label}: " if chosen.label else ""
    text = f"{label}{interval(chosen.best)}, {seeds_and_time(chosen)}"
    if test is None:
        return text, NO_FIGURE
    if len(chosen.seeds) < MIN_SEEDS or chosen.best.low is None or chosen.best.high is None:
        return text, TOO_FEW
    if chosen.failed_seeds:
        return f"{text}; {len(chosen.failed_seeds)} more failed", WITHHELD
    nearest = chosen.best.high if found.metric.maximize else chosen.best.low
    if found.metric.reaches(chosen.best.mean, test.value):
        return text, SUPPORTED
    return text, UNDECIDED if found.metric.reaches(nearest, test.value) else NOT_SUPPORTED


def _turns_up(chosen: GroupResult) -> tuple[str, str]:
    text = f"loss turns up by {interval(chosen.turn)}, {seeds_and_time(chosen)}"
    if len(chosen.seeds) < MIN_SEEDS or chosen.turn is None or chosen.turn.low is None:
        return text, TOO_FEW
    return text, SUPPORTED if chosen.turn.low > 0 else NOT_SUPPORTED


def _contrast(found: Comparison, test: Contrast, looks: int) -> tuple[str, str]:
    ours, theirs = group(found, test.better), group(found, test.worse)
    text = "; ".join(f"{g.label} {interval(g.best)}, {seeds_and_time(g)}" for g in (ours, theirs))
    pair = paired({r.seed: r.best for r in ours.runs}, {r.seed: r.best for r in theirs.runs})
    if pair is None or len(pair.seeds) < MIN_SEEDS:
        return text, TOO_FEW
    text += f"; difference {interval(pair.estimate, sign='+')}"
    planned = replace(pair, p_holm=pair.p)  # one comparison, chosen beforehand
    word = verdict(planned, found.metric, withheld=False)
    if why := why_withheld(word, ours, theirs):
        return f"{text}; {why}", WITHHELD
    if word != BETTER:
        return text, NOT_SUPPORTED
    ends = pair.estimate.low, pair.estimate.high
    if test.by is not None and all(end is not None and abs(end) < test.by for end in ends):
        text += f" (the claimed {test.by:g} is outside its interval)"
        word = SMALLER
    else:
        word = SUPPORTED
    if told := too_often(pair.p, looks):
        return f"{text}; {told}", UNDECIDED
    return text, word
