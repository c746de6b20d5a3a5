"""How settings are declared: typed dataclass fields without defaults, each with one line of help.

The values live once, in the YAML files under `conf/`; a field without a value there is an error,
so the code never holds a second default. What a value may be is declared beside it (`ge=0, lt=1`)
and checked by `check` before a run creates anything; a settings class adds what concerns several
of its fields in a method `check(self)`, and what is needed to run, not to be shown, in
`check_ready(self)`.
"""

import math
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

from mambalab.errors import UserError

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a name that is also the name of a folder
NAME_HINT = "made of letters, digits, '.', '_' and '-'"
DEVICE = r"auto|cpu|cuda(:\d+)?|mps"
DEVICE_HINT = "auto, cpu, cuda, cuda:N or mps"
RUN_NAME: dict[str, Any] = {  # of a run, for people; empty = none
    "match": r"(\S([^\x00-\x1f\x7f]{0,98}\S)?)?",
    "hint": "a text of at most 100 characters on one line",
}
TAG: dict[str, Any] = {
    "match": r"\w[\w .:/+-]{0,49}",
    "hint": "made of at most 50 letters, digits, blanks and . : / + - _",
}
PATH: dict[str, Any] = {"match": r"[\s\S]+", "path": True}  # not empty
FOLDER = {**PATH, "hint": "the path of a folder"}
RUN = {**PATH, "hint": "a run folder, or the word latest"}
CHECKPOINT: dict[str, Any] = {
    "match": r"best|last|(step[_-]?)?[0-9]{1,15}",
    "hint": "best, last or step_N",
}


@dataclass(frozen=True)
class Rule:
    """What a value may be; every bound that is not None must hold.

    Null passes, unless the word `auto` says that something else finds the value.

    Attributes:
        ge, gt, le, lt: bounds of a number, or of every number in a list.
        auto: the value is a whole number or the word `auto`.
        share: the value is a whole number (to which the bounds apply), or a share above 0 and
            below 1.
        truth: with `auto`, true or false instead of the number.
        switch: the value is true, false or a whole number (to which the bounds apply).
        length: number of entries in a list.
        match: regular expression for the whole of a text; `hint` is its wording for people.
        path: the text, or every text of a list, names a file or folder.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    auto: bool = False
    share: bool = False
    truth: bool = False
    switch: bool = False
    length: int | None = None
    match: str | None = None
    hint: str | None = None
    path: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, to be read after "key=value: ", or None."""
        if self.auto and value == "auto":
            return None
        if self.truth:
            known = value is None or isinstance(value, bool)
            return None if known else "must be auto, true or false"
        if self.switch and (value is None or isinstance(value, bool)):
            return None
        if self.switch and not isinstance(value, int):
            return "must be true, false or a whole number"
        if self.auto and (not isinstance(value, int) or isinstance(value, bool)):
            return "must be auto or a whole number"
        if value is None:
            return None
        if self.share and (isinstance(value, bool) or not isinstance(value, int)):
            known = isinstance(value, float) and 0 < value < 1
            return None if known else "must be a whole number, or a share above 0 and below 1"
        if isinstance(value, list):
            if self.length is not None and len(value) != self.length:
                return f"must be a list of {self.length}"
            return next((p for p in map(self.problem, value) if p), None)
        if isinstance(value, str):
            if self.match is not None and re.fullmatch(self.match, value) is None:
                return f"must be {self.hint or self.match}"
            return _path_problem(value) if self.path or self.match == NAME else None
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        bounds = [
            ("at least", self.ge, lambda v, b: v >= b),
            ("above", self.gt, lambda v, b: v > b),
            ("at most", self.le, lambda v, b: v <= b),
            ("below", self.lt, lambda v, b: v < b),
        ]
        given = [(word, b, holds) for word, b, holds in bounds if b is not None]
        if all(holds(value, b) for _, b, holds in given):
            return None
        wording = " and ".join(f"{word} {b}" for word, b, _ in given)
        return f"must be {'auto, or ' if self.auto else ''}{wording}"


def _path_problem(path: str) -> str | None:
    """Why no file can have this name, or None."""
    if path.startswith(("http://", "https://")):
        return None
    if "\0" in path:
        return "no file has a NUL in its name"
    if len(os.fsencode(path)) > 4000 or any(len(os.fsencode(p)) > 255 for p in path.split("/")):
        return "too long for the name of a file: at most 255 bytes between two slashes"
    return None


def option(help: str, **rule: Any) -> Any:
    """A setting whose value comes from YAML.

    Args:
        help: the line `--help` prints for it.
        **rule: fields of `Rule`, which the value must obey.
    """
    return field(default=MISSING, metadata={"help": help, "rule": Rule(**rule)})


def check(settings: Any, prefix: str = "") -> None:
    """Check every value of a settings object against its rule, then what its class itself checks.

    Args:
        settings: a dataclass object built of `option` fields and of other such objects.
        prefix: dotted path of `settings` in the whole configuration, with its final dot.

    Raises:
        UserError: one line with key, value and what is allowed.
    """
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            check(value, f"{prefix}{f.name}.")
        elif "rule" in f.metadata and (problem := f.metadata["rule"].problem(value)):
            raise UserError(f"{prefix}{f.name}={value}: {problem}")
    if callable(own := getattr(settings, "check", None)):
        own()
