"""Settings in the words of the field, for pictures: `SSM dropout`, `learning rate 4.63e-4`."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mambalab.records.reader import RunRecord
from mambalab.utils.text import printable, short

DIGITS = 3  # significant ones of a number
MAX_VALUE_CHARS = 40
_KEYS = {
    "data_fraction": "share of the data",
    "dropout.p": "dropout p",
    "dropout.ssm_p": "SSM dropout p",
    "model.d_conv": "convolution width",
    "model.d_model": "width",
    "model.d_state": "state size",
    "model.n_head": "heads",
    "model.n_layer": "layers",
    "model.pretrained": "begins with",
    "optim.kind": "optimiser",
    "optim.lr": "learning rate",
    "optim.name": "optimiser",
    "optim.warmup_steps": "warm-up steps",
    "task.batch_size": "batch size",
    "task.name": "task",
    "task.seq_len": "sequence length",
    "task.tune": "tuning",
    "trainer.max_epochs": "epochs",
    "trainer.max_minutes": "minutes",
    "trainer.max_steps": "steps",
}
_VALUES = {
    "model.name": {
        "mamba": "Mamba",
        "transformer": "Transformer",
        "transformer_equal_depth": "Transformer of equal depth",
        "hybrid": "hybrid",
    },
    "dropout.name": {
        "none": "no dropout",
        "standard": "standard dropout",
        "ssm": "SSM dropout",
        "ssm_only": "SSM dropout only",
        "ssm_no_reset": "SSM dropout without reset",
    },
    "model.bidirectional": {"true": "reading both ways", "false": "reading one way"},
    "model.position_embedding": {"true": "learned positions", "false": "no learned positions"},
}
_NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)(e[-+]?\d+)?", re.IGNORECASE)


def key_in_words(key: str) -> str:
    """Name a setting: `learning rate` for `optim.lr`."""
    leaf = key.rpartition(".")[2]
    return _KEYS.get(key) or printable(leaf.replace("_", " "))


def in_words(key: str, value: str) -> str:
    """Say what a setting is: `SSM dropout`, `learning rate 0.001`."""
    if key in _VALUES:
        known = _VALUES[key].get(value)
        return known or f"{key.partition('.')[0]} {short(value, MAX_VALUE_CHARS)}"
    name = key_in_words(key)
    return f"{name}{' = ' if name.endswith(' p') else ' '}{short(value, MAX_VALUE_CHARS)}"


def brief(values: Sequence[str]) -> list[str]:
    """Write the values of one setting with few digits, as many as tell them apart.

    Texts and numbers that are short already stay as they are: `0.0004628899` is `4.63e-4`.
    """
    for digits in range(DIGITS, 17):
        shown = [brief_number(value, digits) for value in values]
        if len(set(shown)) == len(set(values)):
            return shown
    return list(values)


def brief_number(value: str, digits: int = DIGITS) -> str:
    """Write a number that has more digits than these with these; other texts as they are."""
    if not _NUMBER.fullmatch(value):
        return value
    mantissa = re.sub(r"[^\d]", "", value.lower().partition("e")[0]).strip("0")
    number = float(value)
    if len(mantissa) <= digits or re.fullmatch(r"[-+]?\d+", value) or not math.isfinite(number):
        return value
    if 1e-3 <= abs(number) < 1e5:
        return f"{number:.{digits}g}" if abs(number) < 10**digits else f"{number:.0f}"
    left, _, power = f"{number:.{digits - 1}e}".partition("e")
    return f"{left}e{int(power)}"


def unit_of_loss(run: RunRecord | None) -> str:
    """Return the unit of a run's loss: nats, of a text task for each character or token."""
    task: Any = run.config.get("task") if run is not None else None
    if not isinstance(task, dict):
        return "nats"
    ours = str(task.get("_target_")).startswith("mambalab.tasks.text.")
    if not ours and "tokenizer" not in task:
        return "nats"
    assert run is not None
    named, weights = task.get("tokenizer"), run.setting("model.pretrained")
    per_character = named == "char" or (named is None and weights is None)
    return "nats per character" if per_character else "nats per token"


def one_unit_of_loss(runs: Iterable[RunRecord]) -> str:
    """Return the unit of the losses of several runs; `nats` if they differ."""
    units = {unit_of_loss(run) for run in runs}
    return units.pop() if len(units) == 1 else "nats"
