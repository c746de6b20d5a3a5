"""What a person writes after the verb, made ready for Hydra, with its mistakes found first."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, get_args, get_origin

from mambalab.config import axes, grammar, paths
from mambalab.config.axes import LAUNCHER, SWEEP
from mambalab.config.grammar import QUOTED, quoted
from mambalab.config.messages import no_such_option, strip_optional, unknown_key
from mambalab.config.schema import AS_BEFORE, TASK_SETTINGS, Option, TrainConfig, walk
from mambalab.config.synonyms import is_file_of_settings, meant, own_file
from mambalab.errors import UserError
from mambalab.settings.sweep import LAUNCHERS, SweepSettings
from mambalab.utils.text import did_you_mean

OVERRIDE = re.compile(r"(?P<sigil>~|\+{0,2})(?P<key>[^-=\s][^=\s]*)(?:=(?P<value>.*))?", re.DOTALL)
# Texts to read or to find, not names: ${...} in them means itself, and \n a new line.
LITERAL = {"prompt", "text", "stop", "name", "note"}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_PIECE = re.compile(
    rf"({QUOTED.pattern}|(?:\\.|[^,])*),", re.DOTALL
)  # of texts with commas between
_IN_LIST = re.compile(rf"{QUOTED.pattern}|(?:\\.|[^\\,'\"\[\]{{}}])+", re.DOTALL)
_NUMBERS = re.compile(r"\d+(,\d+)*")
# Not every shell expands key=~.
FOLDERS = {"output_dir", "data_dir", "run_dir", "run", "out", "sweep.dir"}
PATHS = FOLDERS | {"path", "task.path", "prompt_file", "pretrained", "model.pretrained"}
PATHS |= {"tokenizer", "task.tokenizer", "task.data", "prompt_image"}
SEVERAL = {"task.path", "task.val_path", "task.test_path"}  # also [a.txt,b.txt]
PATHS |= SEVERAL
_LATER = {o.key for o in walk(TrainConfig)} & AS_BEFORE.keys()  # an older YAML file lacks them


@dataclass(frozen=True)
class Known:
    """What may be written after a verb.

    Attributes:
        verb: the verb.
        options: every key that holds a value; of tasks the keys of all.
        groups: groups with their options; only training has groups.
    """

    verb: str
    options: dict[str, Option]
    groups: dict[str, list[str]]

    def is_node(self, key: str) -> bool:
        """Whether a key is an open node such as `task.params`, which takes new keys."""
        return key in self.options and get_origin(self.options[key].type) is dict

    def is_free(self, key: str) -> bool:
        """Whether a key is below an open node."""
        return any(key.startswith(f"{node}.") for node in self.options if self.is_node(node))


def known(verb: str, settings: type = TrainConfig) -> Known:
    """Keys and groups of a verb with this settings class, a user's own `./conf` included."""
    options = {o.key: o for o in walk(settings)}
    if not issubclass(settings, TrainConfig):
        return Known(verb, options, {})
    for cls in TASK_SETTINGS.values():
        options.update((o.key, o) for o in walk(cls, prefix="task."))
    options.update((o.key, o) for o in walk(SweepSettings, prefix=SWEEP))
    for launcher in LAUNCHERS.values():
        options.update((o.key, o) for o in walk(launcher, prefix=LAUNCHER))
    return Known(verb, options, paths.groups())


def prepare(
    verb: str, overrides: list[str], multirun: bool = False, settings: type = TrainConfig
) -> list[str]:
    """The overrides as Hydra wants them.

    Texts are quoted for the user (a sweep's are not, since there a comma separates values), a
    single text is made a list where a list is wanted, \\n, \\t and \\\\ in the texts of `LITERAL`
    are made what they stand for, keys below `params` may be new.

    Args:
        verb: name of the verb, for messages.
        overrides: `key=value` and `group=option`, as on the command line.
        multirun: whether several values of a key are a sweep.
        settings: settings class of the verb.

    Raises:
        UserError: an override that cannot be read, an unknown key or option, a sweep without -m.
    """
    names = known(verb, settings)
    prepared = []
    for text in overrides:
        if any("\ud800" <= c <= "\udfff" for c in text):  # bytes of argv that were no UTF-8
            raise UserError(f"{text.partition('=')[0]}: the value is not UTF-8")
        line, override = _read(text, _rewrite(text, names, multirun))
        _check_value(text, override, names.groups, multirun)
        prepared.append(line)
    return prepared


def positional(keys: Sequence[str], words: list[str], names: Known) -> list[str]:
    """The overrides that plain words mean: `data fetch NAME`, `bench WHAT`, `sync RUN ...`.

    Args:
        keys: the keys that words set, in order; one that ends in "..." takes all that are left,
            `run` takes `latest` and what is there: `generate hello` means a prompt.
        words: the plain words after the verb.
        names: of the verb, for messages.

    Raises:
        UserError: a word that the verb has no use for.
    """
    found, left = [], list(words)
    for key in keys:
        if key.endswith("..."):
            if left:
                found.append(f"{key[:-3]}=[{','.join(map(quoted, left))}]")
            left = []
        elif key == "run" and left:
            if left[0] == "latest" or os.path.exists(left[0]):
                found.append(f"run={quoted(left.pop(0))}")
        elif left:
            found.append(f"{key}={left.pop(0)}")
    if left:
        raise _not_an_override(words[-1], names)
    return found


