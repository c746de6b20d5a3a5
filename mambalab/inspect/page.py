"""The page: a template beside this file, filled with one JSON document; it asks for nothing else.

Large arrays are quantised to a byte an entry and written in base64: {"b64", "shape", "low", "high",
"scale"}, where byte b means low + (high - low) b / 255, of logarithms if `scale` is "log" and of
square roots if it is "sqrt".
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from mambalab.errors import UserError
from mambalab.inspect import measures
from mambalab.inspect.sequence import InspectedSequence, visible
from mambalab.inspect.trace import AttentionTrace, LayerTrace, ScanTrace
from mambalab.utils.files import replacing

_MAX_ARRAY_BYTES = 3_400_000  # bytes of quantised arrays in a page, before base64
_FOLDER = Path(__file__).parent


def write(sequence: InspectedSequence, layers: list[LayerTrace], target: Path) -> Path:
    """Write the page; returns its path.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        with replacing(target) as partial:
            partial.write_text(render(sequence, layers), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return target


def render(sequence: InspectedSequence, layers: list[LayerTrace]) -> str:
    """The page as HTML. Text of the user's or of the run is in its JSON only, where `<` is
    written as an escape, and in the title, escaped."""
    template = (_FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(sequence.title),
        "STYLE": (_FOLDER / "page.css").read_text(encoding="utf-8"),
        "PROGRAM": "\n".join(
            (_FOLDER / name).read_text(encoding="utf-8")
            for name in ("draw.js", "panels.js", "page.js")
        ),
        "DATA": _script_json(content(sequence, layers)),
    }
    before, *pieces = template.split("{{")
    for piece in pieces:  # one pass: what was put in is not looked at again
        name, after = piece.split("}}", 1)
        before += parts[name] + after
    return before


def content(sequence: InspectedSequence, layers: list[LayerTrace]) -> dict[str, Any]:
    """Everything that the page shows, as JSON."""
    share = _MAX_ARRAY_BYTES // len(layers)
    found: dict[str, Any] = {
        "title": sequence.title,
        "facts": sequence.facts,
        "text": sequence.text,
        "labels": sequence.labels,
        "loss": None if sequence.loss is None else _floats(sequence.loss),
        "guesses": sequence.guesses,
        "hidden": sequence.hidden,
        "second": sequence.second,
        "long": measures.LONG_MEMORY_STEPS,
        "layers": [
            _scan(layer, sequence, share)
            if isinstance(layer, ScanTrace)
            else _attention(layer, sequence, share)
            for layer in layers
        ],
    }
    if sequence.image is not None and sequence.layout is not None:
        found["image"] = {
            "shape": sequence.image.shape,
            "b64": _base64(sequence.image),
            "steps": sequence.layout.reshape(-1).tolist(),
        }
    return found


def _scan(trace: ScanTrace, sequence: InspectedSequence, budget: int) -> dict[str, Any]:
    """What is shown of a Mamba layer; of its channels those that vary most, if not all fit."""
    logs = np.log(np.maximum(trace.delta, 1e-12))
    order = np.argsort(-logs.std(0), kind="stable")[: max(1, budget // len(logs))]
    summary = measures.summarise(trace, sequence)
    lengths = measures.memory(trace)
    return {
        "kind": "mamba",
        "name": trace.name,
        "channels": order.tolist(),
        "channels_of": trace.delta.shape[1],
        "channel_memory": _floats(lengths.max(1)[order]),
        "channel_delta": quantise(np.ascontiguousarray(trace.delta[:, order].T), "log"),
        "delta": _floats(trace.delta.mean(1)),
        "memory": _floats(measures.memory_by_step(trace)),
        "retention": _floats(measures.retention(trace)),
        "norm": _floats(measures.norm_by_step(trace)),
        "lengths": _floats(np.sort(lengths.max(1))),
        "A_log_shift": quantise(trace.A_log_shift, around_zero=True),
        "A_log_shift_quantiles": [
            _floats(row)
            for row in np.quantile(trace.A_log_shift, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        ],
        "median": summary.median,
        "shares": summary.shares,
        "A_log_shift_median": summary.A_log_shift,
        "highest": _frequent(summary.highest),
        "lowest": _frequent(summary.lowest),
    }


def _attention(trace: AttentionTrace, sequence: InspectedSequence, budget: int) -> dict[str, Any]:
    """What is shown of an attention layer; only the mean of its heads if not all fit."""
    weights = trace.weights
    whole = weights.size <= budget
    received = measures.attention_received(trace, sequence)
    return {
        "kind": "attention",
        "name": trace.name,
        "heads": len(weights),
        "all_heads": whole,
        "distance": _floats(measures.distance(trace)),
        "attention_received": _floats(
            received.total / np.maximum(received.expected_by_distance, 1e-12)
        ),
        "highest": _frequent(received.highest),
        "lowest": _frequent(received.lowest),
        "weights": quantise(weights if whole else weights.mean(0, keepdims=True), "sqrt"),
    }


def _frequent(found: list[measures.Frequent]) -> list[list[Any]]:
    return [[visible(one.label), float(f"{one.mean:.4g}"), one.count] for one in found]


def quantise(
    values: np.ndarray, scale: str = "linear", *, around_zero: bool = False
) -> dict[str, Any]:
    """An array as bytes; see the module's docstring. `around_zero` makes its range symmetric."""
    found = values
    if scale != "linear":
        found = np.log(np.maximum(values, 1e-12)) if scale == "log" else np.sqrt(values)
    low, high = float(found.min()), float(found.max())
    if around_zero:
        high = max(abs(low), abs(high))
        low = -high
    scaled = (found - low) * (255 / (high - low) if high > low else 0.0)
    packed = np.rint(scaled).astype(np.uint8)
    return {"b64": _base64(packed), "shape": values.shape, "low": low, "high": high, "scale": scale}


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _floats(values: np.ndarray) -> list[float | None]:
    """Four digits each; None where there is no number."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values.tolist()]


def _script_json(data: dict[str, Any]) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
