"""Builds tasks and models from settings, and brings runs back to life from their folders."""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mambalab import config
from mambalab.errors import UserError
from mambalab.models.heads import count_parameters, head_class
from mambalab.records import run_folder
from mambalab.runs import user_code
from mambalab.settings.model import AUTO
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task
from mambalab.tasks.text import CHARACTERS
from mambalab.tokenization import tokenizer
from mambalab.train import checkpoint, runtime
from mambalab.utils.files import read_json, write_json

SPEC = "spec.json"
VOCABULARY, TOKENIZER = tokenizer.VOCABULARY, tokenizer.FILE


def build_task(
    settings: config.TrainConfig, data_dir: str | None = None, vocabulary: Path | None = None
) -> Task:
    """The task that the settings name; nothing is read yet.

    Args:
        settings: of the run.
        data_dir: instead of the settings'.
        vocabulary: a tokenizer.json, instead of what task.tokenizer names.

    Raises:
        UserError: a class of the user's own that is no task, or cannot be made as tasks are.
    """
    task: Any = settings.task
    assert vocabulary is not None or settings.model.pretrained is None, (
        "characters would be the tokens"
    )
    if vocabulary is not None:
        task = dataclasses.replace(task, tokenizer=str(vocabulary))
    return _build(
        "task",
        config.resolve_target(task._target_),
        Task,
        task,
        seed=settings.seed,
        data_dir=Path(data_dir or settings.data_dir).expanduser(),
        data_fraction=settings.data_fraction,
    )


def build_model(settings: config.TrainConfig, spec: ModelSpec) -> nn.Module:
    """The model that the settings name, freshly initialised on the current default device.

    Raises:
        UserError: as `build_task`, or model.vocab_size is too small for the task.
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
    """An object of a class that may be the user's own, once it is sure that it takes all this."""
    name = f"{group}._target_={target.__module__}.{target.__qualname__}"
    if not issubclass(target, base):
        raise UserError(f"{name}: no {base.__name__}; derive it from {_public(base)}")
    if lacking := sorted(getattr(target, "__abstractmethods__", ())):
        raise UserError(f"{name}: lacks the method {', '.join(lacking)} of {_public(base)}")
    try:
        inspect.signature(target).bind(*args, **options)
    except TypeError as error:
        given = ["settings", *(["dropout", "spec"] if args[1:] else ["*"]), *options]
        raise UserError(f"{name}: its __init__ must take ({', '.join(given)}): {error}") from error
    with user_code.named(**{group: target}):
        return target(*args, **options)


def _public(base: type) -> str:
    return "torch.nn.Module" if base is nn.Module else f"{base.__module__}.{base.__qualname__}"


def counts_line(settings: config.TrainConfig, spec: ModelSpec, model: nn.Module) -> str:
    """Parameters of the model, and of the Transformer or Mamba it would be compared with."""
    count = count_parameters(model)
    line = f"{settings.model.name}: {count:,} parameters"
    twins = {"M": ("A", "transformer"), "A": ("M", "mamba")}
    kinds = "".join(sorted(set(settings.model.pattern)))
    if kinds not in twins or settings.model._target_ != AUTO:
        return line
    pattern, name = twins[kinds]
    twin = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, pattern=pattern),
        dropout=dataclasses.replace(settings.dropout, ssm_p=0.0),
    )
    with torch.device("meta"):
        other = count_parameters(build_model(twin, spec))
    return f"{line} ({name} of this width and depth: {other:,}, {100 * (other / count - 1):+.1f} %)"


def own_tokenizer(run_dir: Path, settings: config.TrainConfig) -> Path | None:
    """The tokenizer.json that a run keeps; None if its tokens are characters, or it has none.

    Raises:
        UserError: it should be there and is not.
    """
    path = run_dir / TOKENIZER
    if path.exists():
        return path
    named = getattr(settings.task, "tokenizer", None)
    if settings.model.pretrained is not None or named not in (None, CHARACTERS):
        raise UserError(f"{path} is missing: bring the run's own tokenizer back")
    return None


def write_spec(run_dir: Path, spec: ModelSpec) -> None:
    """Keep the shape of the task, so that the model can be rebuilt without the data."""
    write_json(run_dir / SPEC, dataclasses.asdict(spec))


@dataclass
class LoadedRun:
    """A run read back from its folder.

    Attributes:
        path: the run folder.
        settings: as the run was trained.
        model: with the best weights (the last ones if none was evaluated), in evaluation mode.
        step: optimiser steps behind these weights.
        device, precision: where it computes now, and as it was trained.
    """

    path: Path
    settings: config.TrainConfig
    model: Any
    step: int
    device: torch.device
    precision: Precision


def load_run(path: Path, *, device: str, trust: list[str]) -> LoadedRun:
    """Rebuild the model of a run from its folder alone; the data are not needed.

    Raises:
        UserError: the folder holds no checkpoint, is damaged, or names code from outside
            mambalab that `trust` does not cover.
    """
    settings = config.typed(config.load_run_config(path, trust))
    fields = read_json(path / SPEC)
    try:
        spec = ModelSpec(**fields)
    except TypeError:
        raise UserError(
            f"{path / SPEC} is missing or damaged: this run cannot be rebuilt"
        ) from None
    source = checkpoint.find(path, "best") or checkpoint.find(path, "last")
    if source is None:
        raise UserError(f"{path} holds no checkpoint yet: train it first")
    place = runtime.choose_device(device)
    weights, _, _ = checkpoint.load(source, place)
    with place:
        model = build_model(settings, spec)
    checkpoint.restore_weights(model, weights, source.path)
    recorded = read_json(path / run_folder.SUMMARY).get("precision", "fp32")
    precision = Precision(recorded)
    if precision is Precision.bf16 and not runtime.has_fast_bf16(place):
        precision = Precision.fp32
    return LoadedRun(path, settings, model.eval(), source.step, place, precision)
