"""One line for every mistake: what is wrong, where, what to write instead."""

from difflib import get_close_matches
from enum import Enum
from types import NoneType
from typing import Any, Union, get_args, get_origin

from mambalab.config.synonyms import meant
from mambalab.errors import UserError
from mambalab.utils.text import did_you_mean

# What people know from generate() of transformers, and what to write here.
_OF_TRANSFORMERS = {
    "num_beams": "there is no beam search: temperature=0 takes the likeliest token each time",
    "do_sample": "temperature=0 takes the likeliest token each time, temperature=1 samples",
    "max_length": "max_new_tokens=N counts what is written",
    "num_return_sequences": "did you mean num_samples?",
    "eos_token_id": "stop=TEXT ends a text, beside the end tokens of the model",
}


class KeyProblemError(UserError):
    """Something is wrong with a key.

    Attributes:
        key: the key, dotted.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


MIN_BEGINNING = 3  # letters of a key that make one think of it


class UnknownKeyError(KeyProblemError):
    """A key that does not exist."""


class MissingValueError(KeyProblemError):
    """A key that no YAML file gives a value."""


def unknown_key(key: str, known: list[str]) -> UnknownKeyError:
    """The error for a key that does not exist; a leaf such as `lr` finds `optim.lr`."""
    if "max_new_tokens" in known and key in _OF_TRANSFORMERS:
        return UnknownKeyError(f"{key}: no such key; {_OF_TRANSFORMERS[key]}", key)
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        hint = f"; did you mean {' or '.join(same_leaf)}?"
    elif other := meant(leaf, known):
        hint = f"; did you mean {other}?"
    else:
        hint = did_you_mean(key, [k for k in known if ("." in k) == ("." in key)])
    if not hint:
        leaves = {k.rsplit(".", 1)[-1]: k for k in known}
        near = get_close_matches(leaf, list(leaves), n=1, cutoff=0.75)
        if not near and len(leaf) >= MIN_BEGINNING:
            begun = [name for name in leaves if name.startswith(leaf)]
            near = begun if len(begun) == 1 else []
        hint = f"; did you mean {leaves[near[0]]}?" if near else "; --help lists all keys"
    if key.startswith(("task.", "model.")):
        group = key.split(".")[0]
        hint += f" (options of a class of your own go into {group}.params)"
    return UnknownKeyError(f"{key}: no such key{hint}", key)


def no_such_option(group: str, value: object, known: list[str]) -> UserError:
    """The error for an option that a group does not have."""
    text = "null" if value is None else value
    if group == "dropout" and isinstance(value, int | float):
        return UserError(f"dropout={text}: names a variant; did you mean dropout.p={text}?")
    below = [option for option in known if option.startswith(f"{value}/")]
    if below:  # a folder of options: the one for any machine, if there is
        first = f"{value}/cpu" if f"{value}/cpu" in below else below[0]
        hint = f"; did you mean {first}?"
    else:
        hint = did_you_mean(str(value), known)
    return UserError(f"{group}={text}: no such option{hint} ({group} has: {', '.join(known)})")


def choices(kind: Any) -> list[str]:
    """The words a value of this type can be, where they are few; else an empty list."""
    kind, _ = strip_optional(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.name for member in kind]
    return ["true", "false"] if kind is bool else []


def strip_optional(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was allowed."""
    members = get_args(kind)
    if get_origin(kind) in (Union, type(int | None)) and NoneType in members:
        return next(m for m in members if m is not NoneType), True
    return kind, False


def expected(kind: Any) -> str:
    """What a value of this type is called, e.g. "a whole number or null"."""
    kind, optional = strip_optional(kind)
    if words := choices(kind):
        name = " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    elif get_origin(kind) is list:
        entry = get_args(kind)[0]
        inner = {float: "numbers", int: "whole numbers"}.get(entry, "texts")
        name = f"a list of {inner}, such as [a,b]"
        if words := choices(entry):
            name = f"a list of {', '.join(words)}, such as [{words[0]}]"
    else:
        names = {int: "a whole number", float: "a number", str: "a text"}
        name = names.get(kind, "keys with values")
    return f"{name} or null" if optional else name


def wrong_type(key: str, value: object, kind: Any) -> UserError:
    """The error for a value that cannot be read as the type of its key."""
    text = "null" if value is None else value
    hint = did_you_mean(str(value), choices(kind))
    if strip_optional(kind)[0] is int and isinstance(value, float) and value.is_integer():
        hint = f"; write {int(value)}"
    return UserError(f"{key}={text}: expected {expected(kind)}{hint}")
