"""How settings are declared: typed dataclass fields without defaults, each with one line of help.

The values live once, in the YAML files under `conf/`; a field without a value there is an error,
so the code never holds a second default.
"""

from dataclasses import field
from typing import Any

from omegaconf import MISSING


def option(help: str) -> Any:
    """A setting whose value comes from YAML; `help` is the line `--help` prints for it."""
    return field(default=MISSING, metadata={"help": help})
