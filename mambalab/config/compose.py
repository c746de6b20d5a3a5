"""From a verb and what was written after it to a complete, checked configuration.

Hydra only composes the YAML files; the result is then merged onto the typed schema, which finds
unknown keys and wrong types, and every value is checked. Nothing is created on disk.
"""

import os
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

from mambalab.config import paths, unused
from mambalab.config.identity import DECIDED
from mambalab.config.messages import unknown_key, wrong_type
from mambalab.config.overrides import escape, prepare
from mambalab.config.schema import TrainConfig, complete, settings_class, task_settings, walk
from mambalab.errors import UserError, first_line
from mambalab.settings.rules import check


def _data_dir(default: str | None) -> str | None:
    """$MAMBALAB_DATA_DIR, else the default; an empty variable counts as none."""
    return os.environ.get("MAMBALAB_DATA_DIR") or default


OmegaConf.register_new_resolver("mambalab.data_dir", _data_dir, replace=True)


@dataclass(frozen=True)
class Composed:
    """What YAML files and overrides amount to.

    Attributes:
        config: of the verb, as `compose` returns it.
        choices: the option chosen in each group.
        sweep, launcher: plain, unchecked values of `sweep` and of `hydra.launcher`; training only.
    """

    config: DictConfig
    choices: dict[str, str]
    sweep: dict[str, Any]
    launcher: dict[str, Any]


def compose(verb: str, overrides: list[str]) -> DictConfig:
    """The configuration of a verb: typed, resolved, checked, closed to new keys.

    Args:
        verb: one of `mambalab.config.schema.VERB_SETTINGS`.
        overrides: `key=value` and `group=option`, as on the command line.

    Raises:
        UserError: one line for whatever is wrong with the overrides or with a YAML file.
    """
    found = compose_parts(verb, prepare(verb, overrides))
    params = found.sweep.get("params") or {}
    if keys := ", ".join(str(key) for key, values in params.items() if values is not None):
        raise UserError(
            f"this is a sweep (over {keys}): write mambalab train -m {' '.join(overrides)}"
        )
    return found.config


