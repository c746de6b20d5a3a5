"""A user's `./conf` in front of mambalab's own: how Hydra reads it, and what it may not do.

`./conf` is whatever lies in the folder one stands in, so it may be a stranger's. It chooses values,
and for training the classes of a project. It does not decide whom to trust or where recorded runs
are sent, and no verb that reads runs takes anything from the environment because of it.
"""

import contextlib
import filecmp
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mambalab.config import paths
from mambalab.errors import UserError, first_line
from mambalab.utils.reading import (
    NotYamlError,
    check_yaml,
    inside,
    parse_yaml,
    read_bytes,
    read_yaml,
)

TRAINING = ("train", "summary")  # verbs with the settings of training
MAX_FILE_BYTES = 1_000_000
MAX_NAMED = 3  # files that are named one by one
LOG = logging.getLogger("mambalab")
# Keys that count only where a person types them.
_TYPED = {"trust": "a recorded run's code would be loaded", "uri": "runs would be sent there"}


def register() -> None:
    """Let Hydra look into the working directory's `conf` before it looks into mambalab's."""
    import yaml
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf.errors import OmegaConfBaseException

    class UserConf(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            if user := paths.user_conf():
                search_path.prepend("mambalab-user", f"mambalab-user://{user}", anchor="main")

    class UserConfSource(FileConfigSource):
        @staticmethod
        def scheme() -> str:
            return "mambalab-user"

        def load_config(self, config_path: str) -> ConfigResult:
            path = Path(self.path, self._normalize_file_name(config_path))
            _check_file(path, Path(self.path))
            try:
                return super().load_config(config_path)
            except (yaml.MarkedYAMLError, UnicodeDecodeError, OmegaConfBaseException):
                raise
            except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
                # A value that is not what its tag or form promises: !!int x.
                raise NotYamlError(str(path), first_line(error)) from error

    plugins = Plugins.instance()
    for plugin in (UserConf, UserConfSource):
        if f"{plugin.__module__}.{plugin.__name__}" not in plugins.class_name_to_class:
            plugins.register(plugin)


def _check_file(path: Path, folder: Path) -> None:
    """Raise UserError for a file that Hydra should not read: no small regular file in the folder,
    YAML that would grow without bounds, or other places to search, which may be Python packages.
    """
    import yaml

    within = folder if inside(path, folder) else folder.parent
    data = read_bytes(path, within, limit=MAX_FILE_BYTES, kind="a configuration")
    with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):  # Hydra names the line
        text = data.decode("utf-8")
        check_yaml(text, str(path), aliases=True, loader=yaml.SafeLoader)  # as Hydra reads it
        try:
            plain = parse_yaml(text, str(path), aliases=True)
        except NotYamlError:
            return
        hydra = plain.get("hydra") if isinstance(plain, dict) else None
        if isinstance(hydra, dict) and hydra.get("searchpath"):
            raise UserError(f"{path}: hydra.searchpath: put the files into {folder} instead")


def check_reach(verb: str, raw: dict[Any, Any], typed: Collection[str]) -> None:
    """Check that `./conf` sets nothing that only the command line may set.

    Args:
        verb: the verb.
        raw: its composed configuration, interpolations not resolved.
        typed: the keys that were given on the command line.

    Raises:
        UserError: it does.
    """
    user = paths.user_conf()
    if user is None:
        return
    own: dict[str, Any] | None = None
    for key, value in raw.items():
        if key in typed or key == "hydra":
            continue
        if key in _TYPED and value not in (None, []):
            raise UserError(
                f"{key} in {user} does not count ({_TYPED[key]}): "
                f"take it out there, and type {key}=... if you mean it"
            )
        if verb in TRAINING or not any("${" in text for text in texts(value)):
            continue
        if own is None:
            own = read_yaml(paths.package_conf() / f"{verb}.yaml")
        if value != (own or {}).get(key):
            raise UserError(
                f"{key} in {user} holds ${{...}}, which is refused for mambalab {verb}: "
                f"write the value itself"
            )


def texts(value: Any) -> Iterator[str]:
    """All texts of plain values, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def replaced(verb: str) -> list[Path]:
    """List the files of `./conf` that take the place of mambalab's own for a verb.

    Those with the same content change nothing, as in a clone from which mambalab was installed.
    """
    user = paths.user_conf()
    if user is None:
        return []
    names = [f"{verb}.yaml"]
    if verb in TRAINING:
        names += [f"{group}/{name}.yaml" for group in paths.groups() for name in _options(group)]
    return [user / name for name in names if _differs(user / name, paths.package_conf() / name)]


def tell_replaced(verb: str) -> None:
    """Warn of files of `./conf` that take the place of mambalab's own; of many in one line."""
    files = replaced(verb)
    if len(files) > MAX_NAMED:
        more = len(files) - 1
        LOG.warning("%s and %d more files take the place of mambalab's own", files[0], more)
        return
    for path in files:
        LOG.warning("%s takes the place of mambalab's own", path)


def _differs(own: Path, ours: Path) -> bool:
    """Whether a file of the user's is there and not what mambalab's own holds."""
    if not own.is_file():
        return False
    return not (ours.is_file() and filecmp.cmp(own, ours, shallow=False))


def _options(group: str) -> list[str]:
    base = paths.package_conf() / group
    return sorted(
        path.relative_to(base).with_suffix("").as_posix() for path in base.rglob("*.yaml")
    )
