"""Sequences of one length from a language model, batch after batch, as pictures need them."""

from collections.abc import Callable

import torch
from torch import Tensor

from mambalab.generation.decoding import Generator, generate
from mambalab.generation.sampling import Sampling


def complete(
    model: Generator,
    prompts: Tensor,
    count: int,
    *,
    rules: Sampling,
    seed: int,
    batch: int,
    on_token: Callable[[], None] | None = None,
) -> Tensor:
    """Continue sequences by `count` tokens each.

    Sequence i gets what it would get alone with seed `seed + i`, whatever `batch` is. The model
    must be in evaluation mode; on a CPU its layers run fused (`cpu_decode`).

    Args:
        model: the model.
        prompts: (n, l) int64, n and l >= 1, on the model's device.
        count: tokens to add, >= 1.
        rules: how a token is chosen.
        seed: of the first sequence.
        batch: sequences at the same time, at most; they are shared out evenly.
        on_token: called after each token of a batch; may raise, to stop.

    Returns:
        (n, count) int64 on the CPU.
    """
    parts = -(-len(prompts) // batch)
    found: list[Tensor] = []
    begun = 0
    for part in prompts.tensor_split(parts):
        steps: list[Tensor] = []
        for tokens in generate(
            model, list(part), max_new_tokens=count, rules=rules, seed=seed + begun
        ):
            steps.append(tokens.cpu())
            if on_token is not None:
                on_token()
        found.append(torch.stack(steps, dim=1))
        begun += len(part)
    return torch.cat(found)
