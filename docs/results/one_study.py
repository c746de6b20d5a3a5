"""One study: where its record is, and how its runs compare."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from docs.results.old import EXPERIMENTS
from mambalab.compare import select
from mambalab.compare.results import BETTER, WORSE, Comparison, GroupResult
from mambalab.compare.statistics import Difference, holm, paired
from mambalab.compare.verdicts import ALPHA, verdict
from mambalab.errors import UserError
from mambalab.records import archive


@dataclass(frozen=True)
class Study:
    """Runs that answer a question.

    Attributes:
        folder: below `experiments/`; `mambalab record RUNS to=experiments/FOLDER` fills it.
        title: the question, for a heading.
        command: what makes the runs.
        baseline: a word of the label of the group that the others are compared with, the best if
            there are several; None = the first without dropout.
        metric: what to judge by; None = what the runs were judged by.
        note: what else to bear in mind, a sentence.
        source_setting: whether it is the setting of the source whose claim is tested.
        looks: how often its result was judged before seeds were added, and at the end: the level
            of a verdict is shared among them (Bonferroni).
    """

    folder: str
    title: str
    command: str
    baseline: str | None = None
    metric: str | None = None
    note: str | None = None
    source_setting: bool = False
    looks: int = 1

    @property
    def curves(self) -> Path:
        """The picture of its curves."""
        return EXPERIMENTS / self.folder / "curves.png"

    @property
    def tunes(self) -> bool:
        """Whether its runs are trials that chose settings, and no values to report."""
        return "task.tune=true" in self.command.split()

    @property
    def recorded(self) -> bool:
        """Whether its runs are there."""
        return (EXPERIMENTS / self.folder / archive.ARCHIVE).is_file()


@cache
def comparison(of: Study) -> Comparison:
    """Compare the recorded runs of a study; raises UserError where they cannot be compared."""
    records = archive.read(EXPERIMENTS / of.folder)
    found = select.compare_records(records, [], metric=of.metric)
    base = group(found, of.baseline) if of.baseline else None
    if base is not None and base.label != found.baseline:
        found = select.compare_records(records, [], metric=of.metric, baseline=base.label)
    return replace(found, groups=[at_looks(result, of.looks) for result in found.groups])


def by_test(found: Comparison) -> list[tuple[GroupResult, Difference, str]]:
    """Differences to the baseline on the test split, of weights that validation chose.

    Returns:
        For each group that was tested, and shares seeds with the baseline: it, its difference
        seed by seed and the verdict that the difference bears (Holm's correction).
    """
    base = next((g for g in found.groups if g.label == found.baseline), None)
    if base is None:
        return []
    name = found.metric.of_test

    def tested(group: GroupResult) -> dict[int | str, float]:
        return {run.seed: run.test[name] for run in group.runs if name in run.test}

    pairs = [
        (group, pair)
        for group in found.groups
        if group is not base and (pair := paired(tested(group), tested(base))) is not None
    ]
    told = []
    for (group, pair), p_holm in zip(pairs, holm([pair.p for _, pair in pairs]), strict=True):
        corrected = replace(pair, p_holm=p_holm)
        withheld = bool(group.failed_seeds or base.failed_seeds)
        told.append((group, corrected, verdict(corrected, found.metric, withheld=withheld)))
    return told


def too_often(p: float | None, looks: int) -> str | None:
    """Say that a p-value does not stand so many looks at a result; None if it does."""
    if looks == 1 or p is None or p < ALPHA / looks:
        return None
    times = "twice" if looks == 2 else f"{looks} times"
    return f"p = {p:.3f}, judged {times}, so {ALPHA / looks:.3f} is asked"


def at_looks(result: GroupResult, looks: int) -> GroupResult:
    """Take back a verdict that does not stand the number of times that the result was judged."""
    pair = result.difference
    if pair is None or result.verdict not in (BETTER, WORSE):
        return result
    told = too_often(pair.p_holm, looks)
    return replace(result, verdict=f"undecided: {told}") if told else result


def group(found: Comparison, words: str | None) -> GroupResult:
    """Find the best group in whose label words such as `model=mamba` stand, all of them.

    Args:
        found: groups, the best first.
        words: None = the best of all.

    Raises:
        UserError: there is none, so that a claim is not taken for one that nobody measured.
    """
    for result in found.groups:
        if words is None or set(words.split()) <= set(result.label.split()):
            return result
    labels = "; ".join(result.label for result in found.groups)
    raise UserError(f"no group has {words}; there are {labels}")


def shown(command: str) -> str:
    """A command as the page may show it: whether its experiment is there, is said."""
    name = next((w[11:] for w in command.split() if w.startswith("experiment=")), None)
    there = name is None or (EXPERIMENTS / f"{name}.yaml").is_file()
    return f"`{command}`" if there else f"`experiment={name}` (not written yet)"
