"""mambalab: train and compare Mamba and Transformer models on small sequence benchmarks.

As a library: `train`, `evaluate`, `runs` and `compare` do what the verbs of the command line do,
`load` reads a trained or published model, `model_settings` makes the settings of `mambalab.models`,
`mambalab.ops` holds the operators. Nothing here imports torch before it is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

if sys.platform == "win32":  # no fcntl, no SIGHUP, no process groups
    raise SystemExit(
        "mambalab: error: Windows itself is not supported: install WSL2 "
        "(in PowerShell: wsl --install), and mambalab inside it"
    )
if sys.version_info < (3, 11):  # noqa: UP036 - run in a clone, where no installer has looked
    raise SystemExit(
        "mambalab: error: Python 3.11 or newer is needed, and {} is {}.{}".format(
            sys.executable, *sys.version_info[:2]
        )
    )

TYPE_CHECKING = False  # type checkers take it for typing's, which would be slow to import
if TYPE_CHECKING:
    from typing import Any

    from mambalab.api import compare, evaluate, load, model_settings, runs, train

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compare",
    "evaluate",
    "load",
    "model_settings",
    "runs",
    "train",
]
_SHARED = ("compare", "runs", "train")  # names of a function of the library and of a package


class _CallablePackage(ModuleType):
    """A package that is also the function of its name in `mambalab.api`.

    So `from mambalab import train` can be called, and `mambalab.train.loop` is still the module.
    """

    def _function(self) -> Any:
        return getattr(import_module("mambalab.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function()(*args, **options)

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function())

    @property
    def __doc__(self) -> str | None:  # what help() and notebooks show
        return self._function().__doc__


class _Door(ModuleType):
    """This package: what is imported below it under a shared name is made callable."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _SHARED and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
            vars(value).pop("__doc__", None)  # Python 3.14 would take it for the property
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door


def __getattr__(name: str) -> object:
    if name in _SHARED:
        return import_module(f"mambalab.{name}")
    if name in __all__:
        return getattr(import_module("mambalab.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
