"""Small traces, made up."""

import numpy as np

from mambalab.inspect.sequence import InspectedSequence
from mambalab.inspect.trace import AttentionTrace, ScanTrace


def scan(steps: int = 6, channels: int = 4, states: int = 3, layer: int = 1) -> ScanTrace:
    random = np.random.default_rng(layer)
    delta = random.uniform(0.01, 2.0, (steps, channels)).astype(np.float32)
    A = -np.tile(np.arange(1.0, states + 1, dtype=np.float32), (channels, 1))
    shift = random.normal(0, 0.1, (channels, states)).astype(np.float32)
    return ScanTrace(layer, False, delta, A, shift, delta * 2)


def attention(steps: int = 6, heads: int = 2, layer: int = 2) -> AttentionTrace:
    weights = np.random.default_rng(layer).uniform(0, 1, (heads, steps, steps))
    weights = np.tril(weights.astype(np.float32))
    return AttentionTrace(layer, weights / weights.sum(-1, keepdims=True))


def text(characters: str) -> InspectedSequence:
    loss = np.linspace(0, 3, len(characters))
    loss[0] = np.nan
    return InspectedSequence(
        "some text",
        [("run", "a run")],
        list(characters),
        text=True,
        loss=loss,
        guesses=["", *characters[1:]],
    )
