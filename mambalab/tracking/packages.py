"""Trackers whose packages not everybody has: found, or told in one line how to get them."""

import importlib.util

from mambalab.errors import UserError
from mambalab.utils import packages


def require(name: str) -> None:
    """Check that the package of a tracker is installed and new enough, without importing it.

    Args:
        name: of the package, of the extra of mambalab that brings it, and of the tracker.

    Raises:
        UserError: it is not, or it is too old; names the command that mends that.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder of that name is no package
        install = packages.pip_install(f"'mambalab[{name}]'")
        raise UserError(
            f"tracking={name} needs the package {name}, which is not installed: {install}, "
            "or use tracking=jsonl"
        )
    packages.require(name, extra=name)
