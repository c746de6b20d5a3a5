"""Finds the data that a run was trained on, from whichever folder is asked, and after a move."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mambalab.data.text_hub import is_hub
from mambalab.errors import UserError
from mambalab.runs import load, user_code
from mambalab.runs.build import build_task
from mambalab.runs.load import LoadedRun
from mambalab.settings.task import PLACES, PixelModelSettings
from mambalab.tasks.base import Task
from mambalab.tokenization.vocabulary import NoTokenError
from mambalab.train.checks import describe_changes


def places(loaded: LoadedRun) -> list[dict[str, Any]]:
    """Where the files or folders of `task.path` and its like may be now, the likeliest first.

    That is where the run found them; as far from a folder above the run's own as they were from the
    working directory of the training, in case that both were moved together; or from the working
    directory of now. A data set of the hub is where it was. Empty if they are in none of these, or
    the task has no path.

    Returns:
        For each place the values of `path`, `val_path` and `test_path`, as far as the run has them.
    """
    record, named = loaded.summary.data or {}, _named(loaded.settings.task)
    if not named:
        return []
    if is_hub(named.get("path")):
        return [named]
    above = [*loaded.path.absolute().parents, Path.cwd()]
    every = [{key: _recorded(record.get(key)) or value for key, value in named.items()}]
    every += [{key: _below(base, value) for key, value in named.items()} for base in above]
    found: list[dict[str, Any]] = []
    for place in every:
        if place not in found and on_disk(place):
            found.append(place)
    return found


def _named(task: Any) -> dict[str, Any]:
    """The keys of a task's settings that name files or folders, with their values."""
    if isinstance(task, PixelModelSettings):
        return {} if task.folder() is None else {"data": task.folder()}
    named = {key: getattr(task, key, None) for key in PLACES}
    return {key: value for key, value in named.items() if value is not None}


def on_disk(place: dict[str, Any]) -> bool:
    """Whether all files and folders of a place exist; a data set of the hub is none."""
    return all(map(os.path.exists, _listed(place)))


def _recorded(value: Any) -> str | list[str] | None:
    """What a run recorded of a place: a path, or a JSON list of them; None if it is neither."""
    if not isinstance(value, str):
        return None
    if not value.startswith("["):
        return value
    with contextlib.suppress(ValueError, RecursionError):
        paths = json.loads(value)
        if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
            return paths
    return None


def _below(base: Path, value: str | list[str]) -> str | list[str]:
    """Paths as they are from another folder; absolute ones stay."""
    if isinstance(value, str):
        return str(base / Path(os.path.expanduser(value)))
    return [str(_below(base, path)) for path in value]


def _listed(place: dict[str, Any]) -> list[str]:
    return [p for value in place.values() for p in ([value] if isinstance(value, str) else value)]


def candidates(loaded: LoadedRun, path: str | None = None) -> list[dict[str, Any]]:
    """Where a run's data may be, as `places`, and never nowhere.

    Args:
        loaded: the run.
        path: where the file or folder of `task.path` is; None looks for it.

    Returns:
        For each place what to set in the task's settings; one with nothing if the task has no path.

    Raises:
        UserError: the data are in none of the places, or the task has no path to replace.
    """
    task = loaded.settings.task
    named = _named(task)
    key = "data" if "data" in named else "path"
    found = places(loaded)
    if path is not None:
        if not hasattr(task, key):
            raise UserError(f"path={path}: task {task.name} has no task.path to replace")
        return [{**(found[0] if found else {}), key: path}]
    if not named:
        return [{}]
    if not found:
        value = next(iter(named.values()))
        recorded = (loaded.summary.data or {}).get(key) or os.path.abspath(
            os.path.expanduser(str(value))
        )
        raise UserError(
            f"{recorded}: not found, which is task.{key}={value} of {loaded.path}; "
            f"name the place where it lies now with path=FILE_OR_FOLDER"
        )
    return found


def prepared_task(
    loaded: LoadedRun,
    *,
    path: str | None = None,
    data_dir: str | None = None,
    check: Callable[[Task], None] = lambda task: None,
) -> Task:
    """Build and prepare a run's task on the data that the run was trained on.

    Args:
        loaded: the run.
        path: where the file or folder of `task.path` is; None looks for it (`places`).
        data_dir: folder of the data sets; None is the run's.
        check: called with the task before it reads anything.

    Raises:
        UserError: the data are absent, or others.
    """
    settings = loaded.settings
    tries = candidates(loaded, path)
    vocabulary = load.own_tokenizer(loaded.path, settings)
    trained_on = loaded.summary.data or {}
    problem: UserError | None = None
    for place in tries:
        at = dataclasses.replace(settings, task=dataclasses.replace(settings.task, **place))
        task = build_task(at, data_dir=data_dir, vocabulary=vocabulary)
        check(task)
        changed = ""
        try:
            user_code.prepare(task, loaded.device)
            found = task.fingerprint()
            if found.get("sha256") == trained_on.get("sha256"):
                return task
            changed = describe_changes(trained_on, found)
        except NoTokenError:  # a run's own tokens fit the text that it was trained on
            pass
        except UserError as error:  # another file of this name, perhaps
            problem = problem or error
            continue
        problem = UserError(
            f"the data of task {task.name} are not those {loaded.path} was trained on: bring them "
            f"back, or point data_dir or path to them{changed}"
        )
    assert problem is not None, "there is at least one place"
    raise problem
