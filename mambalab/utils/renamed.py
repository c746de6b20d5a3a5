"""Old names of public methods and functions: they work for one version and name the new ones."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Issue the DeprecationWarning that `old` is called `new` now."""
    message = f"{old} is called {new} now; the old name goes with the next version"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def alias(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """A function that warns of its name and calls `function`."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        warn(old, new)
        return function(*args, **kwargs)

    return call


def keep_old_names(cls: type, names: Mapping[str, str]) -> None:
    """Give a class its methods under their old names too, and the other way round.

    For a base class call it once, and for each subclass in `__init_subclass__`: every class then
    has its own implementation under both names, so that one written with the old name overrides
    one called by the new name, and `super()` finds the next one by either.

    Args:
        cls: the class; only methods in its own body are looked at.
        names: old name -> new name.
    """
    for old, new in names.items():
        own = vars(cls)
        if new in own and old not in own:
            setattr(cls, old, alias(own[new], f"{cls.__name__}.{old}", new))
        elif old in own and new not in own:
            warn(f"{cls.__name__}.{old}", new, stacklevel=4)
            setattr(cls, new, own[old])
