"""Finds the data that a run was trained on, from whichever folder is asked, and after a move."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from mambalab.errors import UserError
from mambalab.runs import load, user_code
from mambalab.runs.build import build_task
from mambalab.runs.load import LoadedRun
from mambalab.tasks.base import Task
from mambalab.tokenization.vocabulary import NoTokenError
from mambalab.train.checks import describe_changes


def places(loaded: LoadedRun) -> list[str]:
    """Where the file or folder of `task.path` may be now, the likeliest first.

    That is where the run found it; as far from a folder above the run's own as it was from the
    working directory of the training, in case that both were moved together; or from the working
    directory of now. Empty if it is in none of these, or the task has no path.
    """
    named = getattr(loaded.settings.task, "path", None)
    if named is None:
        return []
    relative = Path(os.path.expanduser(named))
    recorded = (loaded.summary.data or {}).get("path")
    above = [] if relative.is_absolute() else [p / relative for p in loaded.path.absolute().parents]
    every = [*([Path(recorded)] if isinstance(recorded, str) else []), *above, relative.absolute()]
    return list(dict.fromkeys(str(place) for place in every if os.path.exists(place)))


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
    named = getattr(settings.task, "path", None)
    if path is not None and not hasattr(settings.task, "path"):
        raise UserError(f"path={path}: task {settings.task.name} has no task.path to replace")
    tries: list[str | None] = [path] if path is not None or named is None else [*places(loaded)]
    if not tries:
        recorded = (loaded.summary.data or {}).get("path") or os.path.abspath(
            os.path.expanduser(str(named))
        )
        raise UserError(
            f"{recorded}: not found, which is task.path={named} of {loaded.path}; "
            f"name the place where it lies now with path=FILE_OR_FOLDER"
        )
    vocabulary = load.own_tokenizer(loaded.path, settings)
    trained_on = loaded.summary.data or {}
    problem: UserError | None = None
    for place in tries:
        at = settings
        if place is not None:
            at = dataclasses.replace(settings, task=dataclasses.replace(settings.task, path=place))
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
            f"the data of task {task.name} are not those {loaded.path} was trained on{changed}: "
            "bring them back, or point data_dir or path to them"
        )
    assert problem is not None, "there is at least one place"
    raise problem
