"""Builds tasks and models from settings. `load.py` reads them back from a run folder."""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mambalab import config
from mambalab.errors import UserError
from mambalab.models.heads import count_parameters, head_class
from mambalab.runs import user_code
from mambalab.settings.model import AUTO, Rotary
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task


def build_task(
    settings: config.TrainConfig,
    data_dir: str | None = None,
    vocabulary: Path | None = None,
    ends: Sequence[int] = (),
) -> Task:
    """Build the task that the settings name; nothing is read yet.

    Args:
        settings: of the run.
        data_dir: instead of the settings'.
        vocabulary: a tokenizer.json, instead of what task.tokenizer names.
        ends: its tokens that end a text, besides those that the files beside it name.

    Raises:
        UserError: a user's class that is no task, or cannot be made as tasks are.
    """
    task: Any = settings.task
    assert vocabulary is not None or settings.model.pretrained is None, (
        "characters would be the tokens"
    )
    if vocabulary is not None:
        task = dataclasses.replace(task, tokenizer=str(vocabulary))
    built: Any = _build(
        "task",
        config.resolve_target(task._target_),
        Task,
        task,
        seed=settings.seed,
        data_dir=Path(data_dir or settings.data_dir).expanduser(),
        data_fraction=settings.data_fraction,
    )
    if ends:
        built.end_tokens = tuple(ends)
    return built


def check_model(settings: config.TrainConfig, task: Task) -> None:
    """Refuse a model that cannot do a task, before its data are read, where that is known by then.

    Raises:
        UserError: as `build_model`.
    """
    if settings.model._target_ == AUTO and (spec := task.known_spec()) is not None:
        with torch.device("meta"):
            build_model(settings, spec)


def build_model(settings: config.TrainConfig, spec: ModelSpec) -> nn.Module:
    """Build the model that the settings name, freshly initialised on the current default device.

    Raises:
        UserError: a user's class that is no model, or cannot be made as models are; or
            model.vocab_size is too small for the task.
    """
    if (rows := settings.model.vocab_size) is not None:
        if rows < spec.vocab_size or not spec.vocab_size:
            has = f"{spec.vocab_size:,} tokens" if spec.vocab_size else "vectors, no tokens"
            raise UserError(f"model.vocab_size={rows}: task {settings.task.name} has {has}")
        spec = dataclasses.replace(spec, vocab_size=rows)
    named = settings.model._target_
    target = head_class(spec) if named == AUTO else config.resolve_target(named)
    return _build("model", target, nn.Module, settings.model, settings.dropout, spec)


def is_ours(target: str) -> bool:
    """Whether `_target_` names a class of mambalab."""
    return target == AUTO or target.startswith("mambalab.")


def _build(group: str, target: type, base: type, *args: Any, **options: Any) -> Any:
    """Make an object of a class that may be a user's, once it is sure that it takes all this."""
    name = f"{group}._target_={target.__module__}.{target.__qualname__}"
    if not issubclass(target, base):
        raise UserError(f"{name}: no {base.__name__}; derive it from {_public(base)}")
    if lacking := sorted(getattr(target, "__abstractmethods__", ())):
        raise UserError(f"{name}: lacks the method {', '.join(lacking)} of {_public(base)}")
    try:
        if target.__init__ is nn.Module.__init__:
            raise TypeError("it has none of its own")
        inspect.signature(target).bind(*args, **options)
    except TypeError as error:
        given = ["settings", *(["dropout", "spec"] if args[1:] else ["*"]), *options]
        raise UserError(f"{name}: its __init__ must take ({', '.join(given)}): {error}") from error
    with user_code.one_line_errors(**{group: target}):
        return target(*args, **options)


def _public(base: type) -> str:
    return "torch.nn.Module" if base is nn.Module else f"{base.__module__}.{base.__qualname__}"


def counts_line(settings: config.TrainConfig, spec: ModelSpec, model: nn.Module) -> str:
    """Count the parameters of the model, and of those to compare it with at equal `n_layer`."""
    count = count_parameters(model)
    line = f"{settings.model.name}: {count:,} parameters"
    kinds = "".join(sorted(set(settings.model.pattern)))
    if kinds not in _TWINS or settings.model._target_ != AUTO:
        return line
    others = []
    for name, pattern in _TWINS[kinds].items():
        if settings.model.n_layer % len(pattern) == 0:
            other = _count(settings, spec, pattern)
            others.append(f"{name} {other:,}, {100 * (other / count - 1):+.1f} %")
    return f"{line} (of this width and n_layer: {'; '.join(others)})"


# For the kinds of layer in a model, the models it stands beside: name and pattern.
_TWINS = {
    "M": {"transformer": "SF", "transformer_equal_depth": "A"},
    "FS": {"mamba": "M"},
    "A": {"mamba": "M"},
}


def _count(settings: config.TrainConfig, spec: ModelSpec, pattern: str) -> int:
    """Parameters of a model of another pattern and otherwise these settings; makes nothing."""
    # How positions are counted changes no parameter, and not every width suits rows and columns.
    both_ways = settings.model.bidirectional or (spec.masked and pattern == "M")
    model = dataclasses.replace(
        settings.model, pattern=pattern, rotary=Rotary.sequence, bidirectional=both_ways
    )
    dropout = dataclasses.replace(settings.dropout, ssm_p=0.0)
    twin = dataclasses.replace(settings, model=model, dropout=dropout)
    with torch.device("meta"):
        return count_parameters(build_model(twin, spec))
