"""Generation: prefill, decode one token, choose; and the loop over them."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mambalab.generation.cpu_decode import fused
from mambalab.generation.graph_decode import recorded
from mambalab.generation.sampling import Sampler, Sampling
from mambalab.models.state import ModelState


class Generator(Protocol):
    """Model that can continue from a state, such as `mambalab.models.heads.LanguageModel`."""

    context_limit: int | None

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State before the first token of `batch_size` sequences."""
        ...

    def __call__(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """Map tokens (b, l) int64 to logits (b, l, v); update `state` in place."""
        ...


def obstacle(model: Any) -> str | None:
    """Say what a model lacks for generation, in one clause; None if it can generate."""
    lacking = [name for name in ("initial_state", "context_limit") if not hasattr(model, name)]
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "state" or p.kind is p.VAR_KEYWORD for p in parameters):
        lacking.append("an argument `state` of forward")
    return f"lacks {' and '.join(lacking)}" if lacking else None


def prefill(model: Generator, prompt: Tensor, max_len: int) -> tuple[Tensor, ModelState]:
    """Read prompts (b, l) at once; return the logits (b, v) of the next tokens and the state."""
    state = model.initial_state(prompt.shape[0], max_len)
    return last_logits(model, prompt, state), state


def decode_one(model: Generator, tokens: Tensor, state: ModelState) -> Tensor:
    """Read one token a sequence (b,), update the state in place; return logits (b, v)."""
    return last_logits(model, tokens[:, None], state)


def stepper(model: Generator, state: ModelState, batch: int) -> Callable[[Tensor], Tensor]:
    """Return `decode_one` bound to `state`, fused or recorded where machine and model allow it.

    The function maps tokens (b,) to logits (b, v) and updates `state`. It uses the weights as they
    are now: make a new one after they change.
    """
    quick = fused(model, state, batch) or recorded(model, state, batch)
    return quick or (lambda tokens: decode_one(model, tokens, state))


def last_logits(model: Any, tokens: Tensor, state: ModelState) -> Tensor:
    """Map tokens (b, l) to the logits (b, v) of the token after the last one."""
    if hasattr(model, "last_logits"):  # spares the others a product with the vocabulary
        return model.last_logits(tokens, state)
    return model(tokens, state=state)[:, -1]


@torch.inference_mode()
def generate(
    model: Generator,
    prompts: Sequence[Tensor],
    *,
    max_new_tokens: int,
    rules: Sampling,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yield one new token a sequence, (b,) int64, `max_new_tokens` times.

    Prompts may differ in length; every sequence gets what it would get alone with seed
    `seed + i`. A Mamba model carries a state of fixed size. A model with attention carries a
    key-value cache of at most `context_limit` positions; when a sequence fills it, the latest half
    of its context is read again and it goes on from there. The model must be in evaluation mode.

    Args:
        model: the model.
        prompts: (l_i,) int64 tokens, l_i >= 1, on the model's device; or a tensor (b, l).
        max_new_tokens: number of tokens to add.
        rules: how a token is chosen.
        seed: of the first sequence's draws.
    """
    batch = _Batch(model, list(prompts), max_new_tokens)
    choose = Sampler(rules, list(prompts), batch.logits.shape[-1], seed)
    for index in range(max_new_tokens):
        tokens = choose(batch.logits)
        yield tokens
        if index < max_new_tokens - 1:
            batch.advance(tokens)


class _Batch:
    """Batch of growing sequences: their state, and the logits (b, v) of their next tokens."""

    def __init__(self, model: Generator, prompts: list[Tensor], max_new_tokens: int) -> None:
        self.model = model
        self.limit = model.context_limit
        longest = max(len(prompt) for prompt in prompts)
        self.room = longest + max_new_tokens
        if self.limit is not None:
            self.room = min(self.room, self.limit)
        self.contexts = [prompt[-self.room :] for prompt in prompts]
        self.filled = [len(context) for context in self.contexts]
        self.logits, self.state = self._read(self.contexts)
        self.step = stepper(model, self.state, len(prompts))

    def advance(self, tokens: Tensor) -> None:
        """Read one more token of each sequence, (b,); re-read contexts whose cache is full."""
        full: list[int] = []
        if self.limit is not None:
            for b, token in enumerate(tokens):
                self.contexts[b] = torch.cat((self.contexts[b], token[None]))[-self.room :]
            full = [b for b, filled in enumerate(self.filled) if filled == self.room]
        if len(full) < len(tokens):
            for b in full:  # its place is overwritten below
                self.state.rewind(b, self.room - 1)
            self.logits = self.step(tokens)
            self.filled = [filled + 1 for filled in self.filled]
        for b in full:
            self.contexts[b] = self.contexts[b][-max(1, self.room // 2) :]
            logits, state = prefill(self.model, self.contexts[b][None], self.room)
            self.state.put(b, state)
            self.logits[b] = logits[0]
            self.filled[b] = len(self.contexts[b])

    def _read(self, contexts: list[Tensor]) -> tuple[Tensor, ModelState]:
        """Prefill sequences of equal length together; return joint logits (b, v) and state."""
        groups: dict[int, list[int]] = defaultdict(list)
        for b, context in enumerate(contexts):
            groups[len(context)].append(b)
        parts = [
            (rows, *prefill(self.model, torch.stack([contexts[b] for b in rows]), self.room))
            for rows in groups.values()
        ]
        if len(parts) == 1:
            return parts[0][1].clone(), parts[0][2]
        first = parts[0][1]
        logits = first.new_empty(len(contexts), first.shape[-1])
        state = self.model.initial_state(len(contexts), self.room)
        for rows, found, part in parts:
            logits[rows] = found
            for source, b in enumerate(rows):
                state.put(b, part, source)
        return logits, state
