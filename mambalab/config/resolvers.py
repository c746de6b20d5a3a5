"""Interpolations of our own for YAML files: `${mambalab.data_dir:...}` and `${by_model:...}`."""

import functools
import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf

OTHER = "other"  # of by_model: for a model that is not listed
_MEANT_BY_OTHER = ("transformer_equal_depth",)
LOG = logging.getLogger("mambalab")

chosen_model: ContextVar[str | None] = ContextVar("chosen_model", default=None)
"""The option `model=...` of the configuration that is being composed."""


def _data_dir(default: str | None) -> str | None:
    """$MAMBALAB_DATA_DIR, else the default; an empty variable counts as none."""
    return os.environ.get("MAMBALAB_DATA_DIR") or default


def _by_model(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The value for the model of this run, by the option `model=...` that was chosen, else by
    `model.name`: a name that is for people decides nothing.

    An experiment gives each model its own best settings in this way; the command line has the last
    word, as over any value.

    Args:
        values: by option, as in `${by_model:{mamba:8e-3,other:2e-3}}`.

    Raises:
        ValueError: neither this model nor `other` is listed.
    """
    name = chosen_model.get() or _root_.model.name
    if name not in values and OTHER not in values:
        raise ValueError(f"no value for model={name}; add it, or {OTHER}, to the list")
    if name not in values and name not in _MEANT_BY_OTHER:
        _tell_other(name)
    return values.get(name, values.get(OTHER))


@functools.cache
def _tell_other(name: str) -> None:
    LOG.info("model=%s takes the values that this experiment has for other models (`other`)", name)


def register() -> None:
    """Make the interpolations known to OmegaConf."""
    OmegaConf.register_new_resolver("mambalab.data_dir", _data_dir, replace=True)
    OmegaConf.register_new_resolver("by_model", _by_model, replace=True)
