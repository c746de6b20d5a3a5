"""What a person writes after the verb, made ready for Hydra, with its mistakes found first."""

import re
from collections.abc import Iterable
from dataclasses import fields
from itertools import product
from typing import Any, get_args, get_origin

from mambalab.config import search
from mambalab.config.messages import (
    first_line,
    no_such_option,
    strip_optional,
    unknown_key,
)
from mambalab.config.schema import TASK_SETTINGS, Option, settings_class, walk
from mambalab.errors import UserError

OVERRIDE = re.compile(r"(?P<sigil>~|\+{0,2})(?P<key>[^-=\s][^=\s]*)(?:=(?P<value>.*))?", re.DOTALL)
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
LITERAL = {"prompt"}  # texts in which ${...} means itself


def known_options(verb: str) -> dict[str, Option]:
    """Every key of a verb; of tasks the keys of all."""
    found = {o.key: o for o in walk(settings_class(verb))}
    if verb == "train":
        for cls in TASK_SETTINGS.values():
            found.update((o.key, o) for o in walk(cls, prefix="task."))
    return found


def known_groups(verb: str) -> dict[str, list[str]]:
    """The groups of a verb with their options; only training has groups."""
    return search.groups() if verb == "train" else {}


def prepare(verb: str, overrides: list[str], multirun: bool = False) -> list[str]:
    """The overrides as Hydra wants them.

    Texts are quoted for the user (a sweep's are not, since there a comma separates values), a
    single text is made a list where a list is wanted, keys below `params` may be new.

    Raises:
        UserError: an override that cannot be read, an unknown key or option, a sweep without -m.
    """
    options, groups = known_options(verb), known_groups(verb)
    prepared = []
    for text in overrides:
        line = _rewrite(text, options, groups, multirun)
        _check_value(text, line, groups, multirun)
        prepared.append(line)
    return prepared


def jobs(prepared: list[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, the last key varying fastest."""
    choices: list[Iterable[str]] = []
    for override in map(_parse, prepared):
        if not override.is_sweep_override():
            choices.append([override.input_line])
        elif override.is_discrete_sweep() and not _is_glob(override):
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(
                f"{override.input_line}: a sweep must list its values, as in seed=1,2,3 "
                "or seed=range(1,4)"
            )
    return [list(combination) for combination in product(*choices)]


def _rewrite(
    text: str, options: dict[str, Option], groups: dict[str, list[str]], multirun: bool
) -> str:
    match = OVERRIDE.fullmatch(text)
    if match is None or (match["value"] is None and match["sigil"] != "~"):
        raise _not_an_override(text, groups)
    sigil, key, value = match["sigil"], match["key"], match["value"]
    if key.startswith(("hydra.", "hydra/")):
        if not multirun:
            raise UserError(f"{text}: settings of Hydra's sweeps, good with train -m only")
        return text
    if any(key.startswith(f"{k}.") for k, o in options.items() if get_origin(o.type) is dict):
        return text if sigil else f"++{text}"
    if key not in options and key not in groups:
        raise unknown_key(key, [*options, *groups])
    if sigil == "~":
        raise UserError(f"{text}: every key is needed; write {key}=VALUE to change it")
    if key in groups:
        return f"{key}={value}" if key in _default_groups() else text
    return f"{key}={_quote(key, value, options[key].type, multirun)}"


def _default_groups() -> set[str]:
    """Groups that train.yaml's defaults list always fills: a + before them is superfluous."""
    cls = settings_class("train")
    return {f.name for f in fields(cls)} | {"experiment"}


def _quote(key: str, value: str, kind: Any, multirun: bool) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    kind, optional = strip_optional(kind)
    if QUOTED.fullmatch(value) or (optional and value == "null"):
        return value
    if get_origin(kind) is list and get_args(kind)[0] is str and not value.startswith("["):
        parts = [v.strip() for v in value.split(",") if v.strip()]
        return f"[{','.join(QuotedString(v, Quote.single).with_quotes() for v in parts)}]"
    if kind is str and not multirun:
        text = escape(value) if key in LITERAL else value
        return QuotedString(text, Quote.single).with_quotes()
    return value


def escape(text: str) -> str:
    """`text` such that OmegaConf reads `${` in it as these two characters."""
    return re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", text)


def _parse(line: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(line)


def _is_glob(override: Any) -> bool:
    from hydra.core.override_parser.types import Glob

    return isinstance(override.value(), Glob)


def _check_value(text: str, line: str, groups: dict[str, list[str]], multirun: bool) -> None:
    from hydra.errors import HydraException

    try:
        override = _parse(line)
    except HydraException as error:
        raise UserError(
            f"{text}: cannot be read ({first_line(error)}); a text with special characters "
            "needs quotes inside the shell's, as in 'key=\"a, b\"'"
        ) from error
    if override.is_sweep_override() and not multirun:
        raise UserError(f"{text}: several values are a sweep; write mambalab train -m ...")
    key = override.key_or_group
    if key not in groups:
        return
    for value in _values(override):
        if value is None and key == "experiment":
            continue
        if value == "":
            raise UserError(f"{key}=: choose one of {', '.join(groups[key])}")
        if not isinstance(value, str) or value not in groups[key]:
            raise no_such_option(key, value, groups[key])


def _values(override: Any) -> list[Any]:
    """The options that an override of a group names; an experiment may be a list of them."""
    if override.is_sweep_override():
        if _is_glob(override):
            return []
        return [v.strip("'\"") for v in override.sweep_string_iterator()]
    value = override.value()
    return value if isinstance(value, list) and override.key_or_group == "experiment" else [value]


def _not_an_override(text: str, groups: dict[str, list[str]]) -> UserError:
    word = text.lstrip("-")
    if text.startswith("-") and "=" in text:
        return UserError(f"{text}: settings are written without dashes: {word}")
    for group, found in groups.items():
        if word in found:
            return UserError(f"{text}: expected KEY=VALUE; did you mean {group}={word}?")
    return UserError(f"{text}: expected KEY=VALUE (--help lists the keys)")
