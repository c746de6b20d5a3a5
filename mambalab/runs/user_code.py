"""Checks classes that come from outside mambalab, and describes what they raise in one line."""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task, evaluating
from mambalab.tasks.classification import ClassificationTask
from mambalab.train import runtime
from mambalab.utils import memory

_OURS = Path(__file__).parents[1]


def is_user_class(cls: type) -> bool:
    """Whether a class comes from outside mambalab."""
    return cls.__module__.partition(".")[0] != "mambalab"


def describe_user_error(error: BaseException, **classes: type) -> str | None:
    """Describe in one line an exception raised in user code; None if it was raised elsewhere.

    Args:
        error: as it was caught.
        classes: of the group `task` or `model`; those of mambalab are passed over.
    """
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    if memory.shortage(error) is not None:  # no mistake in the code; told by whoever runs it
        return None
    frames = traceback.extract_tb(error.__traceback__)
    for group, cls in classes.items():
        files = _files(cls)
        if not any(frame.filename in files for frame in frames):
            continue
        folders = {Path(file).parent for file in files}
        near = [f for f in frames if any(Path(f.filename).is_relative_to(p) for p in folders)]
        near = [f for f in near if not Path(f.filename).is_relative_to(_OURS)]
        last = [f for f in near if "site-packages" not in f.filename] or near
        where = f"{last[-1].filename}, line {last[-1].lineno}, in {last[-1].name}"
        reason = " ".join(str(error).split())
        return f"{_name(group, cls)}: {where}: {type(error).__name__}: {reason}".rstrip(": ")
    return None


@contextlib.contextmanager
def one_line_errors(**classes: type) -> Iterator[None]:
    """Turn what user code raises inside the block into one line; see `describe_user_error`.

    Raises:
        UserError: that line.
    """
    try:
        yield
    except Exception as error:
        if line := describe_user_error(error, **classes):
            raise UserError(line) from error
        raise


def _files(cls: type) -> set[str]:
    """Source files of a class and of the user classes that it derives from."""
    classes = [c for c in cls.__mro__ if is_user_class(c) and not _is_library(c)]
    return {file for c in classes if (file := getattr(sys.modules[c.__module__], "__file__", None))}


def _is_library(cls: type) -> bool:
    top = cls.__module__.partition(".")[0]
    return top == "torch" or top in sys.stdlib_module_names


def _name(group: str, cls: type) -> str:
    return f"{group}._target_={cls.__module__}.{cls.__qualname__}"


def prepare(task: Task, device: torch.device) -> None:
    """Prepare a task; a user's task is checked afterwards.

    Raises:
        UserError: as `Task.prepare`; user code fails, or leaves something out.
    """
    cls = type(task)
    with one_line_errors(task=cls):
        task.prepare(device)
        if not is_user_class(cls):
            return
        problem = None
        if not isinstance(getattr(task, "spec", None), ModelSpec):
            problem = "its prepare must set self.spec, a mambalab.spec.ModelSpec"
        elif isinstance(task, ClassificationTask):
            problem = _labels_problem(task) or _inputs_problem(task)
    if problem:
        raise UserError(f"{_name('task', cls)}: {problem}")


def _labels_problem(task: ClassificationTask) -> str | None:
    """What is wrong with `classes` and `labels` after `prepare`, or None."""
    for name in ("classes", "labels"):
        if not hasattr(task, name):
            return f"its prepare must set self.{name}"
    total = len(task.classes)
    if task.spec.classes != total:
        return f"self.spec has classes={task.spec.classes}, but self.classes names {total}"
    for split in task.splits:
        labels = task.labels.get(split)
        if labels is None:
            return f"self.labels lacks the split {split!r}; give it, or leave it out of splits"
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            return f"self.labels[{split!r}] must be a tensor (n,) of int64, not {_shape(labels)}"
        if not len(labels):
            return f"self.labels[{split!r}] is empty"
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= total:
            return (
                f"self.labels[{split!r}] goes from {low} to {high}; with {total} classes a label "
                f"is a number from 0 to {total - 1}"
            )
    return None


def _inputs_problem(task: ClassificationTask) -> str | None:
    """What is wrong with what `inputs` returns for the ends of a split, or None."""
    spec = task.spec
    kind = torch.float32 if spec.input_dim else torch.int64
    dims = 2 + spec.pair + (spec.input_dim > 0)
    for split in task.splits:
        rows = np.unique([0, len(task.labels[split]) - 1])
        ends = (len(rows), 2) if spec.pair else (len(rows),)
        found: Any = task.inputs(split, rows, None)
        called = f"self.inputs({split!r}, {rows.tolist()}, None)"
        if not isinstance(found, tuple) or len(found) != 2:
            return f"{called} must return (sequences, lengths or None), not {_shape(found)}"
        sequences, lengths = found
        if (
            not isinstance(sequences, Tensor)
            or sequences.dtype != kind
            or sequences.ndim != dims
            or tuple(sequences.shape[: len(ends)]) != ends
            or (spec.input_dim and sequences.shape[-1] != spec.input_dim)
        ):
            name = str(kind).removeprefix("torch.")
            shape = ", ".join(map(str, [*ends, "L", *([spec.input_dim] if spec.input_dim else [])]))
            return f"{called} must return a tensor ({shape}) of {name}, not {_shape(sequences)}"
        steps = sequences.shape[1 + spec.pair]
        if steps > spec.seq_len or (lengths is None and steps != spec.seq_len):
            return f"{called} returns {steps} steps, but self.spec has seq_len={spec.seq_len}"
        if lengths is not None and (
            not isinstance(lengths, Tensor)
            or lengths.dtype != torch.int64
            or tuple(lengths.shape) != ends
        ):
            return f"{called} must return lengths {ends} of int64 or None, not {_shape(lengths)}"
        if spec.vocab_size and not 0 <= int(sequences.min()) <= int(sequences.max()) < (
            spec.vocab_size
        ):
            return f"{called} holds tokens outside 0 to {spec.vocab_size - 1} (spec.vocab_size)"
    return None


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def check_classifier_output(model: nn.Module, task: Task, device: torch.device) -> None:
    """Let a user's model classify one example, before anything is created.

    Does nothing for models of mambalab and for tasks without classes. Leaves the generators of
    random numbers as they were.

    Raises:
        UserError: it cannot be called as a classifier is, fails, or returns another shape than
            (1, classes).
    """
    cls = type(model)
    if not is_user_class(cls) or not isinstance(task, ClassificationTask):
        return
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"{_name('model', cls)}: task {task.name} names a class, so the model is called as "
            f"forward(x, lengths): {error}"
        ) from error
    random = runtime.random_state(device)
    with one_line_errors(task=type(task), model=cls), evaluating(model):
        logits: Any = model(*task.inputs("val", np.array([0]), None))
    runtime.restore_random_state(random, device)
    wanted = (1, task.spec.classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        raise UserError(
            f"{_name('model', cls)}: for one example of task {task.name} forward must return "
            f"{wanted} logits, not {_shape(logits)}"
        )
