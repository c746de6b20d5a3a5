"""Sequences with gaps, filled in step by step by a model that sees both sides of a gap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mambalab.generation.sampling import Sampling, probabilities, usable
from mambalab.settings.generate import Order


@dataclass(frozen=True)
class Filled:
    """Sequences without gaps, and how they came about.

    Attributes:
        tokens: (n, l) int64 on the CPU.
        steps: that it took.
        stages: (s, m, l) int64 on the CPU: the first m sequences at some of the steps, from the
            gaps to the end; None if nobody asked.
        at: (s,) after how many steps each stage was.
    """

    tokens: Tensor
    steps: int
    stages: Tensor | None = None
    at: tuple[int, ...] = ()


@torch.inference_mode()
def fill(
    model: Any,
    sequences: Tensor,
    *,
    mask: int,
    steps: int,
    order: Order = Order.random,
    rules: Sampling,
    seed: int,
    batch: int,
    stages: int = 0,
    shown: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Filled:
    """Fill in every gap of sequences; what is given stays as it is.

    In each step the model reads a sequence with its gaps, and about m / steps of the m positions
    that were gaps at first are filled, each with a draw from its own prediction. One position a
    step, in random order, draws exactly from the distribution that the model's predictions make up;
    several in a step are drawn as if they did not depend on each other. With `order=confidence`
    a token is drawn for every gap, and those stay that the model gives the highest probability (the
    low-confidence remasking of arXiv 2502.09992): likelier sequences, less varied ones.

    Sequence i gets what it would get alone with seed `seed + i`, whatever `batch` is. The model
    must be in evaluation mode.

    Args:
        model: maps tokens (b, l) to logits (b, l, v).
        sequences: (n, l) int64 on the model's device.
        mask: token of a gap.
        steps: at least 1; more than the gaps of a sequence are as many as these.
        order: which gaps are filled first.
        rules: how a token is chosen; `allowed` leaves out the mask.
        seed: of the first sequence.
        batch: sequences at the same time, at most; they are shared out evenly.
        stages: how many to keep, 2 at least; 0 = none.
        shown: of how many sequences; None = of all.
        on_step: called after each step of a batch; may raise, to stop.

    Raises:
        NonFiniteLogitsError: the model's output is no distribution.
    """
    assert rules.allowed is not None, "a mask is never filled in"
    most = int((sequences == mask).sum(1).max())
    steps = min(steps, most)
    at = tuple(sorted({round(i * steps / (stages - 1)) for i in range(stages)})) if stages else ()
    found: list[Tensor] = []
    kept: list[Tensor] = []
    begun = 0
    for part in sequences.tensor_split(-(-len(sequences) // batch)):
        gaps = _Gaps(part, mask, order, rules, seed + begun)
        kept_rows = len(part) if shown is None else max(0, min(shown - begun, len(part)))
        seen = [part[:kept_rows].cpu()] if stages else []
        for step in range(steps):
            gaps.fill(model, step, steps)
            if step + 1 in at:
                seen.append(gaps.rows[:kept_rows].cpu())
            if on_step is not None:
                on_step()
        found.append(gaps.rows.cpu())
        if stages:
            kept.append(torch.stack(seen))
        begun += len(part)
    return Filled(torch.cat(found), steps, torch.cat(kept, dim=1) if kept else None, at)


class _Gaps:
    """Sequences whose gaps are being filled.

    Attributes:
        rows: (b, l) int64 as they are now, on the model's device.
    """

    def __init__(
        self, sequences: Tensor, mask: int, order: Order, rules: Sampling, seed: int
    ) -> None:
        self.rows = sequences.clone()
        self.mask, self.rules, self.order = mask, rules, order
        self.draws = [
            torch.Generator().manual_seed((seed + b) % 2**63) for b in range(len(self.rows))
        ]
        self.places: list[Tensor] = []  # of the gaps at first, with random order as they are filled
        for row, draw in zip((self.rows == mask).cpu(), self.draws, strict=True):
            places = row.nonzero()[:, 0]
            if order is Order.random:
                places = places[torch.randperm(len(places), generator=draw)]
            self.places.append(places)

    def fill(self, model: Any, step: int, steps: int) -> None:
        """Do step `step` of `steps`."""
        every = usable(model(self.rows), self.rules)
        now = self.rows.cpu().clone()
        for b, places in enumerate(self.places):
            first, last = (len(places) * n // steps for n in (step, step + 1))
            if first == last:
                continue
            if self.order is Order.random:
                chosen = places[first:last]
                now[b, chosen] = self._drawn(every[b, chosen], b)
            else:
                open_ones = places[now[b, places] == self.mask]
                scores = every[b, open_ones]
                tokens = self._drawn(scores, b)
                sure = scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
                best = sure.argsort(descending=True, stable=True)[: last - first]
                now[b, open_ones[best]] = tokens[best]
        self.rows = now.to(self.rows.device)

    def _drawn(self, scores: Tensor, b: int) -> Tensor:
        """Tokens (m,) int64 for logits (m, v)."""
        if self.rules.greedy:
            return scores.argmax(-1)
        weights = probabilities(scores, self.rules)
        return torch.multinomial(weights, 1, generator=self.draws[b])[:, 0]
