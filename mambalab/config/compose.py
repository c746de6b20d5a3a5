"""From a verb and what was written after it to a complete, checked configuration.

Hydra only composes the YAML files; the result is then merged onto the typed schema, which finds
unknown keys and wrong types, and every value is checked. Nothing is created on disk.
"""

import os
import shlex
from dataclasses import dataclass
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from mambalab.config import origins, resolvers, unused
from mambalab.config.identity import DECIDED
from mambalab.config.messages import (
    MissingValueError,
    UnknownKeyError,
    strip_optional,
    unknown_key,
    wrong_type,
)
from mambalab.config.overrides import escape, prepare
from mambalab.config.raw import Reader, experiments, given, lacks_package, read
from mambalab.config.schema import TrainConfig, complete, task_settings, walk
from mambalab.errors import UserError, first_line
from mambalab.settings.rules import check

resolvers.register()


@dataclass(frozen=True)
class Composed:
    """What YAML files and overrides amount to.

    Attributes:
        config: of the verb, resolved and typed, closed to new keys.
        settings: the settings object of `config`; None if it was not checked.
        choices: the option chosen in each group; a launcher by its new name.
        sweep, launcher: plain, unchecked values of `sweep` and of `hydra.launcher`; training only.
    """

    config: DictConfig
    settings: Any
    choices: dict[str, str]
    sweep: dict[str, Any]
    launcher: dict[str, Any]


def compose(verb: str, overrides: list[str], settings: type = TrainConfig) -> Any:
    """The settings object of a verb (`TrainConfig`, ...): resolved, typed and checked.

    Args:
        verb: name of its YAML file.
        overrides: `key=value` and `group=option`, as on the command line.
        settings: its settings class.

    Raises:
        UserError: one line for whatever is wrong with the overrides or with a YAML file.
    """
    prepared = prepare(verb, overrides, settings=settings)
    found = compose_parts(verb, prepared, settings)
    params = found.sweep.get("params") or {}
    if keys := ", ".join(str(key) for key, values in params.items() if values is not None):
        raise UserError(
            f"this is a sweep (over {keys}): write mambalab train -m {shlex.join(overrides)}"
        )
    return found.settings


def compose_parts(
    verb: str,
    prepared: list[str],
    settings: type = TrainConfig,
    *,
    checked: bool = True,
    reader: Reader | None = None,
) -> Composed:
    """Compose a verb's YAML with overrides, and keep what is not the run itself, too.

    Args:
        verb: name of its YAML file.
        prepared: from `mambalab.config.overrides.prepare`.
        settings: its settings class.
        checked: False leaves values unchecked, for `--help`.
        reader: of this verb, for many compositions that differ little; None reads all files.

    Raises:
        UserError: as `compose`.
    """
    raw = reader.read(prepared) if reader else read(verb, prepared)
    words = given(prepared)
    choices = raw.choices
    model = resolvers.chosen_model.set(choices.get("model"))
    try:
        config = _merged(settings, _resolved(raw.values))
        found = check_typed(config) if checked else None
        if isinstance(found, TrainConfig):
            _check_sizes(found, words)
            unused.check(words, found)
        return Composed(config, found, choices, raw.sweep, raw.launcher)
    except UnknownKeyError as error:
        group = error.key.partition(".")[0]
        names = experiments(prepared) or [choices.get("experiment", "")]
        if group in choices and (experiment := origins.experiment_of(error.key, names)):
            option = f"{group}={choices[group]}"
            raise UserError(
                f"{experiment} sets {error.key}, which {option} does not have; choose an "
                f"experiment for {option}, or leave {option} out"
            ) from error
        if group == "experiment" and (lacking := origins.without_package(names)):
            raise UserError(lacks_package(lacking)) from error
        raise UserError(str(error) + origins.hint(verb, raw.chosen)) from error
    except MissingValueError as error:
        more = origins.base_hint(error.key.partition(".")[0], choices)
        raise UserError(f"{error}{more or origins.hint(verb, raw.chosen)}") from error
    except UserError as error:
        raise type(error)(str(error) + origins.hint(verb, raw.chosen)) from error
    finally:
        resolvers.chosen_model.reset(model)


