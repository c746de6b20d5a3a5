"""How fast memory is read: the bound of steps that read much and compute little."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mambalab.models.heads import LanguageModel
from mambalab.models.state import AttentionState, MambaState, ModelState

MEMORY_BYTES = 1 << 28
"""What is read to measure memory: more than a processor's caches hold."""

_ROW_VALUES = 1024


def readers(size: int, device: torch.device, times: int = 1) -> dict[str, Callable[[], object]]:
    """Functions that read `size` bytes, at least 4 KiB, `times` times, on torch's threads.

    By sums, and by rows: at times the one is faster, at times the other.
    """
    values = max(size // 4, _ROW_VALUES)
    memory = torch.ones(values, device=device)  # written: it is there
    matrix = memory[: values // _ROW_VALUES * _ROW_VALUES].view(-1, _ROW_VALUES)
    rows = partial(torch.mv, matrix, memory[:_ROW_VALUES])
    return {"reading": partial(_again, memory.sum, times), "rows": partial(_again, rows, times)}


def _again(read: Callable[[], Tensor], times: int) -> None:
    for _ in range(times):
        read()


def bytes_of_weights(model: LanguageModel) -> int:
    """What a step reads of a model: all weights, but of the embedding only what the head shares."""
    embedding = model.backbone.embedding.weight
    kept = [p for p in model.parameters() if p is not embedding or p is model.lm_head.weight]
    return sum(p.nbytes for p in kept)


def bytes_of_state(state: ModelState, context: int) -> int:
    """What a step reads of a state behind `context` tokens: of a cache only what is filled."""
    total = 0
    for layer in state.layers:
        if isinstance(layer, MambaState):
            total += layer.conv.nbytes + layer.ssm.nbytes
        elif isinstance(layer, AttentionState):
            total += layer.key[:, :, :context].nbytes + layer.value[:, :, :context].nbytes
    return total
