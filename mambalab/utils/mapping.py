"""Nested mappings as flat ones."""

from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[Any, Any], *, max_depth: int | None = None) -> dict[str, Any]:
    """Return nested settings by dotted name (`trainer.max_steps`), in their order.

    An empty mapping is a value.

    Args:
        nested: the settings; keys need not be text.
        max_depth: levels that are unfolded; what is nested deeper is one value. None = all.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value and max_depth != 1:
            deeper = flatten(value, max_depth=None if max_depth is None else max_depth - 1)
            flat.update({f"{key}.{name}": inner for name, inner in deeper.items()})
        else:
            flat[str(key)] = value
    return flat
