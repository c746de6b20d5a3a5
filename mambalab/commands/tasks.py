"""`mambalab tasks`: the tasks, and what each asks of a model."""

from dataclasses import dataclass

from mambalab.config import paths
from mambalab.config.descriptions import about, listed
from mambalab.errors import UserError
from mambalab.settings.rules import option
from mambalab.utils import console

GROUP = "task"


@dataclass
class TasksSettings:
    """`mambalab tasks [WORD]`."""

    match: str | None = option("only those with this word in their name; null = all")


def run(cfg: TasksSettings) -> int:
    """Print name and purpose of each, and how to train on one; returns 0.

    Raises:
        UserError: none has the word in its name.
    """
    names = [name for name in paths.options(GROUP) if (cfg.match or "") in name]
    if not names:
        raise UserError(f"tasks: none has {cfg.match} in its name; mambalab tasks lists all")
    console.result(listed([(name, about(GROUP, name)) for name in names]))
    console.result(f"\nmambalab train task={names[0]}        mambalab train task={names[0]} --help")
    return 0
