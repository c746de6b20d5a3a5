"""From a verb and what was written after it to a complete, checked configuration.

Hydra only composes the YAML files; the result is then merged onto the typed schema, which finds
unknown keys and wrong types, and every value is checked. Nothing is created on disk.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from mambalab.config import grammar, origins, paths, resolvers, unused, user_conf
from mambalab.config.axes import SWEEP
from mambalab.config.identity import DECIDED
from mambalab.config.messages import (
    MissingValueError,
    UnknownKeyError,
    strip_optional,
    unknown_key,
    wrong_type,
)
from mambalab.config.overrides import escape, prepare
from mambalab.config.schema import TrainConfig, complete, task_settings, walk
from mambalab.errors import UserError, first_line
from mambalab.settings.rules import check
from mambalab.utils import packages

resolvers.register()
PARAMS = f"{SWEEP}params"


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
    verb: str, prepared: list[str], settings: type = TrainConfig, *, checked: bool = True
) -> Composed:
    """Compose a verb's YAML with overrides, and keep what is not the run itself, too.

    Args:
        verb: name of its YAML file.
        prepared: from `mambalab.config.overrides.prepare`.
        settings: its settings class.
        checked: False leaves values unchecked, for `--help`.

    Raises:
        UserError: as `compose`.
    """
    try:
        import hydra
        import yaml
        from hydra.errors import HydraException
    except Exception:  # old releases fail in ways of their own on new Pythons
        packages.require("hydra-core", "omegaconf", "pyyaml")
        raise

    user_conf.register()
    declared = _declared(prepared) if issubclass(settings, TrainConfig) else {}
    try:
        with hydra.initialize_config_dir(
            str(paths.package_conf()), job_name="mambalab", version_base="1.3"
        ):
            composing = [word for word in prepared if word not in declared]
            raw = hydra.compose(verb, overrides=composing, return_hydra_config=True)
    except yaml.MarkedYAMLError as error:
        raise UserError(_yaml_problem(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{paths.folders()[0]}: a file there is not UTF-8") from error
    except RecursionError as error:
        where = paths.folders()[0]
        raise UserError(f"{where}: a file there names itself in its defaults list") from error
    except (HydraException, OmegaConfBaseException) as error:
        if lacking := origins.without_package(_experiments(prepared)):
            raise UserError(_lacks_package(lacking)) from error
        raise UserError(_problem(error) + origins.hint(verb, {})) from error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if (where := paths.user_conf()) is None:
            raise
        raise UserError(  # Hydra takes the form of a file for granted
            f"{where}: a file there has no form that a configuration can have: "
            f"{' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    words = [word.lstrip("+").partition("=") for word in prepared]
    given = {key: value for key, _, value in words}
    user_conf.check_reach(verb, _unresolved(raw), set(given))
    chosen = {str(k): v for k, v in _plain(raw.hydra.runtime.choices).items()}
    training = issubclass(settings, TrainConfig)
    groups = paths.groups() if training else {}
    choices = {str(group): str(chosen[group]) for group in chosen if group in groups}
    if (launcher := choices.get(paths.LAUNCHER_GROUP)) in paths.OLD_LAUNCHERS:
        choices[paths.LAUNCHER_GROUP] = paths.OLD_LAUNCHERS[launcher]
    launcher_values = _plain(raw.hydra.launcher)
    with open_dict(raw):
        del raw["hydra"]
        sweep = _plain(raw.pop("sweep", {})) if training else {}
    for params in declared.values():
        sweep["params"] = _with_params(sweep.get("params"), params)
    model = resolvers.chosen_model.set(choices.get("model"))
    try:
        config = _merged(settings, _resolved(raw))
        found = check_typed(config) if checked else None
        if isinstance(found, TrainConfig):
            _check_sizes(found, given)
            unused.check(given, found)
        return Composed(config, found, choices, sweep, launcher_values)
    except UnknownKeyError as error:
        group = error.key.partition(".")[0]
        names = _experiments(prepared) or [choices.get("experiment", "")]
        if group in choices and (experiment := origins.experiment_of(error.key, names)):
            option = f"{group}={choices[group]}"
            raise UserError(
                f"{experiment} sets {error.key}, which {option} does not have; choose an "
                f"experiment for {option}, or leave {option} out"
            ) from error
        if group == "experiment" and (lacking := origins.without_package(names)):
            raise UserError(_lacks_package(lacking)) from error
        raise UserError(str(error) + origins.hint(verb, chosen)) from error
    except MissingValueError as error:
        more = origins.base_hint(error.key.partition(".")[0], choices)
        raise UserError(f"{error}{more or origins.hint(verb, chosen)}") from error
    except UserError as error:
        raise type(error)(str(error) + origins.hint(verb, chosen)) from error
    finally:
        resolvers.chosen_model.reset(model)


def _declared(prepared: list[str]) -> dict[str, dict[str, Any]]:
    """The overrides that declare what a sweep varies, each with what it declares.

    They are kept from Hydra, which cannot put a list where an experiment has a range.
    """
    found = {}
    for word in prepared:
        name, _, _ = word.lstrip("+").partition("=")
        if name != PARAMS and not name.startswith(f"{PARAMS}."):
            continue
        value = grammar.parse(word).value()
        if name != PARAMS:
            found[word] = {name.removeprefix(f"{PARAMS}."): value}
        elif isinstance(value, dict):
            found[word] = value
    return found


def _with_params(params: Any, more: dict[str, Any]) -> dict[str, Any]:
    """`params` of a sweep with `more`: a list or a range takes the place of what was there, keys
    of a range that are not given again stay."""
    found = dict(params) if isinstance(params, dict) else {}
    for key, value in more.items():
        old = found.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            found[key] = {**old, **value}
        else:
            found[key] = value
    return found


def _experiments(prepared: list[str]) -> list[str]:
    """The experiments that the overrides choose."""
    given = [word[11:] for word in prepared if word.startswith("experiment=")]
    return [name.strip("'\" ") for name in given[-1].strip("[]").split(",")] if given else []


def _lacks_package(file: Path) -> str:
    """What to add to an experiment whose keys are not those of the run."""
    return (
        f"{file} lacks its first line, # @package _global_, without which its keys are not those "
        "of the run"
    )


def _check_sizes(settings: TrainConfig, given: dict[str, str]) -> None:
    """Raise UserError if somebody gives what `model.pretrained` decides."""
    if settings.model.pretrained is None:
        return
    for key, value in given.items():
        if key.removeprefix("model.") in DECIDED and key.startswith("model."):
            raise UserError(
                f"{key}={value}: the checkpoint model.pretrained={settings.model.pretrained} "
                "decides this; leave it out"
            )


def _plain(node: Any) -> dict[str, Any]:
    """A node as plain values, interpolations resolved; {} for what is no mapping."""
    try:
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {first_line(error)}") from error
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def _unresolved(raw: DictConfig) -> dict[Any, Any]:
    """The composed YAML as plain values, `${` as it is."""
    plain = OmegaConf.to_container(raw, resolve=False)
    assert isinstance(plain, dict)
    return plain


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
    types = {o.key: o.type for o in walk(cls, replace)}
    try:
        cfg = OmegaConf.merge(schema, _at_home(_escaped(plain)))
    except ConfigKeyError as error:
        known = dict.fromkeys([*types, *(key.split(".")[0] for key in types)])
        raise unknown_key(
            prefix + (error.full_key or str(error.key)), [prefix + k for k in known]
        ) from error
    except (ValidationError, OmegaConfBaseException) as error:
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


def _problem(error: Exception) -> str:
    """What Hydra could not compose; the reason is often one error further down."""
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return str(unknown_key(cause.full_key, []))
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    return first_line(error)


def _yaml_problem(error: Any) -> str:
    """File, line and reason of a syntax error in YAML."""
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{where}not YAML: {error.problem}"
