"""The text of `mambalab VERB --help`: every group and option, with value and one line of help."""

import json
import shutil
import textwrap
from enum import Enum
from typing import Any

from omegaconf import OmegaConf

from mambalab.config import paths
from mambalab.config.compose import Composed, compose_parts
from mambalab.config.messages import choices, strip_optional
from mambalab.config.overrides import LAUNCHER, SWEEP, prepare
from mambalab.config.schema import Option, settings_class, task_settings, walk
from mambalab.settings.sweep import LAUNCHERS, LauncherSettings, SweepSettings

USAGE = {
    "bench": "mambalab bench scan|train|generate|data|tracking [KEY=VALUE ...] [--cfg job]",
    "train": "mambalab train [-m] [GROUP=OPTION ...] [KEY=VALUE ...] [--cfg job]",
    "data": "mambalab data [list | fetch NAME | verify NAME] [KEY=VALUE ...]",
    "sync": "mambalab sync RUN ... [KEY=VALUE ...]",
    "compare": "mambalab compare PATH ... [KEY=VALUE ...]",
}
EXAMPLES = {
    "train": [
        "mambalab train experiment=quickstart",
        "mambalab train task=shakespeare model=mamba dropout=ssm",
        "mambalab train task=text task.path=book.txt optim.lr=1e-3 trainer.max_minutes=5",
        "mambalab train -m model=mamba,transformer seed=1,2,3 hydra/launcher=joblib",
    ],
    "runs": ["mambalab runs", "mambalab runs output_dir=/data/outputs"],
    "compare": [
        "mambalab compare latest",
        "mambalab compare outputs/shakespeare/mamba baseline=dropout=none to=1.6",
        "mambalab compare mlflow=shakespeare interval=bootstrap",
    ],
    "eval": ["mambalab eval", "mambalab eval run=outputs/text/mamba/ssm-0f3a9c21-s1 split=val"],
    "generate": [
        'mambalab generate prompt="ROMEO:"',
        "mambalab generate pretrained=state-spaces/mamba-130m-hf prompt=Mamba",
        "mambalab generate run=latest temperature=0.5 top_k=20 max_new_tokens=1000",
    ],
    "inspect": [
        'mambalab inspect text="To be, or not to be"',
        'mambalab inspect pretrained=exported text="ROMEO:"',
        "mambalab inspect run=outputs/mnist/mamba/standard-0f3a9c21-s1 index=7",
    ],
    "export": [
        "mambalab export run=latest out=exported",
        "mambalab export to=original out=exported overwrite=true",
    ],
    "data": ["mambalab data list", "mambalab data fetch shakespeare"],
    "sync": ["mambalab sync latest", "mambalab sync outputs/text/mamba/ssm-0f3a9c21-s1"],
    "bench": [
        "mambalab bench scan",
        "mambalab bench generate lengths=[256,4096] batches=[1]",
        "mambalab bench data tasks=[mnist]",
    ],
    "doctor": ["mambalab doctor", "mambalab doctor data_dir=/data"],
    "ui": ["mambalab ui", "mambalab ui port=5001"],
}
NOTES = {
    "train": "The same command finds its own run again: a finished one is left alone, a partial "
    "one goes on. -m runs every combination of values separated by commas, as one sweep that the "
    "same command takes up again. A folder ./conf adds "
    "options to the groups or replaces them by name, and may name classes of your own as "
    "_target_: my_module.MyTask.",
}


def verb_help(verb: str, summary: str, overrides: list[str]) -> str:
    """The help of a verb, as its settings are after `overrides`.

    Raises:
        UserError: the overrides are wrong.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    multirun = any(o.startswith(("hydra/launcher", LAUNCHER, SWEEP)) for o in overrides)
    found = compose_parts(verb, prepare(verb, overrides, multirun), checked=False)
    chosen = found.choices
    lines = [f"mambalab {verb}: {summary}", ""]
    lines += [f"usage: {USAGE.get(verb, f'mambalab {verb} [KEY=VALUE ...] [--cfg job]')}"]
    if chosen:
        lines += ["", "groups (* = chosen; GROUP=OPTION chooses)"]
        for group, names in paths.groups().items():
            marked = [f"{n}*" if n == chosen.get(group) else n for n in names]
            lines += _row(f"  {group:16}", "  ".join(marked), width)
    lines += ["", "options (with their values; KEY=VALUE sets one)"]
    lines += _options(verb, found, width)
    if verb in NOTES:
        lines += ["", *textwrap.wrap(NOTES[verb], width)]
    lines += ["", "examples", *(f"  {example}" for example in EXAMPLES[verb])]
    return "\n".join(lines)


def _options(verb: str, found: Composed, width: int) -> list[str]:
    cfg: Any = found.config
    replace: dict[str, type] = {}
    more: list[Option] = []
    if verb == "train":
        task = OmegaConf.to_container(cfg.task)
        assert isinstance(task, dict)
        replace["task"] = task_settings({str(k): v for k, v in task.items()})
        launcher = LAUNCHERS.get(found.choices.get(paths.LAUNCHER_GROUP, ""), LauncherSettings)
        more = [*walk(SweepSettings, prefix=SWEEP), *walk(launcher, prefix=LAUNCHER)]
        parts = {"sweep": found.sweep, "hydra": {"launcher": found.launcher}}
        cfg = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), parts)
    options = [*walk(settings_class(verb), replace), *more]
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
    kind = strip_optional(option.type)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{option.help} ({' | '.join(choices(kind))})"
    return option.help


def _show(value: Any) -> str:
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
