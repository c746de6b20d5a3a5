"""Settings of tasks (no torch here: the command line reads this)."""

from dataclasses import dataclass
from typing import Any

from mambalab.settings import NAME, NAME_HINT, option


@dataclass
class TaskSettings:
    """What every task has; a class of your own finds its free options in `params`."""

    name: str = option("name of the task in run folders and reports", match=NAME, hint=NAME_HINT)
    _target_: str = option("class that builds the task; your own class may stand here")
    batch_size: int = option("sequences in a training batch", ge=1)
    eval_batch_size: int = option("sequences in an evaluation batch", ge=1)
    params: dict[str, Any] = option("free options for a class of your own")


@dataclass
class TextSettings(TaskSettings):
    """Character-level language modelling of one text."""

    path: str | None = option(
        "UTF-8 text file; null = the text that comes with the task",
        match=r"[\s\S]+",
        hint="the path of a file, or null",
    )
    seq_len: int = option("characters in a training window", ge=1)
    val_fraction: float = option("share at the end of the text held out for validation", gt=0, lt=1)
