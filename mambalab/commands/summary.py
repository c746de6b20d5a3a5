"""`mambalab summary`: a model's layers, parameters, operations and memory, before it is trained."""

import json
import sys
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.config import compose, to_plain
from mambalab.config.schema import TrainConfig
from mambalab.errors import UserError
from mambalab.settings.rules import PATH, option
from mambalab.utils import console
from mambalab.utils.csv_text import csv_text
from mambalab.utils.mapping import flatten
from mambalab.utils.text import table, wrapped

if TYPE_CHECKING:
    from mambalab.runs.model_summary import ModelSummary

_OF_A_RUN = {"run", "format", "output_dir", "device", "precision", "trust"}  # that count beside it
_HEADER = ("layer", "type", "output", "parameters", "flops/token")
_UNITS = ("", "k", "M", "G", "T", "P")


class Format(Enum):
    """How a summary is shown."""

    table = "table"
    csv = "csv"
    json = "json"


@dataclass
class SummarySettings(TrainConfig):
    """`mambalab summary`: the settings of training, or a run that has its own."""

    run: str | None = option(
        "run folder, or latest, whose model it is; null = what the other settings make",
        **PATH,
        hint="a run folder, or the word latest",
    )
    format: Format = option("table for people, csv of the layers, or json with everything")


def run(settings: SummarySettings) -> int:
    """Print the summary; returns 0. No run is made; data that are absent may be fetched.

    Raises:
        UserError: no such run, or settings beside one; data absent; no such model.
    """
    with console.meanwhile("loading PyTorch"):
        from mambalab.runs import model_summary
        from mambalab.train import runtime

    recorded, spec = _chosen(settings)
    device = runtime.choose_device(settings.device)
    precision = runtime.choose_precision(settings.precision, device)
    found = model_summary.summarise(recorded, spec, device, precision)
    if settings.format is Format.json:
        console.result(json.dumps(as_json(found), indent=2, ensure_ascii=False), exact=True)
    elif settings.format is Format.csv:
        console.result(csv_text([_row(layer) for layer in found.layers]), end="", exact=True)
    else:
        console.result(text(found, console.columns(sys.stdout)))
    return 0


def _chosen(settings: SummarySettings) -> tuple[TrainConfig, Any]:
    """The settings of training that count, and the shape of their task."""
    import torch

    from mambalab import config
    from mambalab.runs import build, load, user_code

    if settings.run is None:
        if settings.model.pretrained is not None:
            raise UserError(
                "summary: the sizes are those of model.pretrained; give a run that began with it, "
                "as in mambalab summary latest"
            )
        task = build.build_task(settings)
        if (spec := task.known_spec()) is None:
            with console.meanwhile("reading the data"):
                user_code.prepare(task, torch.device("cpu"))
            spec = task.spec
        return settings, spec
    from mambalab.records import reader

    _refuse_more(settings)
    path = reader.resolve_run(settings.run, Path(settings.output_dir), trained=False)
    return config.typed(config.load_run_config(path, settings.trust)), load.spec_of(path)


def _refuse_more(settings: SummarySettings) -> None:
    """Raise UserError if settings are given that a run has of its own."""
    usual = flatten(to_plain(compose("summary", [], SummarySettings)))
    given = flatten(to_plain(settings))
    more = [k for k, v in given.items() if k not in _OF_A_RUN and v != usual.get(k)]
    if more := [key for key in more if key.split(".")[0] not in _OF_A_RUN]:
        raise UserError(
            f"run={settings.run} has settings of its own, {more[0]}={given[more[0]]} does not "
            "count: leave the run out, or the other settings"
        )


def as_json(found: "ModelSummary") -> dict[str, Any]:
    """Everything of a summary as JSON has it; units in the names."""
    memory = {f"{kind}_bytes": size for kind, size in asdict(found.memory).items()}
    return {
        "layers": [_row(layer) for layer in found.layers],
        "parameters": found.parameters,
        "embedding_parameters": found.embeddings,
        "batch_size": found.batch_size,
        "tokens_per_batch": found.tokens,
        "forward_flops_per_token": found.forward / found.tokens,
        "training_flops_per_token": (found.forward + found.backward) / found.tokens,
        "memory": {**memory, "total_bytes": found.memory.total},
        "device": found.device,
        "precision": found.precision,
    }


def _row(layer: Any) -> dict[str, Any]:
    """A layer as programs read it; its operations are those of a batch, forward."""
    return {
        "layer": layer.name,
        "type": layer.kind,
        "output": None if layer.shape is None else "x".join(map(str, layer.shape)),
        "parameters": layer.parameters,
        "forward_flops_per_batch": layer.flops,
    }


def text(found: "ModelSummary", columns: int | None = None) -> str:
    """Lay a summary out for people, for so many columns; None = without end."""
    rows = [
        (
            layer.name,
            layer.kind,
            "-" if layer.shape is None else f"({', '.join(map(str, layer.shape))})",
            f"{layer.parameters:,}",
            short_number(layer.flops / found.tokens) if layer.flops else "-",
        )
        for layer in found.layers
    ]
    count, memory = found.parameters, found.memory
    share = 100 * found.embeddings / count if count else 0.0
    trained = short_number((found.forward + found.backward) / found.tokens)
    held = [
        ("parameters", memory.parameters),
        ("gradients", memory.gradients),
        ("optimiser", memory.optimiser),
        *([("average", memory.average)] if memory.average else []),
        ("activations", memory.activations),
    ]
    lines = [
        f"parameters  {count:,}, of them {found.embeddings:,} ({share:.1f} %) in embeddings; "
        "shared ones count once, in the first layer that has them",
        f"flops       a token {short_number(found.forward / found.tokens)} forward, {trained} in "
        "training; a multiply-add is 2, work element by element is not counted",
        f"batch       {found.batch_size:,} x {found.tokens // found.batch_size:,} steps = "
        f"{found.tokens:,} tokens",
        f"memory      {_megabytes(memory.total)} a batch: "
        + ", ".join(f"{name} {_megabytes(size)}" for name, size in held),
        f"            for device={found.device} in {found.precision}, by the sizes of what "
        "autograd keeps; nothing was computed, buffers of kernels come on top",
    ]
    layers = table(_HEADER, rows, {"parameters", "flops/token"}, columns)
    return "\n".join([layers, "", *(wrapped(line, columns, 12) for line in lines)])


def short_number(value: float) -> str:
    """Write a large number in three digits: `1.53 M`."""
    place = 0
    while abs(value) >= 999.5 and place < len(_UNITS) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.3g} {_UNITS[place]}".rstrip()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"
