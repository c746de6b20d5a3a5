"""Checks classes that come from outside mambalab, and describes what they raise in one line."""

import contextlib
import inspect
import logging
import math
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
from mambalab.tasks.text import TextTask
from mambalab.train import runtime
from mambalab.train.checks import check_metrics
from mambalab.train.progress import StoppedError, watching
from mambalab.utils import memory

LOG = logging.getLogger("mambalab")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # SyncBatchNorm uses all rows
_OURS = Path(__file__).parents[1]
_PARTS_TOLERANCE = 1e-3  # between a loss and the mean of its parts; float32 differs by less


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
        if task.tuning and not task.tunes:
            raise UserError(
                f"task.tune=true: {_name('task', cls)} does not know it: hold a tenth of the "
                "training data out as val in its prepare and set self.tunes = True there, or leave "
                "task.tune out"
            )
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
    for split, position in [*((s, None) for s in task.splits), ("train", 0)]:
        if split not in task.labels:
            continue
        rows = np.unique([0, len(task.labels[split]) - 1])
        ends = (len(rows), 2) if spec.pair else (len(rows),)
        found: Any = task.inputs(split, rows, position)
        called = f"self.inputs({split!r}, {rows.tolist()}, {position})"
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


def check_output(model: nn.Module, task: Task, device: torch.device, *, rows: int) -> None:
    """Let a user's model answer once, before anything is created: classify one example, or
    continue one window of text.

    Does nothing for models of mambalab and for tasks of other kinds. Leaves the generators of
    random numbers as they were.

    Args:
        model: of the run.
        task: prepared.
        device: of both.
        rows: tokens of a vocabulary that the model was built for.

    Raises:
        UserError: it cannot be called as such a model is, fails, or returns another shape than
            (1, classes) or (1, l, rows).
    """
    cls = type(model)
    if not is_user_class(cls) or not isinstance(task, ClassificationTask | TextTask):
        return
    classifies = isinstance(task, ClassificationTask)
    names = ["x", "lengths"] if classifies else ["x"]
    try:
        inspect.signature(model.forward).bind(*names)
    except TypeError as error:
        does = "names a class" if classifies else "predicts a text"
        raise UserError(
            f"{_name('model', cls)}: task {task.name} {does}, so the model is called as "
            f"forward({', '.join(names)}): {error}"
        ) from error
    random = runtime.random_state(device)
    with one_line_errors(task=type(task), model=cls), evaluating(model):
        inputs = task.inputs("val", np.array([0]), None) if classifies else [task.batch(0)[0][:1]]
        logits: Any = model(*inputs)
    runtime.restore_random_state(random, device)
    what = "example" if classifies else "window"
    wanted = (1, task.spec.classes) if classifies else (*inputs[0].shape, rows)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        wide = isinstance(logits, Tensor) and tuple(logits.shape[:-1]) == wanted[:-1]
        hint = (
            f"; a wider vocabulary is named with model.vocab_size={logits.shape[-1]}"
            if wide and not classifies and logits.shape[-1] > rows
            else ""
        )
        raise UserError(
            f"{_name('model', cls)}: for one {what} of task {task.name} forward must return "
            f"{wanted} logits, not {_shape(logits)}{hint}"
        )


def check_measure(model: nn.Module, task: Task, device: torch.device) -> None:
    """Let a user's `measure` measure one batch of the validation split before training.

    All of the split if it does not go through `eval_batches`. Does nothing for the measures of
    mambalab. Leaves the generators of random numbers as they were; warns of a metric that is NaN.

    Raises:
        UserError: it fails, or lacks the metric by which checkpoints are chosen.
    """
    cls = type(task)
    owner = next(base for base in cls.__mro__ if "measure" in vars(base))
    if not is_user_class(owner):
        return
    calls, metrics, measured = iter([None]), None, False
    random = runtime.random_state(device)
    with (
        one_line_errors(task=cls, model=type(model)),
        contextlib.suppress(StoppedError),  # a batch went well; names come at the end
        watching(task, "trying", lambda: next(calls, "enough")),
    ):
        metrics, measured = task.evaluate(model, "val"), True
    runtime.restore_random_state(random, device)
    if not measured:
        return
    try:
        check_metrics(metrics, task.metric)
    except UserError as error:
        raise UserError(f"{_name('task', cls)}: {error}") from None
    assert metrics is not None, "checked"
    if math.isnan(value := metrics[task.metric]):
        LOG.warning(
            "%s: before training, measure gives %s for %s; while it does, no checkpoint is better "
            "than another",
            _name("task", cls),
            value,
            task.metric,
        )


def warn_of_parts(model: nn.Module, task: Task, device: torch.device, size: int) -> None:
    """Warn if several processes would train something else than one: batch norm, or a user's task
    whose loss of a batch is not the mean of its parts' losses.

    The latter is tried on the first batch, in evaluation mode. Leaves the generators of random
    numbers as they were.

    Args:
        model: of the run.
        task: prepared.
        device: of both.
        size: number of processes.
    """
    if size == 1:
        return
    if any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        LOG.warning(
            "batch norm: each of the %s processes normalises by its own rows of a batch alone, and "
            "the running statistics are those of process 0: losses are not those of one process",
            size,
        )
    if not is_user_class(type(task)):
        return
    random = runtime.random_state(device)
    with one_line_errors(task=type(task), model=type(model)), evaluating(model):
        batch = task.batch(0)
        parts = [task.part(batch, rank, size) for rank in range(size)]
        whole, again = (float(task.loss(model, batch)) for _ in range(2))
        mean = sum(float(task.loss(model, part)) for part in parts) / size
    runtime.restore_random_state(random, device)
    if whole == again and abs(mean - whole) > _PARTS_TOLERANCE * abs(whole):
        LOG.warning(
            "%s: the loss of the first batch is %.6g, but the mean of its %s parts %.6g, which is "
            "what several processes train: let loss be a mean over rows of equal weight",
            _name("task", type(task)),
            whole,
            size,
            mean,
        )
