"""The pages' sections on studies: settings, values, remarks and curves of each."""

import re
from typing import Any

from docs.results import remarks, searches
from docs.results.old import EXPERIMENTS, picture, table
from docs.results.one_study import Study, comparison, shown
from docs.results.studies import STUDIES
from mambalab.compare.results import GroupResult
from mambalab.compare.text import interval
from mambalab.records import archive
from mambalab.records.reader import RunRecord
from mambalab.utils.text import printable


def _commit(revision: str | None) -> str:
    if revision is None:
        return "unknown"
    commit, plus, _ = revision.partition("+")
    return f"`{commit[:10]}`" + (" with uncommitted changes" if plus else "")


def _recorded_commands(of: Study) -> str:
    """The commands that made the runs, as they were typed, one a line."""
    records = archive.read(EXPERIMENTS / of.folder)
    made = sorted(
        {(_commits(record), record.summary.command or "(not recorded)") for record in records}
    )
    several = len({commits for commits, _ in made}) > 1
    commands = [f"{commits}: {command}" if several else command for commits, command in made]
    return "```text\n" + "\n".join(map(printable, commands)) + "\n```"


def _commits(record: RunRecord) -> str:
    """The commits of a run's sessions, as above its study."""
    return ", ".join(_commit(one).replace("`", "") for one in record.summary.revisions() or [None])


def facts(of: Study) -> str:
    """Machine, commit and what to bear in mind of a study's runs."""
    records = archive.read(EXPERIMENTS / of.folder)
    devices = sorted({record.summary.device or "unknown device" for record in records})
    revisions = {
        revision for record in records for revision in record.summary.revisions() or [None]
    }
    commits = sorted(map(_commit, revisions))
    steps = sorted({record.step or 0 for record in records})
    limits = sorted({str(record.summary.ended_by or "?") for record in records})
    loads = [record.summary.load for record in records if record.summary.load is not None]
    load = f"; load of the machine at the start up to {max(loads):.1f}" if loads else ""
    return (
        f"{'; '.join(devices)}; commit {', '.join(commits)}; "
        f"{', '.join(f'{s:,}' for s in steps)} steps, ended by {', '.join(limits)}{load}. "
        f"Record: `experiments/{of.folder}/{archive.ARCHIVE}`."
    )


def _setting(group: GroupResult, name: str) -> Any:
    return group.group.setting(name)


def _model(group: GroupResult) -> str:
    """Layers and their kinds, width, heads and parameters of a group's model."""
    pattern = str(_setting(group, "model.pattern") or "")
    layers = _setting(group, "model.n_layer")
    kinds = f" ({pattern} repeated)" if len(pattern) > 1 else f" ({pattern})" if pattern else ""
    parameters = f"{group.parameters:,.0f}" if group.parameters is not None else "?"
    return f"{layers} layers{kinds} of {_setting(group, 'model.d_model')}, {parameters}"


def _recipe(group: GroupResult) -> str:
    """Learning rate, batch, dropout, weight decay and averaging of a group."""
    rate, batch, p, ssm_p, decay, ema = (
        _setting(group, name)
        for name in (
            "optim.lr",
            "task.batch_size",
            "dropout.p",
            "dropout.ssm_p",
            "optim.weight_decay",
            "trainer.ema",
        )
    )
    told = f"lr {rate}, batch {batch}, p {p}"
    more = {"ssm_p": ssm_p or None, "weight decay": decay, "ema": ema}  # no decay is told, too
    found = [f"{name} {value}" for name, value in more.items() if value is not None]
    return ", ".join([told, *found])


def _row(group: GroupResult) -> list[str]:
    pair, budget = group.difference, remarks.budget(group)
    looks = f"{group.evaluations:.0f} look{'' if group.evaluations == 1 else 's'}"
    time = f"{group.minutes:.1f} min, {looks}" if group.minutes is not None else looks
    return [
        f"`{group.label}`" if group.label else "all",
        _model(group),
        _recipe(group),
        ", ".join(map(str, group.seeds)),
        interval(group.best),
        interval(group.last),
        interval(group.test),
        f"{budget / 1e6:.2f} M" if budget is not None else "-",
        time,
        interval(pair.estimate, sign="+") if pair else "-",
        group.verdict,
    ]


def section(of: Study, up: str) -> str:
    """Heading, command, table, remarks and curves of a recorded study."""
    found = comparison(of)
    head = [
        "group",
        "model, parameters",
        "settings",
        "seeds",
        f"best `{found.metric.name}`",
        "last",
        "test",
        "tokens",
        "time with evaluations, number of these",
    ]
    rows = [_row(group) for group in found.groups]
    lines = "\n".join(f"- {line}" for line in remarks.every(of, found))
    grid = table([*head, "difference of the best", "verdict"], rows)
    parts = [f"### {of.title}", shown(of.command), facts(of), _recorded_commands(of), grid, lines]
    parts.append(picture(up, of.curves, f"{found.metric.name} by step: {of.title}"))
    return "\n\n".join(part for part in parts if part)


def sections(up: str) -> str:
    """Studies whose values are to report: links, those with a record, the list of the others."""
    reported = [s for s in STUDIES if s.recorded and not s.tunes]
    links = "\n".join(f"- [{s.title}](#{_anchor(s.title)})" for s in reported)
    done = [section(s, up) for s in reported]
    waiting = [f"- {s.title}: {shown(s.command)}" for s in STUDIES if not s.recorded]
    rest = (
        "Not measured yet, because no record is there:\n\n" + "\n".join(waiting) if waiting else ""
    )
    return "\n\n".join([links, *done, rest])


def trials(up: str) -> str:
    """Studies that chose settings, on the tuning tenth."""
    return "\n\n".join(section(s, up) for s in STUDIES if s.recorded and s.tunes)


def _anchor(title: str) -> str:
    """Where a heading is linked to, on GitHub and on the site alike."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def unlisted() -> list[str]:
    """Records below `experiments/` that no study shows."""
    named = {s.folder for s in STUDIES}
    named |= {s.folder.relative_to(EXPERIMENTS).as_posix() for s in searches.every()}
    there = (path.parent.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob(archive.ARCHIVE))
    return sorted(folder.as_posix() for folder in there if folder.as_posix() not in named)


BLOCKS = {"studies": sections, "trials": trials}
