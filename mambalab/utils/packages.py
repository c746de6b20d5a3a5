"""Packages that not everybody has, that are too old, or that cannot be loaded just now."""

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError, first_line
from mambalab.utils.memory import shortage

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PROJECT = {"hydra": "hydra-core", "PIL": "pillow", "yaml": "pyyaml"}
"""Names on the package index, where they differ from the name to import."""


_CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"
"""Where a torch that is made for CPUs alone came from, and has to come from again."""


def pip_install(words: str) -> str:
    """Write the command that installs something for the Python that runs.

    That is plain `pip install` only where the `pip` that a shell finds is this Python's.

    Args:
        words: what follows `install`, quoted for a shell.
    """
    here, found = Path(sys.executable), shutil.which("pip")
    if found is not None and Path(found).parent == here.parent:
        return f"pip install {words}"
    if importlib.util.find_spec("pip") is not None:
        return f"{shlex.quote(str(here))} -m pip install {words}"
    return f"uv pip install --python {shlex.quote(str(here))} {words}"


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


def requirements(extra: str = "") -> list["Requirement"]:
    """The packages that mambalab declares for this machine, with the versions that it needs.

    Args:
        extra: of mambalab, for what that one adds; empty = what everybody needs.

    Returns:
        Nothing where mambalab runs from a folder and was never installed.
    """
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires("mambalab") or []]
    except metadata.PackageNotFoundError:
        return []

    def applies(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    everybody = [requirement for requirement in declared if applies(requirement, "")]
    if not extra:
        return everybody
    return [r for r in declared if r not in everybody and applies(r, extra)]


def obstacle(requirement: "Requirement") -> str | None:
    """What is wrong with a package's version and the command that mends it; None if nothing is.

    Whether it is there at all is for its import to say.
    """
    from packaging.version import InvalidVersion, Version

    name, needed = requirement.name, str(requirement.specifier)
    try:
        found = metadata.metadata(name)
        version = found["Version"] if found and "Version" in found else ""
        Version(version)
    except metadata.PackageNotFoundError:
        return None
    except (InvalidVersion, FileNotFoundError):  # left by an installation that was interrupted
        return f"{name} is installed, and the record of its version is damaged: " + pip_install(
            f"--force-reinstall --no-deps '{name}{needed}'"
        )
    if requirement.specifier.contains(version, prereleases=True):
        return None
    index = f" {_CPU_INDEX}" if name == "torch" and version.endswith("+cpu") else ""
    return f"{name} {version} is installed, and mambalab needs {needed}: " + pip_install(
        f"--upgrade '{name}{needed}'{index}"
    )


def require(*names: str, extra: str = "") -> None:
    """Check that packages are new enough, without importing them.

    Args:
        names: of packages that mambalab declares; others are left alone.
        extra: of mambalab that declares them; empty = the packages that everybody needs.

    Raises:
        UserError: one is too old; names the command that mends it.
    """
    for requirement in requirements(extra):
        if (
            _plain(requirement.name) in map(_plain, names)
            and (why := obstacle(requirement)) is not None
        ):
            raise UserError(why)


def told(error: ImportError) -> str | None:
    """One line about a package that is missing or cannot be imported, with what mends it.

    Returns:
        None if no package is to blame, but mambalab itself or code of the user's.

    Raises:
        ImportError: `error` itself, if memory ran out.
    """
    installed = metadata.packages_distributions()
    if (name := _to_blame(error, installed)) is None:
        return None
    if _declared() is None and isinstance(error, ModuleNotFoundError) and _is_ours(error):
        folder = shlex.quote(str(Path(__file__).resolve().parents[2]))
        return (
            f"{name} is {why_not_imported(error)}, nor was mambalab itself installed for "
            f"{sys.executable}: run the Python of the environment that has it, or "
            f"{pip_install(f'--editable {folder}')}"
        )
    flags = "--upgrade" + " --force-reinstall" * (not isinstance(error, ModuleNotFoundError))
    mend = pip_install(f"{flags} {_project(name, installed)}")
    return f"{name} is {why_not_imported(error)}: {mend}"


def _to_blame(error: ImportError, installed: Mapping[str, list[str]]) -> str | None:
    """The package that is missing, or whose own code could not be imported.

    Returns:
        The name to import it by; None if it is mambalab itself, or code of the user's.
    """
    asking, ours = _asking(error), _is_ours(error)
    if not ours and asking not in installed:
        return None
    if ours or isinstance(error, ModuleNotFoundError):
        blamed = (error.name or "").partition(".")[0]
    else:
        blamed = asking
    if not blamed or blamed == "mambalab":
        return None
    declared = _declared()
    known = declared is None or _plain(_project(blamed, installed)) in declared
    return blamed if known or not ours else None


def _declared() -> set[str] | None:
    """Names of the packages that are declared, read without a package that may be missing.

    Those of extras are left out; markers of systems are not read.

    Returns:
        None where mambalab runs from a folder and was never installed.
    """
    try:
        lines = metadata.requires("mambalab") or []
    except metadata.PackageNotFoundError:
        return None
    names = (re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line)
    return {_plain(name.group()) for name in names if name is not None}


def _is_ours(error: ImportError) -> bool:
    """Whether the import that failed stands in mambalab's own code."""
    return _asking(error) == "mambalab"


def _asking(error: ImportError) -> str:
    """The package whose code holds the import that failed."""
    asking, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__") or ""
        if not module.startswith("importlib"):
            asking = module.partition(".")[0]
        trace = trace.tb_next
    return asking


def _project(name: str, installed: Mapping[str, list[str]]) -> str:
    """What pip calls the package of a module."""
    return next(iter(installed.get(name, ())), _PROJECT.get(name, name))


def _plain(name: str) -> str:
    """A package's name as the index compares it."""
    return name.lower().replace("_", "-")
