"""Modules of the working directory: found where a person's own class is asked for, and only there.

The file beside a person counts before a package that merely lies on the search path (a clone's
`tests`), never before Python's own modules or what is installed: a `json.py` or `torch.py` of the
working directory would otherwise run in place of those.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def search_here(module: str) -> None:
    """Let Python find a module, and those beside it, in the working directory if it lies there."""
    top, here = module.partition(".")[0], Path.cwd()
    importlib.invalidate_caches()
    if _in(here, top) is None:
        return
    if not any(isinstance(f, _Here) and f.folder == here for f in sys.meta_path):
        sys.meta_path.insert(0, _Here(here))
    if str(here) not in sys.path:  # for modules beside it, and for processes that it starts
        sys.path.append(str(here))


def hidden_by(module: str) -> str | None:
    """Say which module stands before one of the working directory, or None."""
    top, here = module.partition(".")[0], Path.cwd()
    own = _in(here, top)
    if own is None or own.origin is None:
        return None
    if top in sys.stdlib_module_names:
        return "Python's own module"
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is not None and loaded != own.origin:
        return loaded
    found = _installed(top)
    return found.origin if found and found.origin != own.origin else None


class _Here(MetaPathFinder):
    """Finds the modules of one folder that no installed module has the name of.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; None for parts of packages, which these find themselves."""
        if path is not None or fullname in sys.stdlib_module_names:
            return None
        found = _in(self.folder, fullname)
        if found is None or found.origin is None or _installed(fullname) is not None:
            return None
        return found


def _in(folder: Path, name: str) -> ModuleSpec | None:
    return PathFinder.find_spec(name, [str(folder)])


def _installed(name: str) -> ModuleSpec | None:
    """Find a module among the installed packages; folders without code do not count."""
    places = [p for p in sys.path if {"site-packages", "dist-packages"} & set(Path(p).parts)]
    found = PathFinder.find_spec(name, places)
    return found if found is not None and found.origin is not None else None
