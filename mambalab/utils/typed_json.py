"""Checks values read from JSON, which a stranger may have written, against a dataclass."""

import types
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_types(cls: type, values: dict[str, Any]) -> None:
    """Check that values by field name have the types that a dataclass declares.

    Names of no field are left to its constructor, fields without a value to their defaults.

    Raises:
        TypeError: one has another type; names the field.
    """
    hints = get_type_hints(cls)
    for f in fields(cls):
        if f.name in values and not fits(values[f.name], hints[f.name]):
            found = type(values[f.name]).__name__
            raise TypeError(f"{f.name} is no place for this {found}")


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a JSON value is of a type: a plain one, a union, or a list or dict of such.

    Whole numbers count as float; true and false are no numbers.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
