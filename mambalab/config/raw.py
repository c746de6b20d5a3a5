"""What Hydra makes of YAML files and overrides: values as they are written, not typed, unchecked.

Hydra composes the files and applies what the command line sets; nothing else is asked of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mambalab.config import grammar, origins, paths, user_conf
from mambalab.config.axes import SWEEP
from mambalab.config.messages import unknown_key
from mambalab.errors import UserError, first_line
from mambalab.utils import packages

PARAMS = f"{SWEEP}params"
MAX_KEPT = 64  # compositions, of some 100 kB each
# Overrides that are no plain values, and the keys of those that are, with whether they are lists.
_Kind = tuple[tuple[str, ...], frozenset[tuple[str, bool]]]


@dataclass
class Raw:
    """What YAML files and overrides amount to before types.

    Attributes:
        values: of the verb, interpolations not resolved.
        chosen: the option chosen in each group, Hydra's own groups included.
        choices: those of the groups that people choose from; a launcher by its new name.
        sweep, launcher: plain values of `sweep` and of `hydra.launcher`, interpolations resolved.
    """

    values: DictConfig
    chosen: dict[str, str]
    choices: dict[str, str]
    sweep: dict[str, Any]
    launcher: dict[str, Any]


def read(verb: str, prepared: list[str]) -> Raw:
    """Compose the YAML of a verb with overrides.

    Args:
        verb: name of its YAML file.
        prepared: from `mambalab.config.overrides.prepare`.

    Raises:
        UserError: one line for whatever is wrong with a file or with an override.
    """
    declared = _declared(prepared)
    composed = _composed(verb, [word for word in prepared if word not in declared])
    return _split(verb, prepared, composed, declared)


class Reader:
    """Reads as `read` does, for the jobs of a grid, many of which differ in plain values alone.

    Hydra reads some twenty files for each composition. Where another job chose the same files and
    set the same keys, its composition is taken and the values are set in it. Files that are changed
    in between are not seen.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self._kept: dict[_Kind, Raw] = {}

    def read(self, prepared: list[str]) -> Raw:
        """Compose as `read` does; what is returned holds until the next call.

        Args:
            prepared: from `mambalab.config.overrides.prepare`.

        Raises:
            UserError: as `read`.
        """
        overrides = [grammar.parse(word) for word in prepared]
        if not _independent(overrides):
            return read(self.verb, prepared)
        values = {o.key_or_group: o for o in overrides if _is_value(o)}
        others = tuple(o.input_line for o in overrides if o.key_or_group not in values)
        kind = others, frozenset((k, isinstance(o.value(), list)) for k, o in values.items())
        if (kept := self._kept.get(kind)) is not None:
            try:
                OmegaConf.clear_cache(kept.values)  # of what ${now:...} and its like gave
                for key, one in values.items():
                    add = one.is_force_add()
                    OmegaConf.update(kept.values, key, one.value(), merge=True, force_add=add)
                return kept
            except OmegaConfBaseException:  # Hydra says what is wrong with it
                del self._kept[kind]
        declared = _declared(prepared)
        composed = _composed(self.verb, [word for word in prepared if word not in declared])
        alone = not (_refers(composed.get("sweep")) or _refers(composed.hydra.launcher))
        found = _split(self.verb, prepared, composed, declared)
        if alone:
            while len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[kind] = found
        return found


def _independent(overrides: Sequence[Any]) -> bool:
    """Whether no override depends on the values of others, or on their order: none takes a key
    away, none sets what another one sets, too, or a part of it."""
    keys = sorted(key for o in overrides if not _is_group(key := o.key_or_group))
    apart = not any(b == a or b.startswith(f"{a}.") for a, b in combinations(keys, 2))
    return apart and not any(o.is_delete() for o in overrides)


def _is_value(override: Any) -> bool:
    """Whether an override sets a key to a value that takes the place of any other."""
    key = override.key_or_group
    return not (
        override.is_add()
        or override.is_sweep_override()
        or override.package is not None
        or "${" in override.input_line
        or key.startswith((SWEEP, "hydra"))
        or _is_group(key)
        or isinstance(override.value(), dict)  # is merged
    )


def _is_group(key: str) -> bool:
    return any((root / key).is_dir() for root in paths.folders())


def _refers(node: Any) -> bool:
    """Whether a node refers to other values."""
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    return any("${" in text for text in user_conf.texts(plain))


def _composed(verb: str, prepared: list[str]) -> DictConfig:
    """The YAML of a verb with overrides as Hydra returns it, its own node included."""
    try:
        import hydra
        import yaml
        from hydra.errors import HydraException
    except Exception:  # old releases fail in ways of their own on new Pythons
        packages.require("hydra-core", "omegaconf", "pyyaml")
        raise

    user_conf.register()
    try:
        with hydra.initialize_config_dir(
            str(paths.package_conf()), job_name="mambalab", version_base="1.3"
        ):
            return hydra.compose(verb, overrides=prepared, return_hydra_config=True)
    except yaml.MarkedYAMLError as error:
        raise UserError(_yaml_problem(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{paths.folders()[0]}: a file there is not UTF-8") from error
    except RecursionError as error:
        where = paths.folders()[0]
        raise UserError(f"{where}: a file there names itself in its defaults list") from error
    except (HydraException, OmegaConfBaseException) as error:
        if lacking := origins.without_package(experiments(prepared)):
            raise UserError(lacks_package(lacking)) from error
        raise UserError(_problem(error) + origins.hint(verb, {})) from error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if (where := paths.user_conf()) is None:
            raise
        raise UserError(  # Hydra takes the form of a file for granted
            f"{where}: a file there has no form that a configuration can have: "
            f"{' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def _split(
    verb: str, prepared: list[str], composed: DictConfig, declared: dict[str, dict[str, Any]]
) -> Raw:
    """What Hydra returned, in parts; raises UserError for what `./conf` may not set."""
    user_conf.check_reach(verb, _unresolved(composed), given(prepared).keys())
    chosen = {str(k): str(v) for k, v in _plain(composed.hydra.runtime.choices).items()}
    training = verb in user_conf.TRAINING
    groups = paths.groups() if training else {}
    choices = {group: option for group, option in chosen.items() if group in groups}
    if (name := choices.get(paths.LAUNCHER_GROUP)) in paths.OLD_LAUNCHERS:
        choices[paths.LAUNCHER_GROUP] = paths.OLD_LAUNCHERS[name]
    launcher = _plain(composed.hydra.launcher)
    with open_dict(composed):
        del composed["hydra"]
        sweep = _plain(composed.pop("sweep", {})) if training else {}
    for params in declared.values():
        sweep["params"] = _with_params(sweep.get("params"), params)
    return Raw(composed, chosen, choices, sweep, launcher)


def given(prepared: list[str]) -> dict[str, str]:
    """The keys that overrides set, each with its value as it is written."""
    words = [word.lstrip("+").partition("=") for word in prepared]
    return {key: value for key, _, value in words}


def experiments(prepared: list[str]) -> list[str]:
    """The experiments that the overrides choose."""
    words = [word[11:] for word in prepared if word.startswith("experiment=")]
    return [name.strip("'\" ") for name in words[-1].strip("[]").split(",")] if words else []


def lacks_package(file: Path) -> str:
    """What to add to an experiment whose keys are not those of the run."""
    return (
        f"{file} lacks its first line, # @package _global_, without which its keys are not those "
        "of the run"
    )


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
