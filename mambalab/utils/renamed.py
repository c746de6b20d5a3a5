"""Old names of public methods and functions: they work for one version and name the new ones."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet


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


class OldName:
    """The old name of a method of a class: gives, with a warning, the method of that class.

    An instance's own attribute comes before it, and `super()` finds the next class's.
    """

    def __init__(self, cls: type, old: str, new: str) -> None:
        self.cls, self.old, self.new = cls, old, new

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        warn(f"{self.cls.__name__}.{self.old}", self.new)
        value = vars(self.cls)[self.new]
        return value.__get__(instance, owner) if hasattr(type(value), "__get__") else value


class OldAttribute(OldName):
    """The old name of an attribute that instances set: reads and sets the one of the new name."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        warn(f"{self.cls.__name__}.{self.old}", self.new)
        return getattr(owner if instance is None else instance, self.new)

    def __set__(self, instance: Any, value: Any) -> None:
        warn(f"{self.cls.__name__}.{self.old}", self.new)
        setattr(instance, self.new, value)


_KNOWN: WeakSet[type] = WeakSet()
"""Classes that `keep_old_names` has seen: an old name in one that is no `OldName` came later."""


def keep_old_names(
    cls: type, base: type, methods: Mapping[str, str], attributes: Mapping[str, str] | None = None
) -> None:
    """Give a class, and those before `base`, what they define under both its old and new name.

    Call it once for `base`, and in its `__init_subclass__` for each subclass: every class then has
    its own implementation under both names, so that one written with the old name overrides one
    called by the new name, and `super()` finds the next one by either. A mixin is given the names
    as well. Where a class defines both, the new one is used.

    Args:
        cls: `base`, or a subclass.
        base: the class whose names have changed.
        methods: old name -> new name.
        attributes: the same of what instances set.
    """
    renamed = dict.fromkeys(methods.items(), OldName)
    renamed |= dict.fromkeys((attributes or {}).items(), OldAttribute)
    for kind in cls.__mro__[: cls.__mro__.index(base) + 1]:
        if kind in _KNOWN:
            continue
        for (old, new), descriptor in renamed.items():
            if old in vars(kind) and new not in vars(kind):
                warn(f"{kind.__name__}.{old}", new, stacklevel=4)
                setattr(kind, new, vars(kind)[old])
            if new in vars(kind):
                setattr(kind, old, descriptor(kind, old, new))
        _KNOWN.add(kind)


def current(owner: Any, new: str, old: str) -> Any:
    """Look up `owner.new`, or with a warning `owner.old` where that overrides it.

    It does where it is set on the instance, or on a class that precedes the one with the new name
    (also after the class was made), or where there is no new name.

    Raises:
        AttributeError: there is neither.
    """
    own = getattr(owner, "__dict__", {})
    if new in own:
        return getattr(owner, new)
    name = type(owner).__name__ if old in own else None
    for kind in () if name else type(owner).__mro__:
        has = vars(kind)
        later = old in has and not isinstance(has[old], OldName)
        if later and (new not in has or kind in _KNOWN):
            name = kind.__name__
        if name or new in has:
            break
    if not name and (hasattr(owner, new) or not hasattr(owner, old)):
        return getattr(owner, new)
    warn(f"{name or type(owner).__name__}.{old}", new)
    return getattr(owner, old)
