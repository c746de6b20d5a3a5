"""`mambalab bench generate`: what a token costs against what came before, for both models, and ours
against transformers' Mamba at the size of mamba-130m."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from mambalab.bench.reading import MEMORY_BYTES, bytes_of_state, bytes_of_weights, readers
from mambalab.bench.report import Result
from mambalab.bench.step import VOCABULARY, own_model
from mambalab.bench.timing import in_turns, milliseconds
from mambalab.generation.cpu_decode import fused, narrowed
from mambalab.generation.decoding import prefill, stepper
from mambalab.models.heads import LanguageModel
from mambalab.models.state import AttentionState, ModelState
from mambalab.settings.train import Precision
from mambalab.train import runtime
from mambalab.utils.openmp import GOMP_SPINCOUNT

CONTEXTS = (256, 1024, 4096, 16384)
BATCHES = (1, 8, 32)
SIZE = (768, 24, 50280)
"""d_model, n_layer and vocab_size of state-spaces/mamba-130m, for the comparison."""

TURN = 16  # tokens a sequence in one timed call: the first finds its weights out of the cache
_MAX_CACHE_BYTES = 1 << 30  # key-value caches beyond this are left out


def measure(
    device: torch.device,
    contexts: list[int] | None,
    batches: list[int] | None,
    seconds: float,
    *,
    d_model: int,
    n_layer: int,
    peers: bool,
) -> Result:
    """Time single tokens after contexts of several lengths, in batches of several sizes.

    A Mamba reads its contexts; a Transformer's cache is filled with random keys and values, which
    take as long to attend to.
    """
    precision = runtime.choose_precision(Precision.auto, device)
    result = Result(
        what="generate",
        device=device.type,
        machine=f"{runtime.device_name(device)}, {precision.value}",
        versions=runtime.package_versions(),
        options={"d_model": d_model, "n_layer": n_layer, "seconds": seconds},
        columns=[
            "contender", "batch", "context", "ms a token", "tokens/s", "state MB", "read MB",
            "% of bound", "% of cached",
        ],
        axis="tokens/s",
        across="context (tokens)",
        second_axis="state or cache (MB)",
        notes=[
            "read MB: weights, and the state or the filled cache of all sequences: a step reads it "
            "once",
            "% of bound: least time of reading as much from memory, over a step's",
            "% of cached: the same, of reading as much again and again, from caches if it fits",
        ],
    )  # fmt: skip
    result.options["git_revision"] = runtime.git_revision()
    contexts = sorted(contexts or CONTEXTS)
    models = {
        name: ready(own_model(name, contexts[-1], d_model, n_layer, device)[0], precision)
        for name in ("mamba", "transformer")
    }
    for name, model in models.items():
        if fault := _fault(model, device, precision):
            result.wrong[name] = fault
    if result.wrong:
        return result
    for batch in sorted(batches or BATCHES):
        _add_batch(result, models, contexts, batch, device, seconds, precision)
    if peers:
        _add_transformers(result, device, seconds)
    return result


def ready(model: Any, precision: Precision) -> LanguageModel:
    """The model in the form in which `mambalab generate` runs it."""
    model = model.eval()
    return narrowed(model) if precision is Precision.bf16 else model


def _fault(model: LanguageModel, device: torch.device, precision: Precision) -> str | None:
    """What is wrong with decoding: it must give the logits of reading everything at once."""
    tokens = torch.randint(VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(device)
    with torch.inference_mode(), runtime.autocast(device, precision):
        _, state = prefill(model, tokens[:, :30], 40)
        step = stepper(model, state, 3)
        for place in range(30, 40):
            logits = step(tokens[:, place])
        expected = model(tokens)[:, -1]
        worst = (logits - expected).abs().max() / expected.abs().max()
    allowed = 0.05 if precision is Precision.bf16 else 1e-4
    return None if worst < allowed else f"logits are off by {worst:.1e}"


def _add_batch(
    result: Result,
    models: dict[str, LanguageModel],
    contexts: list[int],
    batch: int,
    device: torch.device,
    seconds: float,
    precision: Precision,
) -> None:
    """Rows and curves of both models at every context, all measured in turns."""
    steps = {f"memory {how}": read for how, read in readers(MEMORY_BYTES, device).items()}
    sizes: dict[str, int] = {}
    reads: dict[str, int] = {}
    for name, model in models.items():
        if _layer_by_layer(model, batch, device, precision):
            result.notes.append(f"{name}, batch {batch}: layer by layer, not in one call a token")
        for context in contexts:
            key = f"{name} {context}"
            state = _behind(model, context, batch, device, precision)
            if state is None:
                result.notes.append(
                    f"left out: {name}, batch {batch}, context {context:,}: a cache of over 1 GiB"
                )
                continue
            sizes[key] = state.bytes()
            reads[key] = bytes_of_weights(model) + bytes_of_state(state, context)
            steps[key] = turn(model, state, context, batch, device, precision)
            if reads[key] <= MEMORY_BYTES:
                same = readers(reads[key], device, TURN)
                steps |= {f"{key} {how}": read for how, read in same.items()}
    took = in_turns(steps, device, seconds)
    rate = MEMORY_BYTES / _least(took, "memory")  # bytes a second
    result.options.setdefault("read_gb_s", {})[str(batch)] = rate / 1e9
    threads = f", on {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    result.notes.append(f"batch {batch}: memory was read at {rate / 1e9:.1f} GB/s{threads}")
    for name in models:
        label = f"{name}, batch {batch}"
        for context in contexts:
            key = f"{name} {context}"
            if key not in steps:
                continue
            each = milliseconds(took[key]) / TURN
            speed, size = batch * 1e3 / each, sizes[key] / 1e6
            bound = 1e3 * reads[key] / rate
            cached = None
            if f"{key} reading" in took:
                cached = 100 * 1e3 * _least(took, key) / TURN / each
            result.rows.append(
                {
                    "contender": name, "batch": batch, "context": context,
                    "ms a token": each, "tokens/s": speed, "state MB": size,
                    "read MB": reads[key] / 1e6,
                    "% of bound": 100 * bound / each, "% of cached": cached,
                }
            )  # fmt: skip
            result.curves.setdefault(label, []).append((context, speed))
            result.second.setdefault(label, []).append((context, size))
    first, last = (f"mamba {c}" for c in (contexts[0], contexts[-1]))
    change = 100 * (milliseconds(took[first]) / milliseconds(took[last]) - 1)
    result.notes.append(
        f"Mamba, batch {batch}: tokens/s at context {contexts[-1]:,} against "
        f"{contexts[0]:,}: {change:+.1f} %"
    )


def _least(took: dict[str, list[float]], what: str) -> float:
    """Seconds of the fastest reading of `what`."""
    return min(*took[f"{what} reading"], *took[f"{what} rows"])


def _layer_by_layer(
    model: LanguageModel, batch: int, device: torch.device, precision: Precision
) -> bool:
    """True if a model decodes by PyTorch's operations on a CPU, not by the compiled step."""
    with torch.inference_mode(), runtime.autocast(device, precision):
        state = model.initial_state(batch, 1)
        return device.type == "cpu" and fused(model, state, batch) is None