def assignment(key: str, value: Any, groups: Iterable[str]) -> str:
    """The override that gives a key a plain value: a number, text, list, True, None."""
    if isinstance(value, str):
        return f"{key}={value}" if key in groups else f"{key}={quoted(value)}"
    if isinstance(value, list):
        return f"{key}=[{','.join(assignment('', v, ())[1:] for v in value)}]"
    if isinstance(value, bool) or value is None:
        return f"{key}={'null' if value is None else str(value).lower()}"
    return f"{key}={value!r}"


def escape(text: str) -> str:
    """`text` such that OmegaConf reads `${` in it as these two characters."""
    return re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", text)


def unescaped(text: str, more: str = "") -> str:
    """`text` with the characters that \\n, \\t and \\\\ in it mean; a backslash before one of
    `more` is dropped, any other stays."""
    known = {**_ESCAPES, **{character: character for character in more}}
    return re.sub(r"\\(.)", lambda m: known.get(m[1], m[0]), text, flags=re.DOTALL)


def _rewrite(text: str, names: Known, multirun: bool) -> str:
    """One override as Hydra wants it; raises UserError for an unknown key."""
    match = OVERRIDE.fullmatch(text)
    if match is None or (match["value"] is None and match["sigil"] != "~"):
        raise _not_an_override(text, names)
    sigil, key, value = match["sigil"], match["key"], match["value"]
    if key == "class" and "class_name" in names.options:  # Python keeps the word for itself
        key = "class_name"
    if key.startswith((SWEEP, LAUNCHER, "hydra/launcher")) and not multirun:
        raise UserError(f"{text}: good for several runs only: mambalab train -m ...")
    if key.startswith(("hydra.", "hydra/")) and not key.startswith((LAUNCHER, "hydra/launcher")):
        raise UserError(f"{text}: {_instead(key)}")
    if names.is_free(key) or names.is_node(key):
        return text if sigil == "~" else f"++{key}={value}"  # new or not, it is set
    if key not in names.options and key not in names.groups:
        if "experiment" in names.groups and is_file_of_settings(key):
            raise UserError(f"{text}: {own_file(str(value))}")
        grammar.readable(text)
        if inside := [known for known in names.options if known.startswith(f"{key}.")]:
            raise UserError(f"{key}: holds settings; set them one by one, as in {inside[0]}=VALUE")
        raise unknown_key(key, [*names.options, *names.groups])
    if sigil == "~":
        raise UserError(f"{text}: every key is needed; write {key}=VALUE to change it")
    if key in names.groups:  # ours are always there, so a + before them is superfluous
        ours = {f.name for f in fields(TrainConfig)} | {"experiment"}
        return f"{key}={value}" if key in ours else text
    mark = "++" if key in _LATER else ""
    return f"{mark}{key}={_quote(key, value, names.options[key].type, multirun)}"


def _instead(key: str) -> str:
    """What to write instead of a setting of Hydra's own multirun, which mambalab does not use."""
    if key.startswith(("hydra/sweeper", "hydra.sweeper")):
        return (
            "mambalab searches by itself: sweep.search=tpe (or random), sweep.params, sweep.trials"
        )
    if key.startswith("hydra.sweep"):
        return "give the folder of the sweep as sweep.dir=FOLDER"
    return "of Hydra's own settings only hydra/launcher and hydra.launcher.* have a meaning here"


def _quote(key: str, value: str, kind: Any, multirun: bool) -> str:
    """A value in the quotes or brackets that its type needs in Hydra's grammar."""
    kind, optional = strip_optional(kind)
    if key in PATHS and value.startswith("~/"):
        value = os.path.expanduser(value)
    is_quoted = QUOTED.fullmatch(value) is not None
    absent = optional and value == "null" and key != "prompt"  # for which null is a text, too
    if key in SEVERAL:
        kind, absent = str, value == "null"
        if (listed := grammar.listed_paths(value)) is not None:
            return listed
    if key in LITERAL and not absent:
        return _literals(value) if get_origin(kind) is list else _literal(value)
    if absent:
        return value
    if get_origin(kind) is list and _is_text(get_args(kind)[0]) and not value.startswith("["):
        if is_quoted:
            return f"[{value}]"
        parts = [v.strip() for v in value.split(",") if v.strip()]
        return f"[{','.join(map(quoted, parts))}]"
    if get_origin(kind) is list and get_args(kind)[0] is int and _NUMBERS.fullmatch(value):
        return f"[{value}]"
    optional = optional or key in SEVERAL
    if kind is str and multirun:
        return grammar.listed_texts(value, optional=optional)
    if kind is str and not (is_quoted or (optional and value == "null")):
        return quoted(value)
    return value


