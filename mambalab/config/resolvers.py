"""Interpolations of our own for YAML files: `${mambalab.data_dir:...}` and `${by_model:...}`."""

import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

OTHER = "other"  # of by_model: for a model that is not listed


def _data_dir(default: str | None) -> str | None:
    """$MAMBALAB_DATA_DIR, else the default; an empty variable counts as none."""
    return os.environ.get("MAMBALAB_DATA_DIR") or default


def _by_model(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The value for the model of this run, by `model.name`.

    An experiment gives each model its own best settings in this way; the command line has the last
    word, as over any value.

    Args:
        values: by name of the model, as in `${by_model:{mamba:8e-3,other:2e-3}}`.

    Raises:
        ValueError: neither this model nor `other` is listed.
    """
    name = _root_.model.name
    if name not in values and OTHER not in values:
        raise ValueError(f"no value for model.name={name}; add it, or {OTHER}, to the list")
    return values.get(name, values.get(OTHER))


def register() -> None:
    """Make the interpolations known to OmegaConf."""
    OmegaConf.register_new_resolver("mambalab.data_dir", _data_dir, replace=True)
    OmegaConf.register_new_resolver("by_model", _by_model, replace=True)
