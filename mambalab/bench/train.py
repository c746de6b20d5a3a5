"""`mambalab bench train`: whole training steps of Mamba, both Transformers and the hybrid."""

import importlib
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import nn

from mambalab.bench.plain_transformer import PlainTransformer
from mambalab.bench.report import Result
from mambalab.bench.step import VOCABULARY, own_model, training_step
from mambalab.bench.timing import in_turns, milliseconds
from mambalab.settings.train import Precision
from mambalab.train import runtime
from mambalab.utils.packages import why_not_imported

LENGTHS = (256, 1024, 4096, 16384)
MODELS = ("mamba", "transformer", "transformer_equal_depth", "hybrid")
_MAX_PEER_TOKENS = 4096  # of a step of mambapy, which materialises (b, l, d, n)


class _Mambapy(nn.Module):
    """A language model of mambapy's blocks, of the same sizes as ours."""

    def __init__(self, d_model: int, n_layer: int) -> None:
        super().__init__()
        module = importlib.import_module("mambapy.mamba")
        self.embedding = nn.Embedding(VOCABULARY, d_model)
        self.mamba: Any = module.Mamba(module.MambaConfig(d_model=d_model, n_layers=n_layer))
        self.norm = nn.RMSNorm(d_model)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.mamba(self.embedding(tokens)))
        return hidden @ self.embedding.weight.T


def measure(
    device: torch.device,
    lengths: list[int] | None,
    seconds: float,
    *,
    d_model: int,
    n_layer: int,
    tokens: int,
) -> Result:
    """Time steps at each length; tokens a second, memory, and how flat Mamba's cost is."""
    precision = runtime.choose_precision(Precision.auto, device)
    result = Result(
        what="train",
        device=device.type,
        machine=f"{runtime.device_name(device)}, {precision.value}",
        versions=runtime.package_versions(),
        options={"d_model": d_model, "n_layer": n_layer, "tokens": tokens, "seconds": seconds},
        columns=["batch x length", "contender", "ms a step", "tokens/s", "Mamba x", "memory MB"],
        axis="training step (µs a token)",
        second_axis="memory of a step (MB)",
        notes=["Mamba x: how many times as many tokens a second as the contender"],
    )
    result.options["git_revision"] = runtime.git_revision()
    models = list(MODELS)
    if n_layer % 2:
        models.remove("transformer")
        result.missing["transformer"] = f"n_layer={n_layer}: it needs an even number of layers"
    if n_layer < 3:
        models.remove("hybrid")
        result.missing["hybrid"] = f"n_layer={n_layer}: below 3 it has no attention"
    speeds: dict[int, float] = {}
    for length in sorted(lengths or LENGTHS):
        batch = max(1, tokens // length)
        steps: dict[str, Callable[[], Any]] = {}
        made: dict[str, nn.Module] = {}
        for name in models:
            made[name], optimizer = own_model(name, length, d_model, n_layer, device)
            steps[name] = training_step(made[name], optimizer, batch, length, precision)
        if not speeds:  # at the shortest length, where layers weigh most
            plain = _plain(made["transformer_equal_depth"], device)
            optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, fused=True)
            steps["plain stack"] = training_step(plain, optimizer, batch, length, precision)
        took = in_turns(steps, device, seconds)
        speed = {k: batch * length / (milliseconds(v) / 1e3) for k, v in took.items()}
        speeds[length] = speed["mamba"]
        for name, value in speed.items():
            row: dict[str, Any] = {"batch x length": f"{batch} x {length}", "contender": name}
            row |= {"ms a step": milliseconds(took[name]), "tokens/s": value}
            if name != "mamba":
                row["Mamba x"] = speed["mamba"] / value
            if device.type == "cpu" and name != "plain stack":
                row["memory MB"] = _memory(name, length, batch, d_model, n_layer) / 1e6
                result.second.setdefault(name, []).append((length, row["memory MB"]))
            result.rows.append(row)
            if name != "plain stack":
                result.curves.setdefault(name, []).append((length, 1e6 / value))
        if "plain stack" in speed:
            ratio = speed["transformer_equal_depth"] / speed["plain stack"]
            result.notes.append(
                f"transformer_equal_depth is {ratio:.2f} times as fast as plain layers of its kind "
                "and size"
            )
    if len(speeds) > 1:
        spread = 100 * (max(speeds.values()) / min(speeds.values()) - 1)
        result.notes.append(f"Mamba's cost of a token varies by {spread:.0f} % over these lengths")
        result.notes += [growth(name, points) for name, points in result.curves.items()]
    if device.type == "cpu":
        length = min(speeds)
        batch = max(1, min(tokens, _MAX_PEER_TOKENS) // length)
        _add_mambapy(result, batch, length, d_model, n_layer, precision, speeds[length])
    return result


def growth(name: str, points: list[tuple[int, float]]) -> str:
    """Say how the time of a sequence grows with its length.

    Args:
        name: the contender.
        points: (length, time of a token), two or more, by increasing length.

    Returns:
        The exponent a of time ~ L^a, by least squares on logarithms, and that of the longest two
        lengths alone, where what grows fastest shows.
    """
    lengths = [math.log(length) for length, _ in points]
    times = [math.log(length * value) for length, value in points]
    whole = statistics.linear_regression(lengths, times).slope
    last = statistics.linear_regression(lengths[-2:], times[-2:]).slope
    return (
        f"{name}: the time of a sequence grows as L^{whole:.2f} over these lengths, as "
        f"L^{last:.2f} from {points[-2][0]:,} to {points[-1][0]:,}"
    )


def _plain(model: nn.Module, device: torch.device) -> nn.Module:
    """The model of A layers `model`, written plainly."""
    layers: Any = model.backbone.layers  # pyright: ignore[reportAttributeAccessIssue]
    d_ff, d_model = layers[0].mlp.fc1.weight.shape
    with device:
        return PlainTransformer(VOCABULARY, d_model, len(layers), layers[0].mixer.n_head, d_ff)


def _memory(name: str, length: int, batch: int, d_model: int, n_layer: int) -> int:
    """Resident bytes that steps need, measured in a process of their own."""
    sizes = map(str, (length, batch, d_model, n_layer))
    command = [sys.executable, "-m", "mambalab.bench.step", name, *sizes]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _add_mambapy(
    result: Result,
    batch: int,
    length: int,
    d_model: int,
    n_layer: int,
    precision: Precision,
    ours: float,
) -> None:
    """A row for mambapy's whole step; compared with `ours`, tokens a second at this length."""
    try:
        model = _Mambapy(d_model, n_layer)
    except ImportError as error:
        result.missing["mambapy"] = why_not_imported(error)
        return
    result.versions["mambapy"] = metadata.version("mambapy")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = training_step(model, optimizer, batch, length, precision)
    taken = milliseconds(in_turns({"mambapy": step}, torch.device("cpu"), 0.0)["mambapy"])
    speed = batch * length / (taken / 1e3)
    row = {"batch x length": f"{batch} x {length}", "contender": "mambapy", "ms a step": taken}
    result.rows.append(row | {"tokens/s": speed, "Mamba x": ours / speed})