def _is_text(entry: Any) -> bool:
    return entry is str or (isinstance(entry, type) and issubclass(entry, Enum))


def _literal(piece: str, more: str = "") -> str:
    """A text of `LITERAL`, in quotes or not, as Hydra reads it; `more` as in `unescaped`."""
    if QUOTED.fullmatch(piece):
        piece, more = piece[1:-1], piece[0]
    return quoted(escape(unescaped(piece, more)))


def _literals(value: str) -> str:
    """A list of texts of `LITERAL`, written with or without brackets."""
    if not value.startswith("["):
        pieces = _PIECE.findall(f"{value},")
        return f"[{','.join(_literal(piece, ',') for piece in pieces)}]"

    def inside(match: re.Match[str]) -> str:
        piece = match[0] if QUOTED.fullmatch(match[0]) else match[0].strip(" ")
        return _literal(piece, ",:=()[]{} '\"") if piece else ""

    return _IN_LIST.sub(inside, value)


def _read(text: str, line: str) -> tuple[str, Any]:
    """The override as Hydra reads it, and parsed; quotes are added where it needs them.

    Args:
        text: as a person wrote it, for messages.
        line: what `_rewrite` made of it.
    """
    from hydra.errors import HydraException

    try:
        return line, grammar.parse(line)
    except HydraException:
        key, sign, value = line.partition("=")
        better = f"{key}{sign}{grammar.with_odd_words_quoted(value)}"
        return better, grammar.readable(better, text)


def _check_value(text: str, override: Any, groups: dict[str, list[str]], multirun: bool) -> None:
    """Raise UserError for values to vary in a wrong place, or an option that does not exist."""
    grammar.check_sweeps(text, override)
    if override.is_sweep_override() and not multirun:
        raise UserError(f"{text}: several values are a sweep; write mambalab train -m ...")
    key = override.key_or_group
    if key not in groups:
        return
    old = list(paths.OLD_LAUNCHERS) if key == paths.LAUNCHER_GROUP else []
    for value in _values(override):
        if (value is None and key == "experiment") or value in old:
            continue
        if value == "":
            raise UserError(f"{key}=: choose one of {', '.join(groups[key])}")
        if not isinstance(value, str) or value not in groups[key]:
            user = paths.user_conf()
            if user and isinstance(value, str) and (user / key / f"{value}.yml").is_file():
                raise UserError(f"{key}={value}: rename {user / key / value}.yml to {value}.yaml")
            raise no_such_option(key, value, groups[key])


def _values(override: Any) -> list[Any]:
    """The options that an override of a group names; an experiment may be a list of them."""
    if override.is_sweep_override():
        if not axes.lists_values(override):
            return []
        return [v.strip("'\"") for v in override.sweep_string_iterator()]
    value = override.value()
    return value if isinstance(value, list) and override.key_or_group == "experiment" else [value]


def setting_of(word: str, names: Known) -> str | None:
    """The key or group that a flag such as `--lr` or `--batch-size` means; None if none or several
    may be meant."""
    word = word.replace("-", "_")
    keys = [*names.options, *names.groups]
    if word in keys:
        return word
    leaves = [key for key in keys if key.rpartition(".")[2] == word]
    return leaves[0] if len(leaves) == 1 else meant(word, keys) if not leaves else None


def _not_an_override(text: str, names: Known) -> UserError:
    """The error for a word that is no override, with what was probably meant."""
    word = text.lstrip("-")
    if "experiment" in names.groups and is_file_of_settings(*word.partition("=")[::2]):
        return UserError(f"{text}: {own_file(word.rpartition('=')[2])}")
    if text.startswith("-") and "=" in text:
        key, _, value = word.partition("=")
        return UserError(
            f"{text}: settings are written without dashes: {setting_of(key, names) or key}={value}"
        )
    lost = "run" in names.options and os.sep in text and not os.path.exists(text)
    if lost and not any(character.isspace() for character in text):
        return UserError(f"{text}: no such folder; `mambalab runs` lists the runs")
    hint = f"; did you mean run={text}?" if "run" in names.options else ""
    if "run" not in names.options and "output_dir" in names.options and os.path.isdir(text):
        hint = f"; did you mean output_dir={text}?"
    if "prompt" in names.options and not os.path.exists(text):
        hint = f'; did you mean prompt="{text}"?'
    if "run" in names.options and did_you_mean(text, ["latest"]) and not os.path.exists(text):
        hint = did_you_mean(text, ["latest"])
    if word in names.options:
        hint = f"; did you mean {word}=VALUE?"
    for group, found in names.groups.items():
        if word in found:
            hint = f"; did you mean {group}={word}?"
    return UserError(f"{text}: expected KEY=VALUE{hint} (mambalab {names.verb} --help lists keys)")
