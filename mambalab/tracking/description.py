"""How MLflow is told about a run or a sweep: experiment, parameters, tags."""

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mambalab.utils.mapping import flatten
from mambalab.utils.secrets import hide_password

# Entries of summary.json that become tags.
SUMMARY_TAGS = ("device", "precision", "backend", "git_revision", "task", "model", "dropout")
LABELS = ("name", "tags", "note")  # of settings: see `labels_of`
RUN_NAME, DESCRIPTION = "mlflow.runName", "mlflow.note.content"  # MLflow's own tags
DEFAULT_EXPERIMENT = "mambalab"
MAX_PARAM_CHARS = 6000  # MLflow's own limits
MAX_NAME_CHARS = 250


@dataclass(frozen=True)
class Description:
    """What an MLflow run is created with.

    Attributes:
        experiment: name of the MLflow experiment.
        params: from `params_of`.
        tags: of the run.
        start_ms: start of the run, Unix milliseconds.
    """

    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    start_ms: int


def experiment_name(chosen: object, task: object) -> str:
    """Name the experiment: as `tracking.experiment_name` says, else after the task."""
    return str(chosen or task or DEFAULT_EXPERIMENT)


def tags_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run, taken from its summary.json."""
    return {name: str(summary[name]) for name in SUMMARY_TAGS if summary.get(name)}


def own_tags() -> dict[str, str]:
    """Return the tags with which MLflow's pages say who made a run, and with what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    return {
        "mlflow.user": user,
        "mlflow.source.name": "mambalab",
        "mlflow.source.type": "LOCAL",
    }


def labels_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what MLflow shows of a run's labels: its name, its tags in one, its description.

    Args:
        config: settings of the run; a label that is None is not touched in the store.
    """
    tags = config.get("tags")
    found = {
        RUN_NAME: config.get("name"),
        "tags": ", ".join(map(str, tags)) if isinstance(tags, list) else None,
        DESCRIPTION: config.get("note"),
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def without_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the labels, and the look of pictures, which may change, as MLflow's
    parameters may not."""
    return {key: value for key, value in config.items() if key not in (*LABELS, "figure")}


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as MLflow parameters: dotted names, texts of at most 6000 characters.

    Passwords in URLs are left out; characters that MLflow's names cannot hold become `_`.
    """
    params: dict[str, str] = {}
    for name, value in flatten(config).items():
        text = hide_password("null" if value is None else str(value))
        params[re.sub(r"[^\w.\-/ :]", "_", name)[:MAX_NAME_CHARS]] = cut(text, MAX_PARAM_CHARS)
    return params


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters; one that was cut ends in an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
