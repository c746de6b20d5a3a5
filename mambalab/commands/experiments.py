"""`mambalab experiments [WORD]`: the ready-made experiments, what each is for and how long."""

import shlex
from dataclasses import dataclass

from mambalab.config import paths
from mambalab.config.descriptions import about, is_sweep, listed
from mambalab.errors import UserError
from mambalab.settings.rules import option
from mambalab.utils import console

GROUP = "experiment"


@dataclass
class ExperimentsSettings:
    """`mambalab experiments [WORD]`."""

    match: str | None = option("only those with this word in their name; null = all")


def words(before: list[str]) -> list[str]:
    """First parts of the names, for completion."""
    names = paths.options(GROUP) if not before else []
    return list(dict.fromkeys(name.partition("/")[0] for name in names))


def run(cfg: ExperimentsSettings) -> int:
    """Print name and purpose of each, and how to start one; returns 0.

    Raises:
        UserError: none has the word in its name.
    """
    names = [name for name in paths.options(GROUP) if (cfg.match or "") in name]
    if not names:
        raise UserError(
            f"experiments: none has {cfg.match} in its name; mambalab experiments lists all"
        )
    shown = [(f"{name} (-m)" if is_sweep(name) else name, about(GROUP, name)) for name in names]
    console.result(listed(shown))
    example = next((name for name in names if not is_sweep(name)), names[0])
    flag = "-m " if is_sweep(example) else ""
    console.result(f"\nmambalab train {flag}{shlex.quote(f'{GROUP}={example}')}")
    if any(is_sweep(name) for name in names):
        console.result("(-m) are sweeps of several runs: mambalab train -m experiment=NAME")
    return 0
