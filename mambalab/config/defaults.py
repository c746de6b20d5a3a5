"""What a run's settings would be without its own: the values of the options that it chose."""

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from mambalab.config import paths
from mambalab.config.compose import compose_parts
from mambalab.config.identity import may_change
from mambalab.config.overrides import prepare
from mambalab.config.schema import complete, means_absent
from mambalab.utils.mapping import flatten

CHOSEN = ("task", "model", "dropout", "optim")  # groups whose option a run's settings name
# What may change and says something of the result all the same.
_TELLING = ("trainer.max_", "device")


def changed(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the settings of a run that differ from those of the options that it chose.

    Where a run is kept and what people call it is left out. Of an option that is not there (a
    user's own, of another folder) every setting counts, against nothing: None.

    Args:
        config: config.yaml as plain data, an older run's perhaps.

    Returns:
        Value of the run and of its options, by dotted name, in the run's order.

    Raises:
        UserError: a YAML file in ./conf is wrong.
    """
    own = copy.deepcopy(dict(config))
    task = own.get("task")
    if isinstance(task, dict) and not isinstance(task.get("_target_", ""), str):  # damaged
        task["_target_"] = str(task["_target_"])
    complete(own)
    words = []
    for group in CHOSEN:
        part = own.get(group)
        name = part.get("name") if isinstance(part, Mapping) else None
        if isinstance(name, str) and name in paths.options(group):
            words.append(f"{group}={name}")
    named = {word.partition("=")[0] for word in words}
    composed = compose_parts("train", prepare("train", words), checked=False).config
    plain = OmegaConf.to_container(composed, enum_to_str=True)
    assert isinstance(plain, dict)
    usual = flatten(plain)
    flat = flatten(own)
    found = {}
    for key, value in flat.items():
        group = key.partition(".")[0]
        other = usual.get(key) if group not in CHOSEN or group in named else None
        same = value == other or (
            key in usual and means_absent(key, flat) and means_absent(key, usual)
        )
        if not same and (not may_change(key) or key.startswith(_TELLING)):
            found[key] = (value, other)
    return found
