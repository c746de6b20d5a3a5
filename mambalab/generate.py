"""Generation in three functions: prefill, decode one, sample; and the loop that joins them."""

import inspect
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from mambalab.models.state import ModelState


class Generator(Protocol):
    """A model that can go on from a state: `mambalab.models.heads.LanguageModel`."""

    context_limit: int | None

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State before the first token."""
        ...

    def __call__(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """(B, L) tokens to (B, L, V) logits."""
        ...


def obstacle(model: Any) -> str | None:
    """Why a model cannot generate, a clause about it, or None: a user's own may lack something."""
    lacking = [name for name in ("initial_state", "context_limit") if not hasattr(model, name)]
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "state" or p.kind is p.VAR_KEYWORD for p in parameters):
        lacking.append("an argument `state` of forward")
    return f"lacks {' and '.join(lacking)}" if lacking else None


def prefill(model: Generator, prompt: Tensor, max_len: int) -> tuple[Tensor, ModelState]:
    """Read a whole prompt (B, L) at once; returns logits (B, V) of the next token and the state."""
    state = model.initial_state(prompt.shape[0], max_len)
    return model(prompt, state=state)[:, -1], state


def decode_one(model: Generator, tokens: Tensor, state: ModelState) -> Tensor:
    """Read one token a sequence (B,), update the state in place; logits (B, V) of the next."""
    return model(tokens[:, None], state=state)[:, -1]


def sample(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Tensor:
    """Draw one token a sequence.

    Args:
        logits: (B, V).
        temperature: 0 takes the likeliest token; lower is safer, higher is wilder.
        top_k: only the k likeliest tokens stay; None for all.
        top_p: only the smallest set of likeliest tokens whose probability reaches top_p stays
            (arXiv 1904.09751); None for all.
        generator: a CPU generator; the same seed gives the same tokens on any device.

    Returns:
        (B,) int64 on the logits' device.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scores = logits.detach().float().cpu() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        smallest = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    probabilities = scores.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)


@torch.inference_mode()
def generate(
    model: Generator,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yield one new token a sequence, (B,) int64, `max_new_tokens` times.

    A Mamba model carries a state of fixed size. A model with attention carries a key-value cache
    of `context_limit` positions; when it is full, the latest half of the context is read again
    and generation goes on from there. The model must be in evaluation mode.

    Args:
        model: the model.
        prompt: (B, L) int64 tokens, L >= 1.
        max_new_tokens: how many tokens to add.
        temperature, top_k, top_p: see `sample`.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    limit = model.context_limit
    room = prompt.shape[1] + max_new_tokens
    if limit is not None:
        room = min(room, limit)
    context = prompt
    logits, state = prefill(model, context[:, -room:], room)
    filled = min(context.shape[1], room)
    for index in range(max_new_tokens):
        tokens = sample(
            logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
        )
        yield tokens
        if index == max_new_tokens - 1:
            return
        if limit is not None:
            context = torch.cat((context, tokens[:, None]), dim=1)[:, -room:]
        if limit is not None and filled == room:
            context = context[:, -max(1, room // 2) :]
            logits, state = prefill(model, context, room)
            filled = context.shape[1]
        else:
            logits = decode_one(model, tokens, state)
            filled += 1
