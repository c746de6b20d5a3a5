"""Classes named in configurations, and configurations of run folders that are not trusted."""

import logging
import traceback
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mambalab.config.compose import from_plain
from mambalab.config.own_modules import hidden_by, search_here
from mambalab.config.schema import TrainConfig
from mambalab.errors import UserError, first_line
from mambalab.settings.model import AUTO
from mambalab.utils.reading import read_yaml

LOG = logging.getLogger("mambalab")


def resolve_target(target: str) -> type:
    """The class that `_target_: package.module.Class` names.

    A module outside mambalab may also be in the working directory, see `own_modules`.

    Raises:
        UserError: no such module, it fails on import, no such class in it.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"_target_={target}: expected module.Class, as in my_module.MyTask")
    ours = _inside(module_name, "mambalab")
    if not ours:
        search_here(module_name)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not _inside(module_name, error.name):
            raise UserError(
                f"_target_={target}: {module_name} needs the module {error.name}, which is absent"
            ) from error
        raise UserError(
            f"_target_={target}: no module {error.name}"
            + ("" if ours else f", neither installed nor in {Path.cwd()}")
        ) from error
    except (Exception, SystemExit) as error:  # whatever a person's module does when imported
        if ours:
            raise
        raise UserError(f"_target_={target}: {_import_problem(module_name, error)}") from error
    found = getattr(module, name, None)
    hidden = None if ours else hidden_by(module_name)
    if not isinstance(found, type) or (ours and not _inside(found.__module__, "mambalab")):
        hint = f" ({hidden} stands before that of {Path.cwd()}: rename yours)" if hidden else ""
        raise UserError(f"_target_={target}: {module_name} has no class {name}{hint}")
    if hidden:
        LOG.warning("%s: taking %s, not the one in %s", target, hidden, Path.cwd())
    return found


def check_modules(trust: list[str]) -> None:
    """Raise UserError for a module in `trust` that does not exist: a slip, most likely."""
    for name in trust:
        try:
            search_here(name)
            found = find_spec(name) is not None
        except ModuleNotFoundError:  # of the package that it lies in
            found = False
        except (Exception, SystemExit) as error:
            raise UserError(f"trust={name}: {_import_problem(name, error)}") from error
        if not found:
            raise UserError(f"trust={name}: no such module, neither installed nor in {Path.cwd()}")


def _import_problem(module: str, error: BaseException) -> str:
    """File, line and reason why a person's module cannot be imported."""
    reason = first_line(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    frames = [f for f in frames if "importlib" not in f.filename]
    if not frames:
        return f"{module} cannot be imported: {type(error).__name__}: {reason}"
    # Where their own code was, not the library that it called.
    folder = Path(frames[0].filename).parent
    own = [f for f in frames if Path(f.filename).is_relative_to(folder)]
    own = [f for f in own if "site-packages" not in f.filename] or own
    return f"{own[-1].filename}, line {own[-1].lineno}: {type(error).__name__}: {reason}"


def load_run_config(run_dir: Path, trust: list[str]) -> TrainConfig:
    """The configuration in a run folder, read as data.

    Args:
        run_dir: folder that holds `config.yaml`.
        trust: modules outside mambalab whose classes it may name.

    Raises:
        UserError: no such file, not a configuration, a class outside mambalab that `trust` does
            not cover, an interpolation (they could read the environment).
    """
    path = Path(run_dir, "config.yaml")
    try:
        plain = read_yaml(path, path.parent)
    except FileNotFoundError as error:
        raise UserError(f"{run_dir}: not a run folder (it has no config.yaml)") from error
    if not isinstance(plain, dict):
        raise UserError(
            f"{path}: not the configuration of a run; bring it back from a copy, or train with "
            "resume=never, which sets the folder aside"
        )
    for key, value in _leaves(plain):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{path}: {key} holds ${{...}}, which is refused in a run's config")
    _check_trusted(path, plain, trust)
    try:
        return from_plain(plain)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_trusted(path: Path, plain: dict[str, Any], trust: list[str]) -> None:
    """Raise UserError if classes are named that `trust` does not cover; it names all of them."""
    strange: dict[str, str] = {}
    for key, target in _leaves(plain):
        if key.rsplit(".", 1)[-1] != "_target_" or (key, target) == ("model._target_", AUTO):
            continue
        module = str(target).rpartition(".")[0]
        if not any(_inside(module, trusted) for trusted in ["mambalab", *trust]):
            strange[f"{key} is {target}"] = module or str(target)
    if not strange:
        return
    needed = list(dict.fromkeys([*trust, *strange.values()]))
    add = needed[0] if len(needed) == 1 else f"[{','.join(needed)}]"
    raise UserError(
        f"{path}: {' and '.join(strange)}, code from outside mambalab; "
        f"if you trust it, add trust={add}"
    )


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield f"{prefix}{key}", inner
        yield from _leaves(inner, f"{prefix}{key}.")
