"""Which runs may be averaged, which may be set side by side, and what a reader must be told."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import Any

from mambalab.compare.groups import Group
from mambalab.errors import UserError
from mambalab.records.reader import RunRecord
from mambalab.records.summary import BY_STEPS
from mambalab.utils.text import printable, short

TUNE = "task.tune"
# Settings of a task that do not change what its validation metrics mean.
_HARMLESS = ("task.batch_size", "task.eval_batch_size", "task.augment")
_DIFFUSION = "mambalab.tasks.diffusion.DiffusionTask"
# Tasks that measure the negative log likelihood of the same data in the same units.
_LIKELIHOODS = (
    _DIFFUSION,
    "mambalab.tasks.pixels.PixelModelTask",
    "mambalab.tasks.text.ShakespeareTask",
)


def seed_of(record: RunRecord) -> int | str:
    """Return the seed of a run; text if it is no whole number."""
    seed = record.setting("seed")
    return seed if isinstance(seed, int) else str(seed)


def check_groups(groups: Sequence[Group]) -> None:
    """Refuse what cannot be averaged, and groups that cannot be compared.

    Raises:
        UserError: within a group a seed occurs twice, or two runs differ in their data, precision,
            number of parameters or steps; or the groups have different tasks or data.
    """
    for group in groups:
        _check_seeds(group)
        for first, second in combinations(group.records, 2):
            if found := _obstacle(first, second):
                seeds = f"seeds {seed_of(first)} and {seed_of(second)}"
                raise UserError(
                    f"group {group.label}: {printable(seeds)} differ in {found}: "
                    f"not averaged ({first.path}, {second.path})"
                )
    everything = [record for group in groups for record in group.records]
    task = _values(everything, lambda r: r.setting("task.name"))
    if len(task) > 1 and not all(map(_measures_likelihood, everything)):
        raise UserError(f"runs of different tasks cannot be compared: {_listed(task)}")
    if len(_values(everything, _tuned)) > 1:
        raise UserError(_different_splits(everything))
    if len(_values(everything, _data)) > 1:
        raise UserError(_different_data(groups, everything))


def is_bound(record: RunRecord) -> bool:
    """Return whether a run's loss is an upper bound, as that of `task=diffusion` is."""
    return record.setting("task._target_") == _DIFFUSION


def _measures_likelihood(record: RunRecord) -> bool:
    """Return whether a run's loss is a negative log likelihood, or an upper bound of one."""
    return record.setting("task._target_") in _LIKELIHOODS


def _tuned(record: RunRecord) -> bool:
    """Return whether a run was scored on a part of the training data (`task.tune=true`)."""
    return record.setting(TUNE) is True


def _different_splits(records: Sequence[RunRecord]) -> str:
    """Say that runs which chose settings are no match for those that are reported."""
    tuned = [record for record in records if _tuned(record)]
    other = next(record for record in records if not _tuned(record))
    return (
        f"{len(tuned)} of {len(records)} runs have {TUNE}=true, so their val is a part of the "
        f"training data, that of the others the reported split ({tuned[0].path}, {other.path}): "
        "compare one kind only"
    )


def _different_data(groups: Sequence[Group], records: Sequence[RunRecord]) -> str:
    """Say which data there are, what else tells their runs apart, and what to do."""
    parts = []
    for value, count in _values(records, _data).items():
        first = next(record for record in records if _data(record) == value)
        parts.append(f"{short(value, 13)} ({count} run{'s'[: count > 1]}, one is {first.path})")
    keys = [key for key in groups[0].settings if key.startswith(("task.", "data_"))]
    keys = [key for key in keys if not key.startswith(_HARMLESS)]
    settings = f"they differ in {', '.join(map(printable, keys))}" if keys else "the files changed"
    return (
        f"the runs have different data (sha256), on which values do not compare: "
        f"{' and '.join(parts)}; {settings}: compare only the runs of one, or train the others "
        "again on the same data"
    )


def _check_seeds(group: Group) -> None:
    held: dict[Hashable, RunRecord] = {}
    for record in group.records:
        seed = seed_of(record)
        if seed in held:
            raise UserError(
                f"group {group.label}: seed {printable(str(seed))} occurs twice: "
                f"{held[seed].path} and {record.path}; name or move one of them"
            )
        held[seed] = record


