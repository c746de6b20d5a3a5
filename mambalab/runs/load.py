"""Reads runs back from their folders: settings, model, weights, tokenizer."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mambalab import config
from mambalab.errors import UserError
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import RunSummary
from mambalab.runs import rebuild
from mambalab.runs.build import build_model
from mambalab.settings.model import AUTO
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.tokenization.tokenizer import CHARACTERS, FILE
from mambalab.train import checkpoint, chosen, runtime
from mambalab.utils.files import read_json, write_json

LOG = logging.getLogger("mambalab")
_FACTS = ("pair", "masked", "fixed")  # fields of `ModelSpec` that are no sizes


def own_tokenizer(run_dir: Path, settings: config.TrainConfig) -> Path | None:
    """Path of the tokenizer.json that a run keeps; None if its tokens are characters, or it has
    none.

    Raises:
        UserError: it should be there and is not.
    """
    path = run_dir / FILE
    if path.exists():
        return path
    named = getattr(settings.task, "tokenizer", None)
    if settings.model.pretrained is not None or named not in (None, CHARACTERS):
        raise UserError(f"{path} is missing: bring the run's own tokenizer back")
    return None


def write_spec(run_dir: Path, spec: ModelSpec) -> None:
    """Keep the shape of the task, so that the model can be rebuilt without the data."""
    write_json(RunFolder(run_dir).spec, dataclasses.asdict(spec))


def read_spec(run_dir: Path) -> ModelSpec:
    """Read what `write_spec` wrote; raises UserError if it is missing or damaged."""
    path = RunFolder(run_dir).spec
    fields = read_json(path, run_dir)
    facts = [fields.get(name, False) for name in _FACTS]
    sizes = [size for name, size in fields.items() if name not in _FACTS]
    try:
        if {*map(type, facts)} != {bool} or any(type(n) is not int or n < 0 for n in sizes):
            raise TypeError("sizes are whole numbers")
        return ModelSpec(**fields)
    except (TypeError, AssertionError):
        raise UserError(f"{path} is missing or damaged") from None


def has_spec(run_dir: Path) -> bool:
    """Whether spec.json is there and whole."""
    try:
        read_spec(run_dir)
    except UserError:
        return False
    return True


def spec_of(run_dir: Path) -> ModelSpec:
    """Read spec.json, or what a checkpoint says in its place; raises UserError without either."""
    try:
        return read_spec(run_dir)
    except UserError as error:
        if (spec := rebuild.spec(run_dir)) is not None:
            LOG.warning("%s: its content is taken from a checkpoint", error)
            return spec
        raise UserError(f"{error}; its own `mambalab train` command writes that again") from None


@dataclass
class LoadedRun:
    """A run read back from its folder.

    Attributes:
        path: the run folder.
        settings: as the run was trained.
        model: with the weights that were asked for, in evaluation mode.
        step: optimiser steps after which these weights were saved.
        device, precision: where it computes now, and as it was trained, or fp32 where the device
            is not made for that.
        summary: what the run says of itself.
        spec: the shape of its task.
        ema: `trainer.ema` if the weights are a moving average, else None.
    """

    path: Path
    settings: config.TrainConfig
    model: Any
    step: int
    device: torch.device
    precision: Precision
    summary: RunSummary
    spec: ModelSpec
    ema: float | None = None

    def weights(self) -> str:
        """Describe which weights the model has, for people."""
        return f"step {self.step:,}" + (f", average (ema {self.ema:g})" if self.ema else "")


def load_run(path: Path, *, device: str, trust: list[str], which: str = chosen.BEST) -> LoadedRun:
    """Rebuild the model of a run from its folder alone; the data are not needed.

    Args:
        path: of the folder.
        device: as in the settings.
        trust: modules outside mambalab whose classes the run may name.
        which: checkpoint whose weights are read: best (the last one if none was evaluated), last
            or step_N. With `trainer.ema` they are the averaged ones.

    Raises:
        UserError: the folder holds no such checkpoint, is damaged, or names code from outside
            mambalab that `trust` does not cover.
    """
    settings = config.typed(config.load_run_config(path, trust))
    spec = spec_of(path)
    place = runtime.choose_device(device)
    source, weights, facts = chosen.read(path, which, place)
    check_sizes(settings, spec, weights, source.path)
    with place:
        model = build_model(settings, spec)
    checkpoint.restore_weights(model, weights, source.path)
    summary = rebuild.read_summary(RunFolder(path))
    checkpoint.refuse_foreign(source, facts, {"uid": summary.uid} if summary.uid else {})
    return LoadedRun(
        path,
        settings,
        model.eval(),
        source.step,
        place,
        _precision(summary.precision, place),
        summary,
        spec,
        facts.get("ema"),
    )


def _precision(trained: str | None, device: torch.device) -> Precision:
    """The precision of a run where the device is made for it, else fp32."""
    if trained == Precision.fp16.value and device.type == "cuda":
        return Precision.fp16
    if trained == Precision.bf16.value and runtime.has_fast_bf16(device):
        return Precision.bf16
    return Precision.fp32


def check_sizes(
    settings: config.TrainConfig, spec: ModelSpec, weights: dict[str, Any], source: Path
) -> None:
    """Raise UserError if settings ask for a larger model than weights are of; makes nothing.

    A stranger's settings may ask for one that no memory holds. What is counted is in every model
    of these sizes, so none that was saved is refused.
    """
    model = settings.model
    if model._target_ != AUTO:
        return
    width, inner = model.d_model, model.expand * model.d_model
    ranks = [n for n in (model.dt_rank,) if n != "auto"]
    mamba = inner * (3 * width + model.d_state + model.d_conv + sum(ranks))
    ffn = 0 if model.d_ff == "auto" else width * model.d_ff
    kinds = {"M": mamba, "A": 4 * width**2 + 2 * ffn, "S": 4 * width**2, "F": 3 * ffn}
    layers = model.layers()
    rows = max(spec.vocab_size, model.vocab_size or 0, spec.input_dim, spec.classes)
    if model.position_embedding:
        rows = max(rows, spec.seq_len)
    least = sum(kinds[kind] for kind in layers) + rows * width
    held = sum(tensor.numel() for tensor in weights.values())
    if least > held or len(layers) > len(weights):
        raise UserError(
            f"{source} holds {held:,} weights, and the model that config.yaml and spec.json "
            f"describe has more: another model's?"
        )
