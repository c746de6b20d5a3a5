"""Runs that differ in nothing but their seed, put together and named by what tells them apart."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mambalab.config.schema import means_absent
from mambalab.plots.words import brief
from mambalab.records.reader import RunRecord
from mambalab.utils.mapping import flatten
from mambalab.utils.text import printable, short

ABSENT = "absent"  # shown for a setting that a run lacks (an older version made it, perhaps)
MAX_VALUE_CHARS = 40  # of a value that a label shows
MAX_DEPTH = 9  # parts of a dotted name; YAML that nests deeper (in itself, perhaps) is one value


@dataclass(frozen=True)
class Group:
    """Runs with equal settings.

    Attributes:
        label: the settings that tell it from the other groups: `model=mamba dropout.p=0.2`.
        settings: every setting in which the groups differ, by dotted name, as text.
        records: the finished runs, by seed.
        failed: runs with the same settings that failed or never gave a finite value, by seed.
        told: the settings of the label, with values of few digits.
    """

    label: str
    settings: dict[str, str]
    records: list[RunRecord]
    failed: list[RunRecord] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    def setting(self, name: str) -> Any:
        """Return a setting of these runs by its dotted name, or None."""
        return self.records[0].setting(name)


def split(
    records: Sequence[RunRecord],
    ignore: Callable[[str], bool],
    failed: Sequence[RunRecord] = (),
) -> list[Group]:
    """Sort runs into groups, in the order in which the groups appear.

    Args:
        records: the runs.
        ignore: whether a setting, by its dotted name, makes no other group (the seed is one).
        failed: runs without a result; each joins the group of its settings, if there is one.
    """
    flat = [relevant(record, ignore) for record in records]
    common = set.intersection(*map(set, flat)) if flat else set()
    # Null says no more than the absence of a setting, in a run of an older version perhaps.
    flat = [{k: v for k, v in s.items() if v is not None or k in common} for s in flat]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    texts = [{key: as_text(settings, key) for key in keys} for settings in flat]
    differing = [key for key in keys if len({t[key] for t in texts}) > 1]
    members: dict[tuple[str, ...], list[int]] = {}
    for i, text in enumerate(texts):
        members.setdefault(tuple(text[key] for key in differing), []).append(i)
    rows = [dict(zip(differing, values, strict=True)) for values in members]
    told = _told(rows)
    labels = _labels(told, records)
    lost: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in failed:
        settings = relevant(record, ignore)
        settings = {k: v for k, v in settings.items() if v is not None or k in common}
        text = {key: as_text(settings, key) for key in keys}
        if all(text[key] == texts[0][key] for key in keys if key not in differing):
            lost.setdefault(tuple(text[key] for key in differing), []).append(record)
    return [
        Group(
            label,
            row,
            sorted((records[i] for i in indices), key=_by_seed),
            sorted(lost.get(values, []), key=_by_seed),
            words,
        )
        for label, row, words, (values, indices) in zip(
            labels, rows, told, members.items(), strict=True
        )
    ]


def relevant(record: RunRecord, ignore: Callable[[str], bool]) -> dict[str, Any]:
    """Return the settings of a run that may make another group, by dotted name."""
    settings = flatten(record.config, max_depth=MAX_DEPTH)
    # A value that means "as before" says no more than the absence in an older run.
    return {
        k: v
        for k, v in settings.items()
        if not ignore(k) and (v is None or not means_absent(k, settings))
    }


def as_text(settings: Mapping[str, Any], key: str) -> str:
    """Write a value as text, equal for equal values only."""
    if key not in settings:
        return ABSENT
    value = settings[key]
    if isinstance(value, str) and value in (ABSENT, "null", "true", "false"):
        return repr(value)
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _by_seed(record: RunRecord) -> tuple[bool, float, str]:
    seed = record.setting("seed")
    known = isinstance(seed, (int, float))
    return (not known, seed if known else 0, str(record.path))


def _told(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return, of each row, what tells it from the others, numbers with as few digits as that
    takes."""
    if len(rows) == 1:
        return [{}]
    columns = {key: brief([row[key] for row in rows]) for key in telling(rows)}
    return [{key: values[i] for key, values in columns.items()} for i in range(len(rows))]


def _labels(told: list[dict[str, str]], records: Sequence[RunRecord]) -> list[str]:
    if len(told) == 1:
        names = [(k, records[0].setting(f"{k}.name")) for k in ("model", "dropout")]
        label = " ".join(f"{k}={short(str(v), MAX_VALUE_CHARS)}" for k, v in names if v is not None)
        return [label or "all runs"]
    labels = []
    for row in told:
        words = [f"{shown(key)}={short(value, MAX_VALUE_CHARS)}" for key, value in row.items()]
        labels.append(" ".join(words))
    return [  # values that were cut may have become equal
        label if labels.count(label) == 1 else f"{label} #{labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]


def telling(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Choose few settings that tell all rows apart: names of groups where they do, then others.

    Greedily, the one that parts most first; what later ones made superfluous is left out again,
    a name only if a setting of its own group did.
    """
    keys = list(rows[0])
    names = [key for key in keys if key.endswith(".name")]
    chosen: list[str] = []
    for candidates in (names, [key for key in keys if key not in names]):
        while best := _most_telling(rows, chosen, candidates):
            chosen.append(best)
    for key in reversed(chosen):
        rest = [k for k in chosen if k != key]
        group = key.partition(".")[0] + "."
        replaced = key not in names or any(k.startswith(group) for k in rest)
        if replaced and _kinds(rows, rest) == _kinds(rows, chosen):
            chosen = rest
    return sorted(chosen, key=keys.index)


def _most_telling(
    rows: Sequence[Mapping[str, str]], chosen: list[str], candidates: list[str]
) -> str | None:
    """Find the candidate that parts the rows most beyond what is chosen; None if none does."""
    gains = {key: _kinds(rows, [*chosen, key]) for key in candidates}
    best = max(gains, key=lambda key: gains[key], default=None)  # the first of equals
    return best if best is not None and gains[best] > _kinds(rows, chosen) else None


def _kinds(rows: Sequence[Mapping[str, str]], keys: list[str]) -> int:
    """Count the kinds of rows that these settings tell apart."""
    return len({tuple(row[key] for key in keys) for row in rows})


def shown(key: str) -> str:
    """Write the name of a setting; the name of a group's option is that of the group."""
    return printable(key.removesuffix(".name") if key.count(".") == 1 else key)