def _obstacle(first: RunRecord, second: RunRecord) -> str | None:
    """Say what keeps two runs of a group from being averaged, or None.

    What a run did not note, an older one perhaps, is no obstacle.
    """
    facts: list[tuple[str, Callable[[RunRecord], Any]]] = [
        ("their data (sha256)", _data),
        ("precision", lambda r: r.summary.precision),
        ("number of parameters", lambda r: r.summary.parameters),
        ("tokenizer", _tokenizer),
        ("the checkpoint they began with (sha256)", _checkpoint),
    ]
    if all(r.summary.ended_by in BY_STEPS for r in (first, second)):
        facts.append(("steps", lambda r: r.step))
    for name, fact in facts:
        a, b = fact(first), fact(second)
        if a is not None and b is not None and a != b:
            return f"{name}: {short(str(a), 20)} and {short(str(b), 20)}"
    return None


def _data(record: RunRecord) -> Any:
    data = record.summary.data
    return str(data["sha256"]) if isinstance(data, dict) and data.get("sha256") else None


def _tokenizer(record: RunRecord) -> str | None:
    """Return what makes the tokens of a text: characters, or a hash; None if not noted."""
    data = record.summary.data
    return str(data.get("tokenizer", "characters")) if isinstance(data, dict) and data else None


def _checkpoint(record: RunRecord) -> Any:
    noted = record.summary.checkpoint
    return noted.get("sha256") if isinstance(noted, dict) else None


def warnings(groups: Sequence[Group]) -> list[str]:
    """List differences that do not forbid a comparison but belong beside it, a line each."""
    everything = [record for group in groups for record in group.records]
    facts: list[tuple[str, Callable[[RunRecord], Any]]] = [
        ("device", lambda r: r.summary.device),
        ("version of torch", _torch),
        ("git revision", lambda r: r.summary.git_revision),
    ]
    lines = []
    if all(map(_tuned, everything)):
        lines.append(
            f"all runs have {TUNE}=true: they were scored on a tenth of the training data, to "
            "choose settings; these are no values to report"
        )
    if bounds := [record for record in everything if is_bound(record)]:
        whose = (
            ""
            if len(bounds) == len(everything)
            else "; those of the other runs are exact, and a bound above one is no verdict"
        )
        lines.append(
            "losses of task=diffusion, in whatever unit, are upper bounds on the negative log "
            f"likelihood, estimated with random masks: exact values are no higher{whose}"
        )
    for name, fact in facts:
        if len(values := _values(everything, fact)) > 1:
            lines.append(f"the runs differ in {name}: {_listed(values)}")
    if len(values := _values(everything, _tokenizer)) > 1:
        lines.append(
            f"the runs have different tokenizers: {_listed(values)}; their losses are per token "
            "and do not compare, metric=val/bits_per_char does"
        )
    noted = [_data(record) is not None for record in everything]
    if any(noted) and not all(noted):
        lines.append(f"{noted.count(False)} of {len(noted)} runs did not note which data they saw")
    for key in ("trainer.max_steps", "trainer.max_epochs", "trainer.max_minutes"):
        if key in groups[0].settings:
            values = ", ".join(str(group.settings[key]) for group in groups)
            lines.append(f"the groups were not trained equally long: {key} is {printable(values)}")
    if keys := [key for key in groups[0].settings if _changes_the_task(key)]:
        lines.append(
            f"the groups differ in {', '.join(map(printable, keys))}: "
            "make sure that their values measure the same thing"
        )
    return lines


def _changes_the_task(key: str) -> bool:
    return key.startswith("task.") and not key.startswith(_HARMLESS)


def _torch(record: RunRecord) -> Any:
    packages = record.summary.packages
    return packages.get("torch") if isinstance(packages, dict) else None


def _values(records: Iterable[RunRecord], fact: Callable[[RunRecord], Any]) -> dict[str, int]:
    """Count the runs that have each value of a fact; those that do not note it are left out."""
    counts: dict[str, int] = {}
    for record in records:
        if (value := fact(record)) is not None:
            counts[str(value)] = counts.get(str(value), 0) + 1
    return counts


def _listed(counts: dict[str, int]) -> str:
    parts = [f"{short(k, 20)} ({n} run{'s'[: n > 1]})" for k, n in counts.items()]
    return ", ".join(parts)