def _behind(
    model: LanguageModel, context: int, batch: int, device: torch.device, precision: Precision
) -> ModelState | None:
    """The state after a context; None if it takes too much memory."""
    room = context + TURN
    with torch.inference_mode(), runtime.autocast(device, precision):
        if model.context_limit is None:
            tokens = torch.randint(VOCABULARY, (1, context), device=device)
            state = model.initial_state(batch, room)
            _, one = prefill(model, tokens, room)
            for row in range(batch):
                state.put(row, one)
            return state
        state = model.initial_state(1, room)
        if state.bytes() * batch > _MAX_CACHE_BYTES:
            return None
        state = model.initial_state(batch, room)
        for layer in state.layers:
            if isinstance(layer, AttentionState):
                layer.key.normal_()
                layer.value.normal_()
        return state


def turn(
    model: LanguageModel,
    state: ModelState,
    context: int,
    batch: int,
    device: torch.device,
    precision: Precision,
) -> Callable[[], Tensor]:
    """A function that adds `TURN` tokens to every sequence, always after the same context."""
    tokens = torch.randint(VOCABULARY, (batch,), device=device)
    with torch.inference_mode(), runtime.autocast(device, precision):
        step = stepper(model, state, batch)

    def turn() -> Tensor:
        for layer in state.layers:
            if isinstance(layer, AttentionState):
                layer.filled = [context] * batch
        with torch.inference_mode(), runtime.autocast(device, precision):
            for _ in range(TURN):
                logits = step(tokens)
        return logits

    return turn


def _add_transformers(result: Result, device: torch.device, seconds: float) -> None:
    """Rows of `against_transformers`, from a process with OpenMP's own settings: ours, by which
    threads soon sleep, cost transformers more than us."""
    try:
        result.versions["transformers"] = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        result.missing["transformers"] = "not installed"
        return
    sizes = map(str, (device, seconds, *SIZE))
    command = [sys.executable, "-m", "mambalab.bench.against_transformers", *sizes]
    surroundings = dict(os.environ)
    if surroundings.get("GOMP_SPINCOUNT") == GOMP_SPINCOUNT:
        del surroundings["GOMP_SPINCOUNT"]
    child = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    if child.returncode:
        why = (child.stderr.strip().splitlines() or ["no message"])[-1]
        result.missing["transformers"] = f"failed with {child.returncode}: {why}"
        return
    found = json.loads(child.stdout)
    result.rows += found["rows"]
    result.notes += found["notes"]
    result.wrong |= found["wrong"]
