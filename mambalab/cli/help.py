"""The text of `mambalab VERB --help`: every group and option, with value and one line of help."""

import json
import shutil
import textwrap
from enum import Enum
from typing import Any

from omegaconf import OmegaConf

from mambalab.cli.verbs import Verb
from mambalab.config import paths
from mambalab.config.axes import LAUNCHER, SWEEP, axes
from mambalab.config.compose import Composed, compose_parts
from mambalab.config.descriptions import about, listed
from mambalab.config.messages import choices, strip_optional
from mambalab.config.overrides import prepare
from mambalab.config.schema import Option, TrainConfig, task_settings, walk
from mambalab.settings.sweep import LAUNCHERS, LauncherSettings, SweepSettings


def verb_help(verb: Verb, overrides: list[str], multirun: bool = False) -> str:
    """The help of a verb, as its settings are after `overrides`.

    Args:
        verb: the verb.
        overrides: as on the command line.
        multirun: whether they may list values (`-m`); of several the first counts.

    Raises:
        UserError: the overrides are wrong.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    multirun |= any(o.startswith(("hydra/launcher", LAUNCHER, SWEEP)) for o in overrides)
    cls = verb.settings_class()
    prepared = prepare(verb.name, overrides, multirun, cls)
    if multirun:
        prepared = [words[0] for words in axes(prepared).values()]
    found = compose_parts(verb.name, prepared, cls, checked=False)
    chosen = found.choices
    lines = [f"mambalab {verb.name}: {verb.summary}", ""]
    lines += [f"usage: mambalab {verb.name} {verb.usage}"]
    if chosen:
        lines += ["", "groups (* = chosen; GROUP=OPTION chooses)"]
        for group, names in paths.groups().items():
            marked = [f"{n}*" if n == chosen.get(group) else n for n in names]
            lines += _row(f"  {group:16}", "  ".join(marked), width)
        lines += ["", "what these options are", *_options_of_groups(width)]
    lines += ["", "options (with their values; KEY=VALUE sets one)"]
    lines += _options(cls, found, width)
    if verb.note:
        lines += ["", *textwrap.wrap(verb.note, width)]
    if verb.examples:
        lines += ["", "examples", *(f"  mambalab {example}" for example in verb.examples)]
    return "\n".join(lines)


def _options_of_groups(width: int) -> list[str]:
    """A line or more for each option of each group, as its YAML says what it is for."""
    lines = []
    for group, names in paths.groups().items():
        shown = listed([(name, about(group, name)) for name in names], width - 4)
        lines += [f"  {group}", *(f"    {line}" for line in shown.splitlines())]
    return lines


def _options(cls: type, found: Composed, width: int) -> list[str]:
    """A line or more for each setting: key, value, help; sections by group."""
    cfg: Any = found.config
    replace: dict[str, type] = {}
    more: list[Option] = []
    if issubclass(cls, TrainConfig):
        task = OmegaConf.to_container(cfg.task)
        assert isinstance(task, dict)
        replace["task"] = task_settings({str(k): v for k, v in task.items()})
    if cls is TrainConfig:
        launcher = LAUNCHERS.get(found.choices.get(paths.LAUNCHER_GROUP, ""), LauncherSettings)
        more = [*walk(SweepSettings, prefix=SWEEP), *walk(launcher, prefix=LAUNCHER)]
        parts = {"sweep": found.sweep, "hydra": {"launcher": found.launcher}}
        cfg = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), parts)
    options = [*walk(cls, replace), *more]
    options.sort(key=lambda o: "." in o.key)  # a stable sort: top-level keys first
    values = {o.key: _show(OmegaConf.select(cfg, o.key)) for o in options}
    key_width = max(map(len, values)) + 2
    value_width = min(max(map(len, values.values())), 16) + 2
    lines, section = [], ""
    for option in options:
        head, _, _ = option.key.rpartition(".")
        if head != section:
            lines.append("")
            section = head
        start = f"  {option.key:{key_width}}{values[option.key]:{value_width}}"
        wide = 2 + key_width + value_width
        if len(values[option.key]) >= value_width:  # a long value has the line for itself
            lines.append(start.rstrip())
            start = " " * wide
        lines += _row(start, _explain(option), width)
    return lines


def _explain(option: Option) -> str:
    """The help of an option, with the words that it can be."""
    kind = strip_optional(option.type)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{option.help} ({' | '.join(choices(kind))})"
    return option.help


def _show(value: Any) -> str:
    """A value as it is written on the command line."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return value if value and value.isprintable() and " " not in value else json.dumps(value)
    return json.dumps(value)


def _row(start: str, text: str, width: int) -> list[str]:
    """`start` and then `text`, wrapped below itself."""
    room = max(width - len(start), 20)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    indent = " " * len(start)
    return [(start if i == 0 else indent) + line for i, line in enumerate(wrapped)]
