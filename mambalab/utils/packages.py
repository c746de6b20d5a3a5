"""Packages that not everybody has, or that cannot be loaded just now."""

from mambalab.errors import first_line
from mambalab.utils.memory import shortage


def why_not_imported(error: ImportError) -> str:
    """Say why a package that need not be there cannot be used, to complete "PACKAGE is ...".

    Absence is told apart from a package that is there and fails, for want of a library, say.

    Raises:
        ImportError: `error` itself, if memory ran out: that says nothing about the package.
    """
    if shortage(error) is not None:
        raise error
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({first_line(error)})"
    return f"installed, but cannot be imported ({first_line(error)})"