def compose_parts(verb: str, prepared: list[str], checked: bool = True) -> Composed:
    """As `compose`, of overrides that `prepare` has seen, with all that is not the run itself.

    Args:
        verb: as in `compose`.
        prepared: from `mambalab.config.overrides.prepare`.
        checked: False leaves values unchecked, for `--help`.
    """
    import hydra
    import yaml
    from hydra.errors import HydraException

    register_user_conf()
    try:
        with hydra.initialize_config_dir(
            str(paths.package_conf()), job_name="mambalab", version_base="1.3"
        ):
            raw = hydra.compose(verb, overrides=prepared, return_hydra_config=True)
    except yaml.MarkedYAMLError as error:
        raise UserError(_yaml_problem(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{paths.folders()[0]}: a file there is not UTF-8") from error
    except RecursionError as error:
        where = paths.folders()[0]
        raise UserError(f"{where}: a file there names itself in its defaults list") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_problem(error) + _shadow_hint(verb)) from error
    chosen = raw.hydra.runtime.choices
    groups = paths.groups() if verb == "train" else {}
    choices = {str(group): str(chosen[group]) for group in chosen if group in groups}
    launcher = _plain(raw.hydra.launcher)
    with open_dict(raw):
        del raw["hydra"]
        sweep = _plain(raw.pop("sweep", {})) if verb == "train" else {}
    try:
        config = finish(verb, raw, checked)
        if verb == "train" and checked:
            _check_sizes(config, prepared)
            unused.check(prepared, typed(config))
        return Composed(config, choices, sweep, launcher)
    except UserError as error:
        raise type(error)(str(error) + _shadow_hint(verb)) from error


def _check_sizes(config: DictConfig, prepared: list[str]) -> None:
    """Raise UserError if somebody gives what `model.pretrained` decides."""
    if config.model.pretrained is None:
        return
    for word in prepared:
        key, _, value = word.lstrip("+").partition("=")
        if key.removeprefix("model.") in DECIDED and key.startswith("model."):
            raise UserError(
                f"{key}={value}: the checkpoint model.pretrained={config.model.pretrained} decides "
                "this; leave it out"
            )


def _plain(node: Any) -> dict[str, Any]:
    """A node as plain values; what is no mapping is none of ours."""
    try:
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {first_line(error)}") from error
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def finish(verb: str, raw: DictConfig, checked: bool = True) -> DictConfig:
    """The composed YAML, resolved, merged onto the verb's schema and checked."""
    try:
        plain = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        key = error.full_key
        raise UserError(f"{f'{key}: ' if key else ''}{first_line(error)}") from error
    assert isinstance(plain, dict)
    return merge(verb, plain, checked)


def merge(verb: str, plain: dict[Any, Any], checked: bool = True) -> DictConfig:
    """Plain values on the verb's schema, typed and checked; `${` in a text means itself.

    Raises:
        UserError: unknown key, wrong type, missing value, value out of bounds.
    """
    cls = settings_class(verb)
    replace = {}
    if cls is TrainConfig:
        complete(plain)
        if isinstance(plain.get("task"), dict):
            replace["task"] = task_settings(plain["task"])
    return merge_onto(cls, plain, checked=checked, replace=replace)


def merge_onto(
    cls: type,
    plain: dict[Any, Any],
    *,
    checked: bool = True,
    replace: dict[str, type] | None = None,
    prefix: str = "",
) -> DictConfig:
    """As `merge`, for any settings class.

    Args:
        cls: the settings class.
        plain: its values.
        checked: False leaves values unchecked.
        replace: classes that stand at a key instead of the declared ones.
        prefix: what comes before the keys in messages, with its final dot.
    """
    schema = OmegaConf.structured(cls)
    for key, other in (replace or {}).items():
        schema[key] = OmegaConf.structured(other)
    types = {o.key: o.type for o in walk(cls, replace)}
    try:
        cfg = OmegaConf.merge(schema, _escaped(plain))
    except ConfigKeyError as error:
        known = dict.fromkeys([*types, *(key.split(".")[0] for key in types)])
        raise unknown_key(
            prefix + (error.full_key or str(error.key)), [prefix + k for k in known]
        ) from error
    except (ValidationError, OmegaConfBaseException) as error:
        key = error.full_key or ""
        kind = types.get(key)
        if key.endswith("]"):  # an entry of a list
            kind = next(iter(get_args(types.get(key.rpartition("[")[0]))), None)
        if kind is None:  # a group whose YAML is no mapping, say
            raise UserError(f"{f'{prefix}{key}: ' if key else ''}{first_line(error)}") from error
        raise wrong_type(prefix + key, _select(plain, key), kind) from error
    assert isinstance(cfg, DictConfig)
    if checked:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(
                f"{prefix}{missing[0]}: no value; set it in your YAML or on the command line"
            )
        check(typed(cfg), prefix)
    OmegaConf.set_struct(cfg, True)
    return cfg


def typed(cfg: DictConfig) -> Any:
    """The settings object (`TrainConfig`, `EvalSettings`, ...) of a composed configuration."""
    return OmegaConf.to_object(cfg)


def register_user_conf() -> None:
    """Let Hydra look into the working directory's `conf` before it looks into mambalab's."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class UserConf(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            if user := paths.user_conf():
                search_path.prepend("mambalab-user", f"file://{user}", anchor="main")

    name = f"{UserConf.__module__}.{UserConf.__name__}"
    if name not in Plugins.instance().class_name_to_class:
        Plugins.instance().register(UserConf)


def _escaped(value: Any) -> Any:
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
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{where}not YAML: {error.problem}"


def _shadow_hint(verb: str) -> str:
    """A file that stands in for mambalab's own is the first suspect when composing fails."""
    user = paths.user_conf()
    shadow = Path(user, f"{verb}.yaml") if user else None
    return f" ({shadow} replaces mambalab's own)" if shadow and shadow.is_file() else ""