def _check_sizes(settings: TrainConfig, words: dict[str, str]) -> None:
    """Raise UserError if somebody gives what `model.pretrained` decides."""
    if settings.model.pretrained is None:
        return
    for key, value in words.items():
        if key.removeprefix("model.") in DECIDED and key.startswith("model."):
            raise UserError(
                f"{key}={value}: the checkpoint model.pretrained={settings.model.pretrained} "
                "decides this; leave it out"
            )


def _resolved(raw: DictConfig) -> dict[Any, Any]:
    """The composed YAML as plain values, interpolations resolved."""
    try:
        plain = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        key = error.full_key
        raise UserError(f"{f'{key}: ' if key else ''}{first_line(error)}") from error
    assert isinstance(plain, dict)
    return plain


def from_plain(plain: dict[Any, Any]) -> TrainConfig:
    """The checked settings of plain values for training; `${` in a text means itself.

    Raises:
        UserError: unknown key, wrong type, missing value, value out of bounds.
    """
    return check_typed(_merged(TrainConfig, plain))


def merge_onto(cls: type, plain: dict[Any, Any], *, prefix: str = "") -> Any:
    """The checked settings object of plain values, for any settings class.

    Args:
        cls: the settings class.
        plain: its values.
        prefix: what comes before the keys in messages, with its final dot.

    Raises:
        UserError: as `from_plain`.
    """
    return check_typed(_merged(cls, plain, prefix), prefix)


def check_typed(cfg: DictConfig, prefix: str = "") -> Any:
    """The settings object of a typed configuration, every value checked.

    Raises:
        UserError: missing value, value out of bounds, values that do not go together.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        key = f"{prefix}{missing[0]}"
        problem = f"{key}: no value; set it in your YAML or on the command line"
        raise MissingValueError(problem, key)
    settings = OmegaConf.to_object(cfg)
    check(settings, prefix)
    return settings


def _at_home(plain: dict[Any, Any]) -> dict[Any, Any]:
    """Take `~` in the folders of a YAML file for the home folder, as on the command line."""
    for key in ("output_dir", "run_dir"):
        if isinstance(value := plain.get(key), str) and value.startswith("~/"):
            plain[key] = os.path.expanduser(value)
    return plain


def _merged(cls: type, plain: dict[Any, Any], prefix: str = "") -> DictConfig:
    """Plain values on the schema of a settings class: typed, closed to new keys, not checked."""
    replace: dict[str, type] = {}
    if issubclass(cls, TrainConfig):
        complete(plain)
        if isinstance(plain.get("task"), dict):
            replace["task"] = task_settings(plain["task"])
    schema = OmegaConf.structured(cls)
    for key, other in replace.items():
        schema[key] = OmegaConf.structured(other)
    try:
        cfg = OmegaConf.merge(schema, _at_home(_escaped(plain)))
    except ConfigKeyError as error:
        types = {o.key: o.type for o in walk(cls, replace)}
        known = dict.fromkeys([*types, *(key.split(".")[0] for key in types)])
        raise unknown_key(
            prefix + (error.full_key or str(error.key)), [prefix + k for k in known]
        ) from error
    except (ValidationError, OmegaConfBaseException) as error:
        types = {o.key: o.type for o in walk(cls, replace)}
        key = error.full_key or ""
        kind = types.get(key)
        if key.endswith("]"):  # an entry of a list
            of, _ = strip_optional(types.get(key.rpartition("[")[0]))
            kind = next(iter(get_args(of)), None)
        if kind is None:  # a group whose YAML is no mapping, say
            raise UserError(f"{f'{prefix}{key}: ' if key else ''}{first_line(error)}") from error
        raise wrong_type(prefix + key, _select(plain, key), kind) from error
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    return cfg


def typed(cfg: Any) -> Any:
    """The settings object of a composed configuration; a settings object as it is."""
    return OmegaConf.to_object(cfg) if OmegaConf.is_config(cfg) else cfg


def _escaped(value: Any) -> Any:
    """Plain values whose texts OmegaConf reads literally, `${` included."""
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return escape(value) if isinstance(value, str) else value


def _select(plain: Any, key: str) -> Any:
    """The value at a dotted key, as far as it can be followed."""
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(plain, dict):
            plain = plain.get(part)
        elif isinstance(plain, list):
            plain = plain[int(part)]
    return plain
